"""Scripts that are broken on purpose: the test of the test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.tokens.session_machine import texts

ENDED_OR_MARKED = "if s.created <= mark or s.ended ~= 0 then return 'revoked' end"
OVER = "if now >= s.absolute or now >= s.idle then return 'expired' end"
REFUSE_DEAD = "if state ~= 'live' then"


@dataclass(frozen=True)
class Mutant:
    """One script with one mistake: each text that is found exactly once is replaced."""

    name: str
    script: str
    edits: tuple[tuple[str, str], ...]
    of: Callable[[], Mapping[str, str]] = texts

    def texts(self) -> dict[str, str]:
        scripts = {**self.of()}
        for find, put in self.edits:
            assert scripts[self.script].count(find) == 1, f"{self.name}: the script does not say {find!r} once"
            assert find != put
            scripts[self.script] = scripts[self.script].replace(find, put)
        return scripts


def mutant(name: str, script: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, script, edits)
