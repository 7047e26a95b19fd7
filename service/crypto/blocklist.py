"""The passwords nobody may choose: the common, the patterned, and the service's or the person's own names.

NIST SP 800-63B-4 section 3.1.1.2 compares the *whole* password with the list, so a listed word inside a long
phrase is accepted; what an attacker tries first, in the usual spellings, is not (ASVS 6.2.4, 6.2.11).

Where the data comes from: the 30,000 most common passwords of leaks are those of the `zxcvbn` package; they are
short, people who are asked for 15 characters make longer ones of the same stuff. So the lists in `blocklist/`,
written by hand for this service (licence: `blocklist.NOTICE`), hold such stuff, and `_bundled` makes the rest,
always alike: each word of `words.txt` alone, doubled, tripled and with each of `_TAILS`, Russian words in both
keyboard layouts. Beyond the list, four rules refuse what asking for 15 characters brings out:

* one unit repeated, when the unit is under 8 characters or itself refused (`abcabcabcabcabc`);
* a listed word of 6 letters or more, or a context or personal word, amid digits or signs (`Password!!!!!`);
* up to two listed words, or one among joiners and keyboard runs (`ilovejennifer4ever`, `dragon123456qwerty`);
* nothing but long straight runs of the alphabet, the digits or the keyboard (`qwertyuiop123456789`).

A deployment that may ship a ranked corpus lays it beside ours as `blocklist/passwords-<name>.txt`.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from string import digits

from zxcvbn.frequency_lists import FREQUENCY_LISTS

CONTEXT_WORDS = Path(__file__).with_name("context-words.txt")

_DATA = Path(__file__).with_name("blocklist")
_LEET = str.maketrans("013457@$!l", "oieastasii")  # 1 and ! stand for i and for l: all four become i
_GAPS = str.maketrans("", "", " .-_")
_JCUKEN = str.maketrans("йцукенгшщзхъфывапролджэячсмитьбю", "qwertyuiop[]asdfghjkl;'zxcvbnm,.")
_NO_LETTERS = re.compile(r"[\W\d_]+")
_TAILS = ("1", "123", "123456", "1234567890")

_SHORTEST_NAME = 3  # a context or personal word below this would refuse by accident
_SHORTEST_PADDED = 6
_SHORTEST_RUN = 3
_LONG_RUN = 6
_SHORT_UNIT = 8
_LONGEST_PATTERN = 64  # nobody types a guessable pattern longer than this; it also bounds the work per call

# What each piece costs the attacker's search; four points are within reach of an offline guesser.
_AFFORDABLE = 4
_WORD, _SHORT_RUN, _JOINER, _RUN, _FEW_DIGITS = 2, 2, 1, 1, 1
_YEAR = 4


@dataclass(frozen=True, slots=True)
class _Bundled:
    entries: frozenset[str]
    words: frozenset[str]
    joiners: frozenset[str]
    walks: str


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Knows which passwords an attacker would try first. Holds no password it was asked about."""

    bundled: _Bundled
    context: frozenset[str]

    @classmethod
    def load(cls, context: Iterable[str] = ()) -> "Blocklist":
        """`context`: the operator's product, organisation and domain names, beside `context-words.txt`."""
        return cls(_bundled(), _names([*_lines(CONTEXT_WORDS), *context]))

    def refuses(self, password: str, own: Iterable[str] = ()) -> bool:
        """`own`: the person's e-mail local part, domain and nickname. Costs under 5 ms for 4,096 bytes."""
        return self._is_weak(_plain(password), self.context | _names(own))

    def longer_than(self, length: int) -> int:
        """How many bundled entries have `length` code points or more (PW-05)."""
        return sum(len(entry) >= length for entry in self.bundled.entries)

    def _is_weak(self, text: str, names: frozenset[str]) -> bool:
        folded = _fold(text)
        return (
            self._is_listed(folded, names)
            or self._is_padded(text, folded, names)
            or self._is_repeated(text, names)
            or self._is_pieced_together(text, folded, names)
        )

    def _is_listed(self, folded: str, names: frozenset[str]) -> bool:
        spellings = {folded, folded.translate(_GAPS)}
        return not spellings.isdisjoint(self.bundled.entries) or not spellings.isdisjoint(names)

    def _is_padded(self, text: str, folded: str, names: frozenset[str]) -> bool:
        """One word holds all the letters. Its edges may be leet (`@dm1n`), so each possible edge is tried."""
        first = next((at for at, char in enumerate(text) if char.isalpha()), None)
        if first is None:
            return False
        last = next(at for at in range(len(text), 0, -1) if text[at - 1].isalpha())
        return any(
            self._stands_alone(folded[start:end], names)
            for start in range(max(0, last - _LONGEST_PATTERN), first + 1)
            for end in range(last, min(len(folded), start + _LONGEST_PATTERN) + 1)
        )

    def _stands_alone(self, core: str, names: frozenset[str]) -> bool:
        if core in names or core.translate(_GAPS) in names:
            return True
        return len(core) >= _SHORTEST_PADDED and core in self.bundled.words

    def _is_repeated(self, text: str, names: frozenset[str]) -> bool:
        """`text[size:] == text[:-size]` means `text` has the period `size`, cut last repetition included."""
        for size in range(1, min(len(text) // 2, _LONGEST_PATTERN) + 1):
            if text[size:] == text[:-size]:
                return size < _SHORT_UNIT or self._is_weak(text[:size], names)
        return False

    def _is_pieced_together(self, text: str, folded: str, names: frozenset[str]) -> bool:
        """The cheapest way to spell all of `text` in pieces, one separator allowed after each."""
        if len(text) > _LONGEST_PATTERN:
            return False
        costs = [0] + [_AFFORDABLE + 1] * len(text)
        for start in range(len(text)):
            if costs[start] >= _AFFORDABLE:
                continue
            for end, price in self._pieces(text, folded, start, names):
                costs[end] = min(costs[end], costs[start] + price)
                if end < len(text) and not text[end].isalnum():
                    costs[end + 1] = min(costs[end + 1], costs[end])
        return costs[-1] <= _AFFORDABLE

    def _pieces(self, text: str, folded: str, start: int, names: frozenset[str]) -> Iterator[tuple[int, int]]:
        yield from self._words_from(folded, start, names)
        yield from self._runs_from(text, start)
        if any(map(str.isalpha, text)):  # without letters it is a number, and digits are all it has
            yield from _few_digits_from(text, start)

    def _words_from(self, folded: str, start: int, names: frozenset[str]) -> Iterator[tuple[int, int]]:
        for end in range(start + 1, len(folded) + 1):
            piece = folded[start:end]
            if piece in self.bundled.joiners:
                yield end, _JOINER
            elif piece in self.bundled.words or piece in names:
                yield end, _WORD

    def _runs_from(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        for end in range(start + _SHORTEST_RUN, len(text) + 1):
            run = text[start:end]
            if run not in self.bundled.walks and run.strip(run[0]):
                return
            yield end, _RUN if len(run) >= _LONG_RUN else _SHORT_RUN


def _few_digits_from(text: str, start: int) -> Iterator[tuple[int, int]]:
    """A year, a birthday, a 1 to please a form."""
    for end in range(start + 1, min(start + _YEAR, len(text)) + 1):
        if not text[start:end].isdigit():
            return
        yield end, _FEW_DIGITS


@cache
def _bundled() -> _Bundled:
    typed = {_plain(word) for word in _words(_DATA / "words.txt")}
    words = frozenset(map(_fold, typed | set(map(_other_layout, typed))))
    ours = (line for path in _DATA.glob("passwords*.txt") for line in _lines(path))
    whole = {_fold(_plain(password)) for password in chain(FREQUENCY_LISTS["passwords"], ours)}
    tails = [_fold("x" + tail)[1:] for tail in _TAILS]
    made = {spelled for word in words for spelled in (word, word * 2, word * 3, *(word + end for end in tails))}
    walks = list(_lines(_DATA / "walks.txt"))
    return _Bundled(
        entries=frozenset(whole | made),
        words=frozenset(word for word in words if len(word) >= _SHORTEST_NAME),
        joiners=frozenset(_fold(word) for word in _words(_DATA / "joiners.txt")),
        walks="\n".join([*walks, *(walk[::-1] for walk in walks)]),
    )


def _other_layout(word: str) -> str:
    """What a Russian word becomes when the keyboard was left in Latin layout, a favourite disguise."""
    return word.translate(_JCUKEN)


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            yield line


def _words(path: Path) -> Iterator[str]:
    for line in _lines(path):
        yield from line.split()


def _names(given: Iterable[str]) -> frozenset[str]:
    """Each name and what it is made of: `ann.lee85` is also `annlee85`, `ann.lee`, `annlee`, `ann`, `lee`."""
    spellings: set[str] = set()
    for name in map(_plain, given):
        parts = _NO_LETTERS.split(name)
        whole = (name, name.translate(_GAPS), name.strip(digits), "".join(parts))
        spellings.update(map(_fold, (*whole, *parts)))
    return frozenset(spelling for spelling in spellings if len(spelling) >= _SHORTEST_NAME)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _fold(text: str) -> str:
    """Undoes leet. A text without letters stays: `1337 4455` is a number, not a word."""
    return text.translate(_LEET) if any(map(str.isalpha, text)) else text
