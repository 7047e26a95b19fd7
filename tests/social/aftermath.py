"""What there is to be seen after a sign-in through a provider has failed: nobody, and nothing of what it said."""

import base64
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import func, select
from structlog.testing import capture_logs

from service.accounts.identities import Identity
from service.accounts.models import Account
from service.settings import Settings
from service.wiring import Services
from tests.conftest import CLIENT_ABROAD
from tests.social.acting import REFRESH_COOKIE, Stranger

FOREIGN_WORDS = (
    *("<script", "alert(", "Maintenance", "Something broke", "As it was chosen", "Bad credentials", "Unauthorized"),
    *("fpc_", "fpa_", "fpr_", "eyJ", "vss_", "vsb_", "elsewhere"),
)
"""What is in a provider's bodies and descriptions, how its codes and tokens begin, and those of ours that it sees."""
NONCE = re.compile(r"""nonce(-|=")[\w-]+""")
"""Of a page: it is random, and may hold any of these words."""


@dataclass
class Witness:
    """Whoever looks at the stores, the answer and the log."""

    services: Services
    settings: Settings
    caplog: pytest.LogCaptureFixture
    events: list[Any] = field(default_factory=list)
    others: list[logging.LogRecord] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keeps what is logged meanwhile; of the libraries what a production log has (`logs.configure`)."""
        merging = [structlog.contextvars.merge_contextvars]
        with self.caplog.at_level(logging.WARNING), capture_logs(processors=merging) as self.events:
            yield
        self.others = list(self.caplog.records)

    @property
    def log(self) -> str:
        """As an operator would read it, with the tracebacks."""
        errors = [event["exc_info"] for event in self.events if isinstance(event.get("exc_info"), BaseException)]
        told = ["".join(traceback.format_exception(error)) for error in errors]
        return "\n".join([*map(str, self.events), *told, *(record.getMessage() for record in self.others)])

    def ensure_silent(self, answer: httpx.Response, outcomes: tuple[str, ...], *secrets: str) -> None:
        """The trail says how it ended. Nothing of what the provider said, or must not know, is in log or answer."""
        secret = str(self.settings.providers["openid"].client_secret)
        basic = base64.b64encode(f"{CLIENT_ABROAD}:{secret}".encode()).decode()
        told = f"{NONCE.sub('', f'{answer.headers} {answer.text}')} {self.log}"
        assert [word for word in (*FOREIGN_WORDS, secret, basic, *secrets) if word in told] == []
        assert [event["outcome"] for event in self.events if event["event"] == "login.social"] == list(outcomes)
        assert [event for event in self.events if event["event"] == "a request crashed"] == []

    async def ensure_nobody_came(self, who: Stranger) -> None:
        """There is neither an account nor an identity, and so no session either."""
        async with self.services.database.begin() as transaction:
            accounts = select(func.count()).select_from(Account).where(Account.email == who.email)
            identities = select(func.count()).select_from(Identity).where(Identity.subject == who.subject)
            assert (await transaction.scalar(accounts), await transaction.scalar(identities)) == (0, 0)


def ensure_no_session(answer: httpx.Response) -> None:
    """No cookie is set or taken away."""
    assert REFRESH_COOKIE not in answer.cookies
    assert "set-cookie" not in answer.headers
