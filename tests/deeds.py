"""What people do once they have an account, for the tests of more than one room."""

import re
from typing import Any
from uuid import UUID

import httpx
from litestar import Litestar
from sqlalchemy import select

from service.accounts.models import Account
from service.mail.message import Mail
from service.tokens.client_administration import ClientChanges
from service.wiring import Services
from tests.conftest import ISSUER, PASSWORD, Outbox, Person, browser, new_address, somebody

WRONG = "wind over the noisy harbour"
OTHER = "snow under the distant mountain"
"""A password for whoever changes theirs."""
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
COOKIE_HEADERS = {"X-Vestibule-CSRF": "1", "Origin": ISSUER}
DEVICE_COOKIE = "__Host-vestibule-device"


async def registered(services: Services, client_id: str, *, confidential: bool = True, **values: Any) -> str:
    """A client; its secret, empty for one that has none."""
    changes = ClientChanges(**{"may_introspect": confidential, **values})
    _, made = await services.client_administration.register(client_id, changes, confidential=confidential)
    return made.secret if made else ""


async def with_account(services: Services, roles: tuple[str, ...] = (), person: Person | None = None) -> Person:
    """Somebody with an account that an operator made: no device of theirs is known."""
    person = person or somebody()
    await services.administration.create(person.email, person.nickname, person.password, roles)
    return person


async def sign_in(http: httpx.AsyncClient, person: Person, **other: object) -> httpx.Response:
    """One sign-in by address."""
    headers = COOKIE_HEADERS if other.get("transport") == "cookie" else {}
    return await http.post("/auth/login", json=person.credentials(**other), headers=headers)


async def sign_in_from(app: Litestar, address: str, person: Person, password: str = WRONG) -> httpx.Response:
    """One sign-in from a network, in a browser that knows nothing; with a wrong password unless one is given."""
    async with browser(app, address) as http:
        return await sign_in(http, person, password=password)


async def guessed(app: Litestar, person: Person, times: int) -> list[int]:
    """Wrong passwords, each from a network of its own."""
    return [(await sign_in_from(app, new_address(), person)).status_code for _ in range(times)]


def bearer(answer: httpx.Response) -> dict[str, str]:
    """The header that the tokens of an answer make."""
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def session_of(app: Litestar, person: Person, password: str = PASSWORD) -> dict[str, str]:
    """The bearer header of a further session, from a network of its own."""
    return bearer(await sign_in_from(app, new_address(), person, password))


async def is_in(http: httpx.AsyncClient, headers: dict[str, str]) -> bool:
    """Whether an access token opens its account."""
    answer = await http.get("/me", headers=headers)
    assert answer.status_code in {200, 401}, answer.text
    return answer.status_code == 200


async def row_of(services: Services, person: Person) -> Account:
    """The account as it is written."""
    async with services.database.begin() as transaction:
        found = await transaction.scalar(select(Account).where(Account.email == person.email))
    assert found is not None
    return found


async def id_of(services: Services, person: Person) -> UUID:
    """The id of somebody's account."""
    return (await row_of(services, person)).id


async def letters(services: Services, outbox: Outbox, address: str, subject: str = "") -> list[Mail]:
    """What has been mailed to an address, the oldest first; only what has these words in its subject."""
    await services.mailer.drain()
    return [mail for mail in outbox.to(address) if subject in mail.subject]


async def mailed_link(services: Services, outbox: Outbox, address: str, purpose: str) -> str:
    """The token of the newest mailed link of a purpose."""
    await services.mailer.drain()
    found = [token for mail in outbox.to(address) for token in re.findall(rf"#{purpose}=(\S+)", mail.text)]
    assert found, [mail.subject for mail in outbox.to(address)]
    token: str = found[-1]
    return token


def field_codes(answer: httpx.Response) -> list[tuple[str, str]]:
    """What is wrong with which field."""
    assert answer.status_code == 400, answer.text
    return [(error["field"], error["code"]) for error in answer.json().get("errors", [])]
