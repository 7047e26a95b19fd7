"""The short way of `POST /introspect` beside the whole application: never another answer, and taken when it may be."""

import base64
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from litestar.types import Receive, Scope, Send

from service import metrics
from service.oauth import callers as remembering
from service.oauth.callers import ProvedCallers
from service.settings import Settings
from service.shortcut import IntrospectionShortcut
from service.tokens.client_administration import ClientChanges
from service.wiring import Services
from tests.conftest import Introspector, Outbox
from tests.deeds import registered
from tests.tokens.forgetful import Guest, Ward, away, ward

DATABASE = 14
FORM = (b"content-type", b"application/x-www-form-urlencoded")
HOST = (b"host", b"auth.test")
OF_ITS_OWN = {b"x-request-id", b"date"}
"""Headers that are other in each answer."""

Headers = tuple[tuple[bytes, bytes], ...]


@pytest.fixture(scope="module")
async def house(
    anyio_backend: str, services: Services, settings: Settings, outbox: Outbox, introspector: Introspector
) -> AsyncIterator[Ward]:
    async with ward(settings, DATABASE, outbox, introspector) as made:
        yield made


@pytest.fixture(scope="module")
async def guest(house: Ward) -> Guest:
    return await house.guest()


@pytest.fixture
async def here(house: Ward) -> AsyncIterator[Ward]:
    yield house
    await house.clock.reset()


@dataclass(frozen=True)
class Shape:
    """A request; `TOKEN`, `DEAD` and `REFRESH` in its body become tokens. `authorization` is the caller's if None."""

    name: str
    is_short: bool
    headers: Headers = ()
    pieces: tuple[bytes, ...] = (b"token=TOKEN",)
    method: str = "POST"
    path: str = "/introspect"
    query: bytes = b""
    authorization: Headers | None = None
    base: Headers = (HOST, FORM)
    leaves: bool = False


@dataclass
class Told:
    """What was sent back."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def lasting(self) -> tuple[int, list[tuple[bytes, bytes]], object]:
        body: object = self.body
        if (b"content-type", b"application/token-introspection+jwt") in self.headers:  # a signature is never the same
            said = self.body.split(b".")[1]
            body = json.loads(base64.urlsafe_b64decode(said + b"=" * (-len(said) % 4)))["token_introspection"]
        return self.status, sorted(one for one in self.headers if one[0] not in OF_ITS_OWN), body


MANY = tuple((b"via", b"%d" % number) for number in range(40))
SHORT = (
    Shape("as most send it", True),
    Shape("with a hint", True, pieces=(b"token=TOKEN&token_type_hint=access_token",)),
    Shape("a session that has ended", True, pieces=(b"token=DEAD",)),
    Shape("a token that nobody signed", True, pieces=(b"token=eyJhbGciOiJFUzI1NiJ9.e30." + b"A" * 86,)),
    Shape("accepts anything", True, ((b"accept", b"*/*"),)),
    Shape("accepts JSON", True, ((b"accept", b"application/json"),)),
    Shape("with headers of proxies", True, ((b"x-forwarded-for", b"192.0.2.1"), (b"via", b"1.1 x"))),
    Shape("with headers of a trace", True, ((b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),)),
    Shape("with a name of its own", True, ((b"x-request-id", b"abcdefgh-1234"),)),
    Shape("with a name that is none", True, ((b"x-request-id", b"<script>"),)),
)
LONG = (
    Shape("nobody", False, authorization=()),
    Shape("a wrong secret", False, authorization=((b"authorization", b"Basic bm9ib2R5OndpbGQ="),)),
    Shape("another scheme", False, authorization=((b"authorization", b"Bearer x"),)),
    Shape("two hosts", False, (HOST,)),
    Shape("no host", False, base=(FORM,)),
    Shape("wants a JWT", False, ((b"accept", b"application/token-introspection+jwt"),)),
    Shape("wants a page", False, ((b"accept", b"text/html"),)),
    Shape("a cookie", False, ((b"cookie", b"a=b"),)),
    Shape("a page of ours", False, ((b"origin", b"https://app.test"),)),
    Shape("a page of somebody", False, ((b"origin", b"https://evil.test"),)),
    Shape("a header nobody knows", False, ((b"x-something", b"1"),)),
    Shape("a very long header", False, ((b"user-agent", b"a" * 2000),)),
    Shape("many headers", False, MANY),
    Shape("more headers than anybody needs", False, MANY * 4),
    Shape("JSON", False, base=(HOST, (b"content-type", b"application/json")), pieces=(b'{"token":"TOKEN"}',)),
    Shape("a form that says how", False, base=(HOST, (FORM[0], FORM[1] + b"; charset=utf-8"))),
    Shape("no kind of body", False, base=(HOST,)),
    Shape("no body", False, pieces=(b"",)),
    Shape("no token", False, pieces=(b"nothing=TOKEN",)),
    Shape("an empty token", False, pieces=(b"token=",)),
    Shape("two tokens", False, pieces=(b"token=TOKEN&token=TOKEN",)),
    Shape("a further parameter", False, pieces=(b"token=TOKEN&x=y",)),
    Shape("another order", False, pieces=(b"token_type_hint=access_token&token=TOKEN",)),
    Shape("another hint", True, pieces=(b"token=TOKEN&token_type_hint=refresh_token",)),
    Shape("a secret in the form too", False, pieces=(b"token=TOKEN&client_secret=x",)),
    Shape("a refresh token", True, pieces=(b"token=REFRESH",)),
    Shape("an encoded dot", False, pieces=(b"token=a%2Eb%2Ec",)),
    Shape("bytes", False, pieces=(b"token=\xff\xfe\x00",)),
    Shape("a line break behind", True, pieces=(b"token=TOKEN\n",)),
    Shape("in pieces", False, pieces=(b"token=", b"TOKEN")),
    Shape("in two pieces, the second empty", False, pieces=(b"token=TOKEN", b"")),
    Shape("an endless body", False, pieces=(b"token=" + b"a" * 70_000,)),
    Shape("somebody who leaves", False, pieces=(), leaves=True),
    Shape("a query", False, query=b"a=b"),
    Shape("a token in the query", False, query=b"token=x"),
    Shape("a slash behind", False, path="/introspect/"),
    Shape("two slashes before", False, path="//introspect"),
    Shape("elsewhere", False, path="/introspection"),
    *(Shape(method, False, method=method) for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "post")),
)


def basic(caller: Introspector) -> bytes:
    return b"Basic " + base64.b64encode(f"{caller.client_id}:{caller.secret}".encode())


@dataclass
class Asking:
    """Sends a request to an application as a server does, byte by byte."""

    here: Ward
    tokens: dict[bytes, str]

    def request(self, shape: Shape) -> tuple[Scope, Receive]:
        authorization = shape.authorization
        if authorization is None:
            authorization = ((b"authorization", basic(self.here.caller)),)
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": shape.method,
            "scheme": "https",
            "path": shape.path,
            "raw_path": shape.path.encode(),
            "root_path": "",
            "query_string": shape.query,
            "headers": [*shape.base, *authorization, *shape.headers],
            "client": ("192.0.2.7", 40000),
            "server": ("auth.test", 443),
        }
        unread = [self._filled(piece) for piece in shape.pieces]

        async def receive() -> Any:
            if not unread:
                return {"type": "http.disconnect"}
            piece = unread.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(unread) or shape.leaves}

        return scope, receive

    def _filled(self, piece: bytes) -> bytes:
        for word, token in self.tokens.items():
            piece = piece.replace(word, token.encode())
        return piece

    async def tell(self, app: Any, shape: Shape) -> Told:
        scope, receive = self.request(shape)
        told = Told()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                told.status, told.headers = message["status"], list(message["headers"])
            else:
                told.body += message.get("body", b"")

        await app(scope, receive, send)
        return told

    async def whole(self, shape: Shape) -> Told:
        return await self.tell(self.here.app.whole, shape)

    async def short(self, shape: Shape) -> tuple[Told, bool]:
        """The answer behind the shortcut, and whether the application was left alone."""
        passed: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            passed.append("on")
            await self.here.app.whole(scope, receive, send)

        services = self.here.services
        told = await self.tell(
            IntrospectionShortcut(application, services.introspections, services.proved_callers), shape
        )
        return told, not passed


@pytest.fixture
async def asking(here: Ward, guest: Guest) -> Asking:
    dead = await here.signed_in(guest)
    await here.http.post("/auth/logout", json={"refresh_token": dead.refresh})
    made = Asking(here, {b"TOKEN": guest.access, b"DEAD": dead.access, b"REFRESH": guest.refresh})
    assert (await made.whole(SHORT[0])).status == 200  # the caller has proved itself
    return made


@pytest.mark.parametrize("shape", [*SHORT, *LONG], ids=lambda shape: shape.name)
async def test_both_ways_tell_the_same(asking: Asking, shape: Shape) -> None:
    expected = await asking.whole(shape)
    told, is_short = await asking.short(shape)
    assert told.lasting == expected.lasting
    assert is_short == shape.is_short


@pytest.mark.parametrize("shape", SHORT, ids=lambda shape: shape.name)
async def test_the_name_of_a_request_is_told_on_both_ways(asking: Asking, shape: Shape) -> None:
    told, expected = (await asking.short(shape))[0], await asking.whole(shape)
    given = dict(shape.headers).get(b"x-request-id", b"")
    for headers in (dict(told.headers), dict(expected.headers)):
        assert (headers[b"x-request-id"] == given) == (given == b"abcdefgh-1234")
    assert [name for name, _ in told.headers].count(b"x-request-id") == 1


@pytest.mark.parametrize("shape", SHORT[:3], ids=lambda shape: shape.name)
async def test_the_application_itself_answers_by_the_short_way(asking: Asking, shape: Shape) -> None:
    assert (await asking.tell(asking.here.app, shape)).lasting == (await asking.short(shape))[0].lasting


async def test_what_a_live_token_says_is_true_on_the_short_way(asking: Asking, guest: Guest) -> None:
    told, is_short = await asking.short(SHORT[0])
    assert is_short
    assert json.loads(told.body)["sub"] == str(guest.account)
    assert dict(told.headers)[b"content-length"] == str(len(told.body)).encode()


async def test_an_end_shows_at_the_next_request(asking: Asking, here: Ward) -> None:
    other = await here.guest()
    asking.tokens[b"TOKEN"] = other.access
    assert json.loads((await asking.short(SHORT[0]))[0].body)["active"] is True
    await here.services.administration.end_sessions(other.account)
    told, is_short = await asking.short(SHORT[0])
    assert (told.body, is_short) == (b'{"active":false}', True)


async def test_an_outage_is_told_alike_and_counted_once(asking: Asking, here: Ward, settings: Settings) -> None:
    lost = await here.guest()
    await here.lose(lost)
    asking.tokens[b"TOKEN"] = lost.access
    recall, kept = here.services.recall, here.services.recall.database
    recall.database = no_journal = away(settings)
    metrics.flush()
    try:
        expected = await asking.whole(SHORT[0])
        before = metrics._asked["unavailable"]
        told, is_short = await asking.short(SHORT[0])
        counted = metrics._asked["unavailable"] - before
    finally:
        recall.database = kept
        recall._failed_at = float("-inf")
        await no_journal.close()
    assert (told.status, told.body, is_short) == (expected.status, expected.body, False)
    assert told.status == 503
    assert counted == 1


async def test_a_token_for_another_api_is_inactive_on_both_ways(asking: Asking, here: Ward, services: Services) -> None:
    """Told to one caller and not to the other, although the token itself was verified for the first."""
    client = f"svc-{secrets.token_hex(4)}"
    secret = await registered(services, client, may_introspect=True)
    await here.services.clients.reload()
    stranger = Introspector(client, secret)
    header = ((b"authorization", basic(stranger)),)
    shape = Shape("a stranger", True, authorization=header)
    assert (await asking.whole(shape)).status == 200
    assert (await asking.short(shape))[0].lasting == (await asking.whole(shape)).lasting


# Who is remembered


@pytest.fixture
async def caller(here: Ward, services: Services) -> Introspector:
    client = f"svc-{secrets.token_hex(4)}"
    made = Introspector(client, await registered(services, client))
    await here.services.clients.reload()
    return made


@pytest.fixture
async def proved(here: Ward, caller: Introspector, guest: Guest) -> ProvedCallers:
    assert (await caller.ask(here.http, guest.access))["active"] is True
    found = here.services.proved_callers
    assert found.find(basic(caller)) is not None
    return found


async def test_a_proof_is_remembered_for_a_minute(
    proved: ProvedCallers, caller: Introspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, began = proved.find(basic(caller)), proved.clock()
    assert client is not None
    monkeypatch.setattr(proved, "clock", lambda: began)
    proved.remember(basic(caller), client)
    monkeypatch.setattr(proved, "clock", lambda: began + timedelta(seconds=remembering.LIFE - 1))
    assert proved.find(basic(caller)) is client
    monkeypatch.setattr(proved, "clock", lambda: began + timedelta(seconds=remembering.LIFE))
    assert proved.find(basic(caller)) is None


async def test_another_secret_is_nobodys_proof(proved: ProvedCallers, caller: Introspector) -> None:
    assert proved.find(basic(Introspector(caller.client_id, "wrong"))) is None
    assert proved.find(basic(caller) + b" ") is None
    assert proved.find(b"") is None


async def test_a_client_that_is_disabled_has_to_prove_itself_and_cannot(
    here: Ward, proved: ProvedCallers, caller: Introspector, guest: Guest
) -> None:
    await here.services.client_administration.set_disabled(caller.client_id, True)
    assert proved.find(basic(caller)) is None
    form, auth = {"token": guest.access}, (caller.client_id, caller.secret)
    assert (await here.http.post("/introspect", data=form, auth=auth)).status_code == 401


async def test_who_may_not_introspect_any_more_is_refused(
    here: Ward, proved: ProvedCallers, caller: Introspector, guest: Guest
) -> None:
    changes = ClientChanges(may_introspect=False)
    await here.services.client_administration.change(caller.client_id, changes)
    form, auth = {"token": guest.access}, (caller.client_id, caller.secret)
    assert (await here.http.post("/introspect", data=form, auth=auth)).status_code == 403
    assert proved.find(basic(caller)) is None


async def test_a_secret_that_was_replaced_proves_nobody(
    here: Ward, proved: ProvedCallers, caller: Introspector, guest: Guest
) -> None:
    await here.services.client_administration.replace_secrets(caller.client_id)
    await here.services.clients.reload()
    assert proved.find(basic(caller)) is None
    form, auth = {"token": guest.access}, (caller.client_id, caller.secret)
    assert (await here.http.post("/introspect", data=form, auth=auth)).status_code == 401


async def test_a_secret_that_ends_is_not_remembered_beyond_its_end(here: Ward, caller: Introspector) -> None:
    client = await here.services.clients.find(caller.client_id)
    assert client is not None
    client.secrets[0].expires_at = here.clock() + timedelta(seconds=10)
    here.services.proved_callers.remember(basic(caller), client)
    assert here.services.proved_callers.find(basic(caller)) is not None
    await here.clock.advance(seconds=11)
    assert here.services.proved_callers.find(basic(caller)) is None


async def test_what_the_registry_reads_anew_is_proved_anew(
    here: Ward, proved: ProvedCallers, caller: Introspector
) -> None:
    await here.services.clients.reload()
    assert proved.find(basic(caller)) is None


async def test_a_bounded_number_is_remembered_and_no_header_is_kept(
    here: Ward, proved: ProvedCallers, caller: Introspector
) -> None:
    client = await here.services.clients.find(caller.client_id)
    assert client is not None
    for number in range(remembering.MOST + 5):
        proved.remember(b"Basic %d" % number, client)
    assert len(proved._known) <= remembering.MOST
    assert proved.find(b"Basic %d" % (remembering.MOST + 4)) is client
    assert {len(key) for key in proved._known} == {32}
    assert ProvedCallers(proved.clients, proved.clock)._digest(b"x") != proved._digest(b"x")
