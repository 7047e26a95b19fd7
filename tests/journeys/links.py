"""What the tests of mailed links share: reading a mailbox, and each step of a journey as one call."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any, cast

import httpx
from sqlalchemy import text

from service.crypto import opaque
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, begin_sign_up, somebody
from tests.deeds import letters, mailed_link, sign_in

NEW_PASSWORD = "a lamp beside the northern stairs"
LINK = re.compile(r"(\S+)#(verify|reset|email|undo)=(\S+)")
DEAD_LINK = (400, "invalid_or_expired_code")


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an answer."""
    return answer.status_code, answer.json().get("code", "") if answer.content else ""


def claims(token: str) -> dict[str, Any]:
    """What an access token says."""
    body = token.split(".")[1]
    return cast("dict[str, Any]", json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


async def links(services: Services, outbox: Outbox, address: str, purpose: str) -> list[str]:
    """The tokens of all links of a purpose that were mailed to an address, the oldest first."""
    mails = await letters(services, outbox, address)
    return [found[3] for mail in mails for found in LINK.finditer(mail.text) if found[2] == purpose]


def forged(token: str, change: Callable[[bytes], bytes] = bytes, prefix: str = "") -> str:
    """A token with another body, or of another kind, whose checksum is right: noise alone reaches no store."""
    body = opaque.decode(token[:3], token)
    assert body is not None
    return opaque.encode(prefix or token[:3], change(body))


def flipped(place: int) -> Callable[[bytes], bytes]:
    """Changes one bit of one byte."""
    return lambda body: bytes(byte ^ (number == place % len(body)) for number, byte in enumerate(body))


async def disable(services: Services, person: Person) -> None:
    """Shuts somebody out."""
    account = await services.administration.find(person.email)
    assert account is not None
    await services.administration.disable(account.id)


async def enter(http: httpx.AsyncClient, person: Person) -> dict[str, str]:
    """Signs somebody in, and answers the header that their requests have from now on."""
    answer = await sign_in(http, person)
    assert answer.status_code == 200, answer.text
    person.access_token, person.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
    person.headers = {"Authorization": f"Bearer {person.access_token}"}
    return person.headers


async def verify(http: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await http.post("/auth/verify", json=body)


async def forgot(http: httpx.AsyncClient, email: str) -> None:
    answer = await http.post("/auth/password/forgot", json={"email": email})
    assert answer.status_code == 202, answer.text


async def reset_link(http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person) -> str:
    """Asks for a link and reads it in the mailbox."""
    await forgot(http, person.email)
    return await mailed_link(services, outbox, person.email, "reset")


async def reset(http: httpx.AsyncClient, token: str, password: str = NEW_PASSWORD) -> httpx.Response:
    return await http.post("/auth/password/reset", json={"token": token, "password": password})


async def ask_for_email(http: httpx.AsyncClient, person: Person, address: str) -> httpx.Response:
    body = {"email": address, "password": person.password}
    return await http.post("/me/email", json=body, headers=person.headers)


async def email_link(http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person, address: str) -> str:
    """Asks for a change of address and reads the link in the new mailbox."""
    answer = await ask_for_email(http, person, address)
    assert answer.status_code == 202, answer.text
    return await mailed_link(services, outbox, address, "email")


async def confirm(http: httpx.AsyncClient, person: Person, token: str) -> httpx.Response:
    return await http.post("/me/email/confirm", json={"token": token}, headers=person.headers)


async def move(http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person, address: str) -> str:
    """The whole change of address, and the link that the old one gets to undo it."""
    old = person.email
    token = await email_link(http, services, outbox, person, address)
    answer = await confirm(http, person, token)
    assert answer.status_code == 204, answer.text
    person.email = address
    return await mailed_link(services, outbox, old, "undo")


async def change_password(http: httpx.AsyncClient, person: Person, new: str) -> None:
    body = {"current_password": person.password, "new_password": new}
    answer = await http.post("/me/password", json=body, headers=person.headers)
    assert answer.status_code == 204, answer.text
    person.password = new


async def refresh(http: httpx.AsyncClient, person: Person) -> httpx.Response:
    return await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})


async def is_dead(http: httpx.AsyncClient, introspector: Introspector, person: Person) -> bool:
    """Whether both tokens of somebody's session are refused; they must agree about it."""
    introspected = await introspector.ask(http, person.access_token) == {"active": False}
    assert introspected is (told(await refresh(http, person)) == (401, "session_expired"))
    return introspected


async def count(services: Services, statement: str, **values: object) -> int:
    """What a query counts."""
    async with services.database.begin() as transaction:
        return int(await transaction.scalar(text(statement), values) or 0)


async def accounts_of(services: Services, address: str) -> int:
    return await count(services, "SELECT count(*) FROM accounts WHERE email = :a", a=address)


async def signed_up(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> tuple[Person, str, str]:
    """Somebody, their handle and the token of their link."""
    person = somebody()
    handle = await begin_sign_up(http, person)
    return person, handle, await mailed_link(services, outbox, person.email, "verify")
