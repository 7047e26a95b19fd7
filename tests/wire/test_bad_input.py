"""What a request may look like, tried on every endpoint that takes a body: the right refusal, never a crash."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from litestar import Litestar

from service.accounts.models import Account
from service.accounts.profile import Profile
from service.accounts.registration import add_account
from service.app import MAX_BODY, create_app
from service.device import Device
from service.server import options
from service.settings import Settings
from service.store.postgres import new_id
from service.tokens.healing import Healing
from service.wiring import Services, build
from tests.conftest import PASSWORD, Introspector, Outbox, Person, TestClock, browser, shifted, somebody
from tests.wire.front_end import BODIES, FRONT_END, JSON, NEED_A_TOKEN, PATCHED, Caller

FORM = "application/x-www-form-urlencoded"
NOBODY = "01a1f9dd-f34d-7287-bef0-56c69847a818"
PROBES = ("/livez", "/readyz", "/startupz", "/healthz")
ALLOWED: dict[str, set[str]] = {
    **{path: {"POST"} for path in (*FRONT_END, "/introspect") if path not in PATCHED},
    **{path: {"GET"} for path in ("/docs", "/openapi.json", "/me/export")},
    **{path: {"GET", "HEAD"} for path in (*PROBES, "/.well-known/jwks.json", f"/avatars/{NOBODY}/a.webp")},
    "/auth/confirm": {"GET", "HEAD"},
    "/me": {"GET", "PATCH", "DELETE"},
    "/me/sessions": {"GET", "DELETE"},
    f"/me/sessions/{NOBODY}": {"DELETE"},
    "/me/avatar": {"PUT", "DELETE"},
    f"/users/{NOBODY}": {"GET", "PATCH"},
}
"""Which methods each path has."""

LEAKS = re.compile(
    r"litestar|msgspec|sqlalchemy|asyncpg|redis|valkey|postgres|uvicorn|httptools|python|pyjwt|cryptography|"
    r"traceback|file \"|/home/|/usr/|\.py\b|\bselect\b|\binsert\b|exception|<class|(?<![\w-])0x[0-9a-f]{6}",
    re.IGNORECASE,
)
SECURITY_HEADERS = {
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def assert_says_nothing_about_us(answer: httpx.Response) -> None:
    """No library, SQL, path or stack, and every security header (PF-32, PF-38, CK-09, CK-11..14)."""
    assert not LEAKS.search(answer.text), answer.text
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers.get_list(name) == [value], name
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """RFC 9457 in our shape, never to be cached."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:vestibule:problem:{code}"
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["detail"].endswith(".")
    if code == "invalid_input":
        assert body["errors"]
        for error in body["errors"]:
            assert set(error) == {"field", "code", "detail"}
            assert all(isinstance(part, str) and part for part in error.values())
    assert_says_nothing_about_us(answer)
    return body


def assert_oauth_error(answer: httpx.Response, status: int, error: str) -> dict[str, Any]:
    """RFC 6749 section 5.2."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    body: dict[str, Any] = answer.json()
    assert set(body) <= {"error", "error_description", "error_uri"}
    assert body["error"] == error
    assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", body["error_description"])
    assert_says_nothing_about_us(answer)
    return body


async def post_raw(
    http: httpx.AsyncClient, path: str, body: Any, content_type: str | None = JSON, **headers: str
) -> httpx.Response:
    given = {"Content-Type": content_type} if content_type is not None else {}
    return await http.post(path, content=body, headers={**given, **headers})


@pytest.fixture(scope="module")
async def password_hash(services: Services) -> str:
    return await services.passwords.hash(PASSWORD)


@pytest.fixture
async def caller(http: httpx.AsyncClient, services: Services, password_hash: str) -> Caller:
    """Somebody new who is signed in, by the shortest way there is."""
    person, now = somebody(), services.clock()
    account = Account(
        id=new_id(),
        email=person.email,
        nickname=person.nickname,
        nickname_key=person.nickname,
        password_hash=password_hash,
        password_changed_at=now,
        locale="en",
        avatar_url=None,
        roles=[],
        created_at=now,
        disabled_at=None,
    )
    await add_account(services.database, account)
    grant = await services.login.entrance.admit(account, "web", ("pwd",), Device.seen("192.0.2.1", ""))
    return Caller(http, str(account.id), grant.access_token)


# The body is JSON, and says so


@pytest.mark.standard("CK-18")
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        FORM,
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/problem+json",
        "application/jsonp",
        "text/json",
        "application/json, text/plain",
        "application/x-msgpack",
    ],
)
async def test_a_body_that_does_not_say_it_is_json_is_refused(caller: Caller, content_type: str | None) -> None:
    for path in FRONT_END:
        answer = await caller.send(path, json.dumps(BODIES[path]).encode(), content_type)

        assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/verify"])
@pytest.mark.parametrize(
    "content_type", ["Application/JSON", "application/json;charset=UTF-8", "application/json ; q=1"]
)
async def test_the_content_type_is_read_without_regard_to_case_and_parameters(
    caller: Caller, path: str, content_type: str
) -> None:
    answer = await caller.send(path, json.dumps(BODIES[path]).encode(), content_type)

    assert answer.json()["code"] in {"session_expired", "invalid_or_expired_code"}


# The body is JSON in one meaning


def _with(path: str, **more: Any) -> bytes:
    return json.dumps({**BODIES[path], **more}).encode()


def _spliced(path: str, member: bytes) -> bytes:
    """The endpoint's good body with a member in front that has to be read first."""
    return b"{" + member + b"," + json.dumps(BODIES[path]).encode()[1:]


def _text(path: str) -> bytes:
    """The name of the endpoint's first text field, quoted."""
    return json.dumps(next(iter(BODIES[path]))).encode()


MALFORMED: dict[str, Callable[[str], bytes]] = {
    "white space": lambda path: b" \r\n\t ",
    "not JSON": lambda path: b"refresh_token=vrt_nothing",
    "cut off": lambda path: json.dumps(BODIES[path]).encode()[:-2],
    "two documents": lambda path: json.dumps(BODIES[path]).encode() * 2,
    "a trailing comma": lambda path: json.dumps(BODIES[path]).encode()[:-1] + b",}",
    "a comment": lambda path: b"/* */" + json.dumps(BODIES[path]).encode(),
    "single quotes": lambda path: json.dumps(BODIES[path]).replace('"', "'").encode(),
    "a duplicate key": lambda path: _spliced(path, _text(path) + b':"first"'),
    "a duplicate key, escaped": lambda path: _spliced(path, b'"\\u00%02x' % _text(path)[1] + _text(path)[2:] + b':"x"'),
    "a duplicate key, deep inside": lambda path: _spliced(path, b'"deep":{"a":{"b":1,"b":2}}'),
    "invalid UTF-8": lambda path: _spliced(path, b'"x":"\xff\xfe"'),
    "overlong UTF-8": lambda path: _spliced(path, b'"x":"\xc0\xaf"'),
    "a UTF-8 surrogate": lambda path: _spliced(path, b'"x":"\xed\xa0\x80"'),
    "Latin-1": lambda path: _spliced(path, b'"x":"caf\xe9"'),
    "a byte-order mark": lambda path: b"\xef\xbb\xbf" + json.dumps(BODIES[path]).encode(),
    "UTF-16": lambda path: json.dumps(BODIES[path]).encode("utf-16"),
    "UTF-32": lambda path: json.dumps(BODIES[path]).encode("utf-32-le"),
    "an escaped NUL in a value": lambda path: _spliced(path, b'"x":"a\\u0000b"'),
    "an escaped NUL in a name": lambda path: _spliced(path, b'"x\\u0000":"b"'),
    "a raw NUL in a value": lambda path: _spliced(path, b'"x":"a\x00b"'),
    "a raw NUL behind the document": lambda path: json.dumps(BODIES[path]).encode() + b"\x00",
    "a raw line feed in a value": lambda path: _spliced(path, b'"x":"a\nb"'),
    "a lone high surrogate": lambda path: _spliced(path, b'"x":"\\ud800"'),
    "a lone low surrogate": lambda path: _spliced(path, b'"x":"\\udc00 and on"'),
    "a lone surrogate in a name": lambda path: _spliced(path, b'"\\udfff":1'),
    "NaN": lambda path: _spliced(path, b'"x":NaN'),
    "Infinity": lambda path: _spliced(path, b'"x":Infinity'),
    "-Infinity": lambda path: _spliced(path, b'"x":-Infinity'),
    "a number of 5000 digits": lambda path: _spliced(path, b'"x":' + b"9" * 5000),
    "20000 arrays": lambda path: b"[" * 20_000 + b"]" * 20_000,
    "20000 arrays, never closed": lambda path: b"[" * 40_000,
    "8000 objects": lambda path: b'{"a":' * 8_000 + b"1" + b"}" * 8_000,
    "20000 arrays in a member": lambda path: _spliced(path, b'"x":' + b"[" * 20_000 + b"]" * 20_000),
    "40 arrays in a member": lambda path: _spliced(path, b'"x":' + b"[" * 40 + b"]" * 40),
}


@pytest.mark.standard("PF-18", "LG-03", "LG-04")
@pytest.mark.parametrize("name", MALFORMED)
async def test_json_with_no_or_two_meanings_is_refused(caller: Caller, name: str) -> None:
    for path in FRONT_END:
        answer = await caller.send(path, MALFORMED[name](path))

        assert_problem(answer, 400, "malformed_request")


@pytest.mark.standard("LG-03")
@pytest.mark.parametrize("path", FRONT_END)
@pytest.mark.parametrize("content_type", [JSON, None, "text/plain"])
async def test_no_body_at_all_is_refused(caller: Caller, path: str, content_type: str | None) -> None:
    answer = await caller.send(path, b"", content_type)

    assert answer.status_code in {400, 415}
    assert_problem(answer, answer.status_code, answer.json()["code"])


@pytest.mark.standard("PF-19")
@pytest.mark.parametrize("document", [b"null", b"true", b"7", b'"text"', b"[]", b"[{}]"])
async def test_a_document_that_is_no_object_is_refused(caller: Caller, document: bytes) -> None:
    for path in FRONT_END:
        assert_problem(await caller.send(path, document), 400, "invalid_input")


FIELDS = [(path, field) for path in FRONT_END for field in BODIES[path]]
NULLABLE = {("/auth/logout", "refresh_token"), *((path, "avatar_url") for path in PATCHED)}


@pytest.mark.standard("PF-19", "LG-03")
@pytest.mark.parametrize("value", [123, 1.5, 1e308, True, [], ["a"], {}, {"a": 1}, 10**30])
async def test_a_field_of_a_wrong_type_is_refused_by_name(caller: Caller, value: Any) -> None:
    for path, field in FIELDS:
        problem = assert_problem(await caller.send(path, _with(path, **{field: value})), 400, "invalid_input")

        assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.standard("PF-19")
@pytest.mark.parametrize(("path", "field"), [(path, field) for path, field in FIELDS if (path, field) not in NULLABLE])
async def test_null_is_no_value(caller: Caller, path: str, field: str) -> None:
    assert_problem(await caller.send(path, _with(path, **{field: None})), 400, "invalid_input")


@pytest.mark.standard("LG-03")
@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path, field in FIELDS if path not in {"/auth/logout", *PATCHED}]
)
async def test_a_missing_field_is_refused(caller: Caller, path: str, field: str) -> None:
    body = {name: value for name, value in BODIES[path].items() if name != field}

    assert_problem(await caller.send_json(path, body), 400, "invalid_input")


@pytest.mark.standard("LG-15", "PF-55")
@pytest.mark.parametrize(
    "extra", ["is_admin", "roles", "id", "email_verified", "__proto__", "constructor", "", "Password", "x" * 5000, "é"]
)
async def test_an_unknown_field_is_refused(caller: Caller, extra: str) -> None:
    for path in FRONT_END:
        assert_problem(await caller.send_json(path, {**BODIES[path], extra: True}), 400, "invalid_input")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/auth/register", "email"),
        ("/auth/register", "password"),
        ("/auth/register", "nickname"),
        ("/auth/verify", "registration"),
        ("/auth/verify", "code"),
        ("/auth/verify", "nickname"),
        ("/auth/verify", "client_id"),
        ("/auth/verify/resend", "registration"),
        ("/auth/login", "password"),
        ("/auth/login", "client_id"),
        ("/auth/refresh", "refresh_token"),
        ("/auth/refresh", "client_id"),
        ("/auth/logout", "refresh_token"),
        ("/auth/verify", "token"),
        ("/auth/verify", "password"),
        ("/auth/password/forgot", "email"),
        ("/auth/password/reset", "token"),
        ("/auth/password/reset", "password"),
        *((path, field) for path in NEED_A_TOKEN for field in BODIES[path]),
    ],
)
@pytest.mark.standard("LG-03", "PW-10")
async def test_a_text_of_sixty_thousand_characters_is_refused_by_name(caller: Caller, path: str, field: str) -> None:
    problem = assert_problem(await caller.send_json(path, {**BODIES[path], field: "a" * 60_000}), 400, "invalid_input")

    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.standard("LG-03")
@pytest.mark.parametrize("path", ["/auth/login", "/auth/verify", "/auth/reauthenticate"])
@pytest.mark.parametrize("transport", ["", "Cookie", "header", "body,cookie", None, 1])
async def test_a_transport_that_does_not_exist_is_refused(caller: Caller, path: str, transport: object) -> None:
    if (path, transport) != ("/auth/reauthenticate", None):  # where the session keeps its token
        assert_problem(await caller.send_json(path, {**BODIES[path], "transport": transport}), 400, "invalid_input")


@pytest.mark.parametrize("names", [{}, {"email": "a@example.com", "nickname": "ann"}])
async def test_a_sign_in_names_exactly_one_of_address_and_nickname(
    http: httpx.AsyncClient, names: dict[str, str]
) -> None:
    assert_problem(await http.post("/auth/login", json={"password": PASSWORD, **names}), 400, "invalid_input")


@pytest.mark.standard("LG-03", "LO-11")
@pytest.mark.parametrize("path", FRONT_END)
@pytest.mark.parametrize(
    "text", ["", " ", "\r\nBcc: x@example.com", "\x1b[31m", "\U0001d54f" * 20, "' OR 1=1--", "../../x", "\uffff"]
)
async def test_no_odd_text_in_any_field_is_more_than_a_refusal(caller: Caller, path: str, text: str) -> None:
    for field in BODIES[path]:
        if "password" not in field:
            answer = await caller.send_json(path, {**BODIES[path], field: text})
            assert answer.status_code in {200, 202, 204, 400, 401, 409}, (field, answer.text)
            assert_says_nothing_about_us(answer)


@pytest.mark.standard("PF-20")
@pytest.mark.parametrize("path", FRONT_END)
async def test_fields_in_the_query_count_for_nothing_and_are_not_repeated(caller: Caller, path: str) -> None:
    answer = await caller.send(f"{path}?email=canary@query.example&refresh_token=canary&%ff=%00", b"{}")

    assert "canary" not in answer.text
    if path not in {"/auth/logout", *PATCHED}:
        assert_problem(answer, 400, "invalid_input")


# The body has a bound


TOO_LARGE = [*FRONT_END, "/introspect"]


def _large(path: str, size: int) -> tuple[bytes, str]:
    """A body of this size that would be read if it were smaller."""
    if path == "/introspect":
        return b"token=" + b"a" * (size - 6), FORM
    body = json.dumps(BODIES[path]).encode()
    return body + b" " * (size - len(body)), JSON


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16_384):
        yield body[start : start + 16_384]


def assert_too_large(answer: httpx.Response, path: str) -> None:
    if path == "/introspect":
        assert_oauth_error(answer, 413, "invalid_request")
    else:
        assert_problem(answer, 413, "body_too_large")


@pytest.mark.standard("PW-10", "RL-12")
@pytest.mark.parametrize("path", TOO_LARGE)
async def test_a_body_over_64_kib_is_refused(caller: Caller, path: str) -> None:
    body, content_type = _large(path, MAX_BODY + 1)

    assert_too_large(await caller.send(path, body, content_type), path)


@pytest.mark.parametrize("path", TOO_LARGE)
async def test_a_body_of_exactly_64_kib_is_read(caller: Caller, path: str) -> None:
    body, content_type = _large(path, MAX_BODY)

    assert (await caller.send(path, body, content_type)).status_code in {200, 202, 204, 400, 401, 409}


@pytest.mark.parametrize("path", TOO_LARGE)
async def test_a_body_in_pieces_is_refused_once_it_exceeds_64_kib(caller: Caller, path: str) -> None:
    body, content_type = _large(path, MAX_BODY * 2)

    assert_too_large(await caller.send(path, _pieces(body), content_type), path)


@pytest.mark.standard("PF-12")
@pytest.mark.parametrize("path", TOO_LARGE)
async def test_a_small_declared_length_does_not_let_a_large_body_in(caller: Caller, path: str) -> None:
    body, content_type = _large(path, MAX_BODY * 2)

    assert_too_large(await caller.send(path, _pieces(body), content_type, **{"Content-Length": "10"}), path)


@pytest.mark.parametrize("path", TOO_LARGE)
@pytest.mark.parametrize("length", ["99000000000", "-1", "ten", "", "1e3", "0x10"])
async def test_a_declared_length_that_is_large_or_no_number_is_never_a_crash(
    caller: Caller, path: str, length: str
) -> None:
    answer = await caller.send(path, _pieces(b"{}"), JSON, **{"Content-Length": length})

    assert answer.status_code in {200, 204, 400, 413}, answer.text
    assert_says_nothing_about_us(answer)


# Forms


async def introspected(http: httpx.AsyncClient, introspector: Introspector, body: bytes) -> httpx.Response:
    return await http.post(
        "/introspect",
        content=body,
        headers={"Content-Type": FORM},
        auth=(introspector.client_id, introspector.secret),
    )


@pytest.mark.standard("IN-01", "AT-36")
@pytest.mark.parametrize(
    "body",
    [
        b"token=a&token=a",
        b"token=a&token=",
        b"token=a&%74oken=b",
        b"token=a&token_type_hint=x&token_type_hint=x",
        b"token=a&foo=1&foo=2",
        b"token=%ff",
        b"token=%c3%28",
        b"token=%ed%a0%80",
        b"%ff=1&token=a",
        b"token=\xff",
        "token=é".encode(),
        b"token=a%00b",
        b"token=a&%00=1",
        b"token=a\x00b",
        b"token=a&" + b"&".join(b"p%d=1" % n for n in range(1000)),
        b"&".join(b"p%d" % n for n in range(5_000)),
        b"",
        b"token",
        b"token=",
        b"token=&token_type_hint=access_token",
        b"Token=a",
        b"&&&",
        b'{"token":"a"}',
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
async def test_a_form_that_is_repeated_unreadable_or_without_token_is_an_invalid_request(
    http: httpx.AsyncClient, introspector: Introspector, body: bytes
) -> None:
    assert_oauth_error(await introspected(http, introspector, body), 400, "invalid_request")


@pytest.mark.standard("IN-01")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, b'{"token":"a"}'),
        (None, b"token=a"),
        ("", b"token=a"),
        ("text/plain", b"token=a"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\na\r\n--x--\r\n',
        ),
        ("application/x-www-form-urlencoded-not", b"token=a"),
    ],
)
async def test_a_body_that_is_no_form_is_an_invalid_request(
    http: httpx.AsyncClient, introspector: Introspector, content_type: str | None, body: bytes
) -> None:
    headers = {"Content-Type": content_type} if content_type is not None else {}
    auth = (introspector.client_id, introspector.secret)

    assert_oauth_error(await http.post("/introspect", content=body, headers=headers, auth=auth), 400, "invalid_request")


@pytest.mark.standard("AT-36")
@pytest.mark.parametrize(
    "body", ["token={}&foo=1&resource=", "token={}&token_type_hint=", "&token={}&", "foo=a+b%2B&token={}&callback=x"]
)
async def test_unknown_parameters_are_ignored_and_empty_ones_absent(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, body: str
) -> None:
    answer = await introspected(http, introspector, body.format(person.access_token).encode())

    assert answer.json()["active"] is True
    assert answer.headers["content-type"] == "application/json"


async def test_a_charset_beside_the_form_type_is_tolerated(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    answer = await http.post(
        "/introspect",
        content=f"token={person.access_token}",
        headers={"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=UTF-8"},
        auth=(introspector.client_id, introspector.secret),
    )

    assert answer.json()["active"] is True


async def test_a_token_in_the_query_is_no_token(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    answer = await http.post(
        f"/introspect?token={person.access_token}", data={}, auth=(introspector.client_id, introspector.secret)
    )

    assert_oauth_error(answer, 400, "invalid_request")


# Methods and paths


@pytest.mark.standard("CK-28", "PF-31", "AT-36", "IN-01")
@pytest.mark.parametrize("path", ALLOWED)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO"])
async def test_a_wrong_method_is_told_the_right_ones(http: httpx.AsyncClient, path: str, method: str) -> None:
    if method in ALLOWED[path]:
        return
    answer = await http.request(method, f"{path}?canary=1", headers={"X-Canary": "canary"})

    assert_problem(answer, 405, "method_not_allowed")
    assert ALLOWED[path] <= {name.strip() for name in answer.headers["allow"].split(",")}
    assert method not in answer.headers["allow"]
    assert "canary" not in answer.text


@pytest.mark.parametrize("path", [*PROBES, "/.well-known/jwks.json", "/auth/confirm"])
async def test_probes_and_keys_answer_head_like_get_without_a_body(http: httpx.AsyncClient, path: str) -> None:
    get, head = await http.get(path), await http.head(path)

    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.standard("CK-19")
@pytest.mark.parametrize("path", [path for path in ALLOWED if path != "/.well-known/jwks.json"])
async def test_options_neither_needs_a_token_nor_does_anything(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.options(path, headers={"Origin": "https://evil.example"})

    assert answer.status_code in {200, 204, 405}
    assert "access-control-allow-origin" not in answer.headers
    assert_says_nothing_about_us(answer)


@pytest.mark.standard("CK-10")
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://app.test.evil.example", "https://evilapp.test", "http://app.test"],
)
@pytest.mark.parametrize("path", ["/auth/login", "/introspect", "/me", "/livez", "/nothing"])
async def test_no_foreign_origin_may_read_an_answer(http: httpx.AsyncClient, path: str, origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        headers = {"Origin": origin, "Cookie": "x=y", "Access-Control-Request-Method": "POST"}
        answer = await http.request(method, path, headers=headers)
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.standard("PF-54", "PF-36")
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/auth",
        "/auth/",
        "/auth/nothing",
        "/me/x.css",
        "/me/nothing",
        "/me/export%2f..",
        "/users",
        "/users/",
        "/users/nobody",
        f"/users/{NOBODY}",
        f"/users/{NOBODY}/",
        f"/users/{NOBODY}/sessions",
        f"/users/{NOBODY}%2f..%2f..%2fme",
        "/avatars",
        f"/avatars/{NOBODY}",
        f"/avatars/{NOBODY}/",
        f"/avatars/{NOBODY}/a.webp",
        f"/avatars/{NOBODY}/..%2fkey",
        f"/avatars/{NOBODY}/%00.webp",
        "/auth/password",
        "/auth/confirm/nothing",
        "/auth/confirm/..%2fpages.py",
        "/schema",
        "/schema/openapi.json",
        "/schema/swagger",
        "/docs/",
        "/docs/nothing",
        "/docs/..%2fcontroller.py",
        "/docs/%2e%2e%2fcontroller.py",
        "/docs/%00",
        "/docs/start.js%00.css",
        "/dev",
        "/dev/mailbox",
        "/admin",
        "/metrics",
        "/.git/config",
        "/.env",
        "/.well-known",
        "/static/",
        "/AUTH/LOGIN",
    ],
)
async def test_an_unknown_path_is_a_problem_document(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"{path}?canary=1")

    if path == "/docs/":
        assert answer.status_code in {200, 404}
        return
    assert_problem(answer, 404, "not_found")
    assert "canary" not in answer.text


ODD_PATHS = [
    b"//",
    b"//auth//login",
    b"/auth/login//",
    b"/auth%2flogin",
    b"/auth/%2e%2e/me",
    b"/auth/../me",
    b"/%00",
    b"/auth/login%00",
    b"/%ff%fe",
    b"/%c0%af",
    b"/%ed%a0%80",
    b"/%zz",
    b"/%",
    b"/" + b"a" * 70_000,
    b"/docs/" + b"%2e" * 20_000,
    b"/me;x=y",
    b"/me%3fx=y",
    b"/me?" + b"a=b&" * 15_000,
    b"/livez?%ff=%00&a=%ed%a0%80",
    b"/\xe2\x80\xae",
]


async def ask_raw(app: Litestar, method: str, raw_path: bytes, headers: list[tuple[bytes, bytes]]) -> httpx.Response:
    """One request whose path and headers no client library would let through."""
    from urllib.parse import unquote

    raw, _, query = raw_path.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": unquote(raw.decode("latin-1")),
        "raw_path": raw,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"auth.test"), *headers],
        "client": ("2001:db8:ffff::1", 4000),
        "server": ("auth.test", 443),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)


@pytest.mark.standard("PF-42", "LO-18")
@pytest.mark.parametrize("path", ODD_PATHS, ids=lambda path: path[:20].decode("latin-1"))
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_odd_path_is_never_a_crash(app: Litestar, path: bytes, method: str) -> None:
    answer = await ask_raw(app, method, path, [])

    assert answer.status_code in {200, 400, 401, 404, 405, 414, 415, 431}, answer.text
    assert_says_nothing_about_us(answer)


# Headers


ODD = [
    b"\xff\xfe",
    b"\x80",
    b"=",
    b";",
    b",",
    b'"',
    b"a" * 20_000,
    b"\xed\xa0\x80",
    b"",
    b" ",
    b"a=b;a=b;=;;",
    b"%00%ff",
]
ODD_NAMES = [
    b"accept",
    b"authorization",
    b"content-type",
    b"cookie",
    b"if-none-match",
    b"origin",
    b"sec-fetch-site",
    b"user-agent",
    b"x-forwarded-for",
    b"x-vestibule-csrf",
    b"content-length",
    b"accept-encoding",
]


@pytest.mark.standard("PF-46", "PF-39")
@pytest.mark.parametrize("name", ODD_NAMES, ids=bytes.decode)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", b"/auth/refresh"), ("POST", b"/introspect"), ("GET", b"/me"), ("GET", b"/.well-known/jwks.json")],
)
async def test_odd_bytes_in_a_header_are_never_a_crash(app: Litestar, name: bytes, method: str, path: bytes) -> None:
    for value in ODD:
        answer = await ask_raw(app, method, path, [(name, value)])
        assert answer.status_code < 500, (value, answer.text)
        assert_says_nothing_about_us(answer)


@pytest.mark.standard("IN-08", "LG-03")
@pytest.mark.parametrize("scheme", [b"Basic ", b"basic ", b"Bearer ", b"Digest ", b""])
async def test_odd_bytes_in_credentials_are_never_a_crash(app: Litestar, scheme: bytes) -> None:
    for value in (*ODD, b"====", b"YQ", b"OmE=", b"/w==", b"\xc3\xa9"):
        for method, path in (("POST", b"/introspect"), ("GET", b"/me")):
            form = [(b"content-type", FORM.encode())]
            answer = await ask_raw(app, method, path, [(b"authorization", scheme + value), *form])
            assert answer.status_code in {400, 401, 429}, (path, value, answer.text)


@pytest.mark.standard("LO-11")
@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"short",
        b"a" * 65,
        b"has space in it",
        b"\r\nset-cookie: a=b",
        b"abcdefgh\nx: y",
        b"abcdefgh\x00",
        b"<script>alert(1)</script>",
        b"caf\xe9-caf\xe9",
        b'"quoted-id"',
    ],
)
async def test_a_request_id_that_is_not_plain_is_replaced(app: Litestar, given: bytes) -> None:
    answer = await ask_raw(app, "GET", b"/livez", [(b"x-request-id", given)])

    (told,) = answer.headers.get_list("x-request-id")
    assert re.fullmatch(r"[0-9a-f]{16}", told)


async def test_a_plain_request_id_comes_back_on_every_kind_of_answer(http: httpx.AsyncClient) -> None:
    for path, method in (("/livez", "GET"), ("/me", "GET"), ("/nothing", "GET"), ("/auth/login", "DELETE")):
        answer = await http.request(method, path, headers={"X-Request-Id": "Trace-1234.abc_d"})
        assert answer.headers.get_list("x-request-id") == ["Trace-1234.abc_d"]


@pytest.mark.standard("CK-09", "CK-11", "CK-12", "CK-13", "CK-14", "CK-23", "CK-24", "PF-32")
async def test_every_kind_of_answer_carries_the_security_headers(
    http: httpx.AsyncClient, person: Person, introspector: Introspector
) -> None:
    auth = (introspector.client_id, introspector.secret)
    answers = [
        await http.get("/livez"),
        await http.get("/me", headers=person.headers),
        await http.get("/me"),
        await http.get("/nothing"),
        await http.delete("/auth/login"),
        await http.post("/introspect", data={"token": person.access_token}, auth=auth),
        await http.post("/introspect", data={"token": "x"}),
        await http.post("/auth/logout", json={"refresh_token": person.refresh_token}),
        await post_raw(http, "/auth/login", *_large("/auth/login", MAX_BODY + 1)),
        await post_raw(http, "/auth/login", b"{}", "text/plain"),
        await http.get("/.well-known/jwks.json"),
        await http.options("/auth/login"),
    ]

    seen = {answer.status_code for answer in answers}
    assert {200, 204, 401, 404, 405, 413, 415} <= seen
    for answer in answers:
        assert_says_nothing_about_us(answer)


@pytest.mark.standard("CK-30", "AT-39")
async def test_what_is_somebodys_own_is_never_cached(http: httpx.AsyncClient, person: Person) -> None:
    answers = [
        await http.get("/me", headers=person.headers),
        await http.get("/me"),
        await http.get("/me/x.css"),
        await http.patch("/me", json={"locale": "ja"}, headers=person.headers),
        await http.get("/me/export", headers=person.headers),
        await http.get("/me/sessions", headers=person.headers),
        await http.get(f"/users/{NOBODY}"),
        await http.delete(f"/me/sessions/{NOBODY}", headers=person.headers),
        await http.post("/auth/password/forgot", json={"email": person.email}),
        await http.post("/auth/password/reset", json={"token": "vpr_nothing", "password": PASSWORD}),
        await http.post("/auth/login", json=person.credentials()),
        await http.post("/auth/login", json={**person.credentials(), "password": PASSWORD + "?"}),
        await http.post("/auth/reauthenticate", json={"password": PASSWORD + "?"}, headers=person.headers),
        await http.post("/me/email/confirm", json={"token": "vec_nothing"}, headers=person.headers),
        await http.post("/auth/refresh", json={"refresh_token": person.refresh_token}),
        await http.post("/auth/logout", json={"refresh_token": person.refresh_token}),
    ]

    for answer in answers:
        assert answer.headers["cache-control"] == "no-store", answer.url
        assert answer.headers["pragma"] == "no-cache", answer.url


@pytest.mark.standard("CK-27")
async def test_an_answer_without_a_body_has_no_content_type(http: httpx.AsyncClient) -> None:
    logout = await http.post("/auth/logout", json={})
    assert (logout.status_code, logout.content) == (204, b"")
    assert "content-type" not in logout.headers
    assert "content-length" not in logout.headers

    etag = (await http.get("/.well-known/jwks.json")).headers["etag"]
    unchanged = await http.get("/.well-known/jwks.json", headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert "content-type" not in unchanged.headers
    assert unchanged.headers.get("content-length") != "0"  # it would speak of the representation (RFC 9110 8.6)


# Crashes


SECRET_CAUSE = "SELECT password FROM accounts; /etc/vestibule/key.pem; 0xdeadbeef"


@pytest.mark.standard("PF-38", "PF-40", "PF-41")
async def test_a_crash_is_a_problem_document_that_tells_nothing(
    http: httpx.AsyncClient, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: Profile, account: object) -> None:
        raise RuntimeError(SECRET_CAUSE)

    monkeypatch.setattr(Profile, "read", crash)
    answer = await http.get("/me?canary=1", headers=person.headers)

    assert_problem(answer, 500, "internal_error")
    assert "canary" not in answer.text


@pytest.mark.standard("PF-38", "PF-40", "PF-41")
async def test_a_crash_at_introspection_is_an_oauth_error_that_tells_nothing(
    http: httpx.AsyncClient, person: Person, introspector: Introspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: Healing, token: object) -> None:
        raise RuntimeError(SECRET_CAUSE)

    await introspected(http, introspector, b"token=nothing")  # from now on its caller may take the short way
    monkeypatch.setattr(Healing, "roles_while_live", crash)
    answer = await introspected(http, introspector, f"token={person.access_token}".encode())

    assert answer.status_code == 500
    assert "active" not in answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert_says_nothing_about_us(answer)


# A real server, for what never reaches the application


@pytest.fixture(scope="module")
def server(services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox) -> Iterator[int]:
    """The port of uvicorn, run as in production."""
    listening = socket.create_server(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    app = create_app(build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted))
    running = uvicorn.Server(uvicorn.Config(app, **options(settings, "127.0.0.1", port)))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running.started
    yield port
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


async def exchange(port: int, *parts: bytes, silence: float = 10) -> bytes:
    """Everything the server says until it closes or, once it has begun, falls silent for so many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard, patience = b"", 30.0
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        while piece := await asyncio.wait_for(reader.read(65_536), patience):
            heard, patience = heard + piece, silence
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return heard


def statuses(heard: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", heard)]


HEAD = b"POST /auth/refresh HTTP/1.1\r\nHost: auth.test\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: auth.test\r\n\r\n"
MISFRAMED = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 44\r\n\r\n{}" + SMUGGLED,
    "a list of lengths": HEAD + b"Content-Length: 2, 44\r\n\r\n{}" + SMUGGLED,
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded header": HEAD + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "a NUL in a header": HEAD + b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "a bad header name": HEAD + b"X A: b\r\nContent-Length: 2\r\n\r\n{}",
    "a bare line feed": b"GET /livez HTTP/1.1\nHost: auth.test\n\n",
    "a bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a huge chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n",
    "another version": b"GET /livez HTTP/9.9\r\nHost: auth.test\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
}


@pytest.mark.standard("PF-12")
@pytest.mark.parametrize("name", MISFRAMED)
async def test_a_message_with_two_readings_is_refused_and_nothing_behind_it_is_served(server: int, name: str) -> None:
    heard = await exchange(server, MISFRAMED[name])

    assert statuses(heard) in ([400], []), heard
    assert not LEAKS.search(heard.decode("latin-1")), heard


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"/\xc3\xa9", b"/%ff", b"/a b", b"/\x7f", b"livez", b"http://evil.example/livez", b"*"]
)
async def test_a_path_that_is_no_text_does_not_stop_the_server(server: int, path: bytes) -> None:
    heard = await exchange(server, b"GET " + path + b" HTTP/1.1\r\nHost: auth.test\r\nConnection: close\r\n\r\n")

    assert statuses(heard) in ([200], [400], [404], []), heard
    assert not LEAKS.search(heard.decode("latin-1")), heard
    alive = await exchange(server, b"GET /livez HTTP/1.1\r\nHost: auth.test\r\nConnection: close\r\n\r\n")
    assert statuses(alive) == [200]


@pytest.mark.standard("PW-10")
@pytest.mark.parametrize(
    ("path", "content_type"), [(b"/auth/login", b"application/json"), (b"/introspect", FORM.encode())]
)
async def test_a_chunked_body_over_64_kib_is_refused_on_the_wire(server: int, path: bytes, content_type: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: auth.test\r\nTransfer-Encoding: chunked\r\nContent-Type: "
    chunk = b"4000\r\n" + b"a" * 0x4000 + b"\r\n"
    heard = await exchange(server, head + content_type + b"\r\n\r\n", *[chunk] * 5, b"0\r\n\r\n", silence=0.25)

    assert statuses(heard) == [413], heard
    assert b"no-store" in heard


async def test_a_declared_99_gigabytes_are_refused_before_they_come(server: int) -> None:
    heard = await exchange(server, HEAD + b"Content-Length: 99000000000\r\n\r\n{", silence=0.25)

    assert statuses(heard) == [413], heard


OVERSIZED = {
    "one header of 1 MB": b"X-A: " + b"a" * 1_000_000 + b"\r\n",
    "a cookie of 1 MB": b"Cookie: " + b"a=b; " * 200_000 + b"\r\n",
    "credentials of 1 MB": b"Authorization: Bearer " + b"a" * 1_000_000 + b"\r\n",
    "ten thousand headers": b"".join(b"X-%d: a\r\n" % number for number in range(10_000)),
}


@pytest.mark.standard("PF-12", "RL-12")
@pytest.mark.parametrize("name", OVERSIZED)
async def test_headers_without_end_are_refused_at_once(server: int, name: str) -> None:
    """Faults row 41: the parser itself knows no limit, and reading a megabyte of cookies stops the whole worker."""
    heard = await exchange(server, HEAD + OVERSIZED[name] + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")

    assert statuses(heard) == [431], heard[:300]
    assert b"application/problem+json" in heard


@pytest.mark.standard("PF-12", "CL-15")
@pytest.mark.parametrize("hosts", [b"", b"Host: auth.test\r\nHost: evil.example\r\n"], ids=["no host", "two hosts"])
async def test_a_request_names_its_host_once(server: int, hosts: bytes) -> None:
    """RFC 9112 section 3.2."""
    heard = await exchange(server, b"GET /livez HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")

    assert statuses(heard) == [400], heard


async def test_a_body_that_stops_halfway_harms_nobody(server: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server)
    writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    alive = await exchange(server, b"GET /readyz HTTP/1.1\r\nHost: auth.test\r\nConnection: close\r\n\r\n")
    assert statuses(alive) == [200]


async def test_head_and_unchanged_answers_have_no_body_on_the_wire(server: int) -> None:
    head = await exchange(server, b"HEAD /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert statuses(head) == [200]
    assert head.endswith(b"\r\n\r\n")

    keys = await exchange(server, b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    etag = re.search(rb"etag: (\S+)", keys, re.IGNORECASE)
    assert etag is not None
    again = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-None-Match: " + etag[1]
    unchanged = await exchange(server, again + b"\r\n\r\n")
    assert statuses(unchanged) == [304]
    assert unchanged.endswith(b"\r\n\r\n")


@pytest.mark.standard("PF-32", "CL-15")
async def test_nothing_on_the_wire_names_the_server_or_repeats_the_host(server: int) -> None:
    heard = await exchange(server, b"GET /nothing?a=canary HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")

    assert statuses(heard) == [404]
    assert not LEAKS.search(heard.decode("latin-1")), heard
    assert b"evil.example" not in heard
    assert b"canary" not in heard


@pytest.mark.standard("RL-09", "RL-10", "RL-13")
async def test_forwarded_addresses_from_strangers_are_not_believed(app: Litestar) -> None:
    """The limit of a network is met although every request claims another address."""
    async with browser(app) as stranger:
        answers = [
            await stranger.post(
                "/auth/login",
                json={"email": "somebody@limits.example", "password": PASSWORD},
                headers={"X-Forwarded-For": f"198.51.100.{n}", "X-Real-IP": f"198.51.100.{n}"},
            )
            for n in range(12)
        ]

    limited = answers[-1]
    assert_problem(limited, 429, "too_many_requests")
    assert int(limited.headers["retry-after"]) >= 1


@pytest.mark.standard("RL-10", "PF-12")
async def test_what_comes_behind_a_chunked_body_is_no_header(server: int) -> None:
    """A proxy sets and strips headers, and may let trailers pass."""
    head = b"POST /auth/login HTTP/1.1\r\nHost: auth.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    heard = await exchange(server, head + b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n")

    assert statuses(heard) == [415], heard


@pytest.mark.standard("PF-12", "RL-12")
async def test_trailers_without_end_close_the_connection(server: int) -> None:
    head = b"POST /auth/login HTTP/1.1\r\nHost: auth.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    writer.write(head)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 20_000_000 and not reader.at_eof():
            writer.write(b"X-More: of the same\r\n" * 1000)
            await asyncio.wait_for(writer.drain(), 60)
            sent += 21_000
            await asyncio.sleep(0)
    writer.close()

    assert sent < 20_000_000


async def test_requests_in_a_row_on_one_connection_are_all_served(server: int) -> None:
    one = b"GET /livez?" + b"a" * 300 + b" HTTP/1.1\r\nHost: auth.test\r\n"
    heard = await exchange(server, (one + b"\r\n") * 800 + one + b"Connection: close\r\n\r\n")

    assert statuses(heard) == [200] * 801
