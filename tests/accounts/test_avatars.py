"""Avatars over HTTP: who may change them, what is kept, what is shown, and what an outage does."""

import asyncio
import io
import json
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import delete, select, update

from service.accounts.avatars import Avatars, Store, open_store
from service.accounts.models import Account
from service.app import create_app
from service.errors import InvalidToken, Unavailable
from service.setting_values import Rate, SettingsError
from service.settings import Settings
from service.wiring import Services
from tests.conftest import ISSUER, Outbox, Person, TestClock, browser, sign_up


def picture(colour: str = "teal", kind: str = "PNG", side: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


async def put(http: httpx.AsyncClient, person: Person, raw: bytes, name: str = "me.png") -> httpx.Response:
    return await http.put("/me/avatar", files={"image": (name, raw, "image/png")}, headers=person.headers)


async def account_of(http: httpx.AsyncClient, person: Person) -> UUID:
    return UUID((await http.get("/me", headers=person.headers)).json()["id"])


async def row_of(services: Services, account: UUID) -> str | None:
    async with services.database.begin() as transaction:
        url: str | None = await transaction.scalar(select(Account.avatar_url).where(Account.id == account))
    return url


async def kept(store: Store | None, account: UUID) -> list[str]:
    assert store is not None
    return [str(found["path"]) for found in await store.list(str(account)).collect_async()]


def path_of(url: str) -> str:
    return url.removeprefix(ISSUER)


def with_store(services: Services, store: Store | None, **changes: Any) -> Services:
    """The service with another storage, and other settings for avatars."""
    given, settings = services.avatars, msgspec.structs.replace(services.settings, **changes)
    avatars = Avatars(given.database, given.limits, given.audit, settings, given.clock, store=store)
    return replace(services, avatars=avatars)


@asynccontextmanager
async def serving(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(services)) as client:
        yield client
    services.avatars.close()


async def test_an_avatar_is_kept_shown_and_taken_away(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    answer = await put(http, person, picture("red"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    url = answer.json()["avatar_url"]
    account = await account_of(http, person)
    assert url.startswith(f"{ISSUER}/avatars/{account}/")
    assert await row_of(services, account) == url
    shown = await http.get(path_of(url))
    assert shown.status_code == 200
    assert Image.open(io.BytesIO(shown.content)).format == "WEBP"
    for _ in range(2):
        gone = await http.delete("/me/avatar", headers=person.headers)
        assert (gone.status_code, gone.content) == (204, b"")
    assert await row_of(services, account) is None
    assert await kept(services.avatars.store, account) == []
    assert (await http.get(path_of(url))).status_code == 404


async def test_an_avatar_is_served_as_a_picture_and_nothing_else(http: httpx.AsyncClient, person: Person) -> None:
    path = path_of((await put(http, person, picture())).json()["avatar_url"])
    shown, head = await http.get(path), await http.head(path)
    for answer in (shown, head):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.headers["content-disposition"] == 'inline; filename="avatar.webp"'
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["cache-control"] == "public, max-age=86400, immutable"
    for name in ("content-security-policy", "cross-origin-resource-policy", "x-content-type-options", "cache-control"):
        assert len(shown.headers.get_list(name)) == 1
    assert shown.headers["etag"] == f'"{path.rpartition("/")[2].removesuffix(".webp")}"'


async def test_whoever_has_the_picture_is_not_sent_it_again(http: httpx.AsyncClient, person: Person) -> None:
    path = path_of((await put(http, person, picture())).json()["avatar_url"])
    tag = (await http.get(path)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await http.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    assert (await http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_the_old_picture_is_gone_after_a_new_one(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    first = (await put(http, person, picture("red"))).json()["avatar_url"]
    second = (await put(http, person, picture("blue"))).json()["avatar_url"]
    assert first != second
    assert (await http.get(path_of(first))).status_code == 404
    assert (await http.get(path_of(second))).status_code == 200
    assert len(await kept(services.avatars.store, await account_of(http, person))) == 1


async def test_of_many_uploads_at_once_exactly_the_rows_picture_stays(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account = await account_of(http, person)
    for _ in range(3):
        answers = await asyncio.gather(*(put(http, person, picture("red")) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        (path,) = await kept(services.avatars.store, account)
        assert await row_of(services, account) == f"{ISSUER}/avatars/{path}"


async def test_uploads_and_removals_at_once_leave_nothing_that_the_row_does_not_name(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account = await account_of(http, person)
    for _ in range(5):
        await asyncio.gather(
            *(put(http, person, picture()) for _ in range(3)),
            *(http.delete("/me/avatar", headers=person.headers) for _ in range(3)),
        )
        url, paths = await row_of(services, account), await kept(services.avatars.store, account)
        assert [f"{ISSUER}/avatars/{path}" for path in paths] == ([] if url is None else [url])


async def test_leftovers_of_failed_removals_go_with_the_next_change(
    http: httpx.AsyncClient, services: Services, person: Person, clock: TestClock
) -> None:
    account, store = await account_of(http, person), services.avatars.store
    assert store is not None
    await store.put_async(f"{account}/{secrets.token_hex(16)}.webp", b"left behind")
    await put(http, person, picture())
    assert len(await kept(store, account)) == 2  # it might be an upload under way
    await clock.advance(minutes=61)
    await services.avatars.remove(account)
    assert await kept(store, account) == []


async def test_another_persons_avatar_cannot_be_changed(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    other = await sign_up(http, services, outbox)
    theirs = (await put(http, other, picture("red"))).json()["avatar_url"]
    mine = (await put(http, person, picture("blue"))).json()["avatar_url"]
    assert str(await account_of(http, other)) not in mine
    await http.delete("/me/avatar", headers=person.headers)
    assert (await http.get(path_of(theirs))).status_code == 200
    assert await row_of(services, await account_of(http, other)) == theirs
    for method in ("PUT", "DELETE", "POST", "PATCH"):
        assert (await http.request(method, path_of(theirs), headers=person.headers)).status_code == 405
    for method in ("PUT", "DELETE"):
        assert (await http.request(method, "/me/avatar")).status_code == 401


async def test_an_address_on_another_site_is_simply_replaced(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account = await account_of(http, person)
    async with services.database.begin() as transaction:
        elsewhere = f"https://elsewhere.example/avatars/{account}/../../x.png"
        await transaction.execute(update(Account).where(Account.id == account).values(avatar_url=elsewhere))
    url = (await put(http, person, picture())).json()["avatar_url"]
    assert await row_of(services, account) == url


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..\\..\\x.png", "/etc/passwd", "a\x00.png", "x.php", "x.svg", ".htaccess", "é☃.png",
     "A" * 3000, '"; name="other', "\r\nX-Evil: 1", "%2e%2e%2f"],
)  # fmt: skip
async def test_the_uploads_own_name_is_never_used(http: httpx.AsyncClient, person: Person, name: str) -> None:
    answer = await put(http, person, picture(), name)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["avatar_url"].rpartition("/")[2]) == 37


@pytest.mark.parametrize(
    "name",
    ["..", ".", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "x.webp", "a" * 32, f"{'A' * 32}.webp",
     f"{'a' * 32}.webp%0a", f"{'a' * 32}.webp%00", f"{'a' * 31}%d9%a1.webp", f"{'a' * 32}.png", "%00", "*", "a" * 5000],
)  # fmt: skip
async def test_no_path_leads_out_of_the_store(http: httpx.AsyncClient, person: Person, name: str) -> None:
    account = await account_of(http, person)
    for path in (f"/avatars/{account}/{name}", f"/avatars/%2e%2e/{name}", f"/avatars/{name}/{'a' * 32}.webp"):
        answer = await http.get(path)
        assert answer.status_code in {404, 405}, (path, answer.text)
        assert answer.headers["cache-control"] == "no-store"


BOUNDARY = "B"


def part(headers: str, body: bytes = b"x") -> bytes:
    return b"--B\r\n" + headers.encode() + b"\r\n\r\n" + body + b"\r\n"


FILE = 'Content-Disposition: form-data; name="image"; filename="a.png"'
END = b"--B--\r\n"
BAD_FORMS: dict[str, tuple[bytes, str | None]] = {
    "an empty body": (b"", None),
    "no parts": (END, "missing"),
    "no end": (part(FILE, picture()), None),
    "another boundary": (part(FILE, picture()).replace(b"--B", b"--C") + b"--C--\r\n", None),
    "rubbish": (bytes(range(256)) * 9, None),
    "a text field": (part('Content-Disposition: form-data; name="image"', picture()) + END, "missing"),
    "a text that is not UTF-8": (part('Content-Disposition: form-data; name="image"', b"\xff\xfe") + END, "missing"),
    "an unknown charset": (
        part('Content-Disposition: form-data; name="x"\r\nContent-Type: text/plain; charset=nope') + END,
        "missing",
    ),
    "an empty file": (part(FILE, b"") + END, "missing"),
    "a part without a disposition": (part("Content-Type: image/png", picture()) + END, None),
    "two files": (part(FILE, picture()) * 2 + END, "unexpected"),
    "a file and a field": (
        part(FILE, picture()) + part('Content-Disposition: form-data; name="x"') + END,
        "unexpected",
    ),
    "two thousand parts": (part(FILE, b"x") * 2000 + END, "unexpected"),
    "endless part headers": (part(FILE + "".join(f"\r\nX-{n}: y" for n in range(50)), picture()) + END, None),
    "a wrong length": (part(FILE + "\r\nContent-Length: 3", picture()) + END, None),
}


@pytest.mark.parametrize("what", BAD_FORMS)
async def test_a_form_that_is_not_one_picture_is_refused(http: httpx.AsyncClient, person: Person, what: str) -> None:
    body, code = BAD_FORMS[what]
    headers = {**person.headers, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = await http.put("/me/avatar", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if code is None:
        assert answer.json()["code"] == "malformed_request"
    else:
        assert [(wrong["field"], wrong["code"]) for wrong in answer.json()["errors"]] == [("image", code)]


@pytest.mark.parametrize("kind", ["multipart/form-data", 'multipart/form-data; boundary=""', "multipart/form-data; x"])
async def test_a_form_without_a_boundary_is_refused(http: httpx.AsyncClient, person: Person, kind: str) -> None:
    headers = {**person.headers, "Content-Type": kind}
    answer = await http.put("/me/avatar", content=part(FILE, picture()) + END, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    "kind",
    ["", "image/png", "application/json", "application/x-www-form-urlencoded", "multipart/mixed; boundary=B", "text/x"],
)
async def test_anything_but_a_form_with_files_is_an_unsupported_type(
    http: httpx.AsyncClient, person: Person, kind: str
) -> None:
    headers = {**person.headers, **({"Content-Type": kind} if kind else {})}
    answer = await http.put("/me/avatar", content=part(FILE, picture()) + END, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "multipart/form-data" in answer.json()["detail"]


@pytest.mark.parametrize("raw", [b"<script>alert(1)</script>", b"<svg/>", picture(kind="GIF"), picture(kind="TIFF")])
async def test_what_only_calls_itself_a_picture_is_an_unsupported_type(
    http: httpx.AsyncClient, services: Services, person: Person, raw: bytes
) -> None:
    answer = await put(http, person, raw)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert await kept(services.avatars.store, await account_of(http, person)) == []


async def test_a_broken_picture_is_refused_and_the_old_one_stays(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    url = (await put(http, person, picture())).json()["avatar_url"]
    answer = await put(http, person, picture(side=300)[:100])
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"field": "image", "code": "unreadable", "detail": "The picture is broken."}]
    assert await row_of(services, await account_of(http, person)) == url
    assert (await http.get(path_of(url))).status_code == 200


@pytest.mark.parametrize("size", [2 * 1024 * 1024 + 1, 2 * 1024 * 1024 + 20_000, 5_000_000])
async def test_an_upload_over_two_mebibytes_is_too_large(http: httpx.AsyncClient, person: Person, size: int) -> None:
    answer = await put(http, person, picture().ljust(size, b"\0"))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_an_upload_without_a_declared_length_is_cut_off_too(http: httpx.AsyncClient, person: Person) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b"--B\r\n" + FILE.encode() + b"\r\n\r\n"
        for _ in range(200):
            sent += 65536
            yield bytes(65536)

    headers = {**person.headers, "Content-Type": "multipart/form-data; boundary=B"}
    answer = await http.put("/me/avatar", content=endless(), headers=headers)
    assert answer.status_code == 413
    preamble = await http.put("/me/avatar", content=b"\n" * 3_000_000, headers=headers)
    assert preamble.status_code == 413


async def test_an_upload_of_two_mebibytes_in_small_pieces_is_read(http: httpx.AsyncClient, person: Person) -> None:
    body = part(FILE, picture().ljust(2 * 1024 * 1024, b"\0")) + END

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1021):
            yield body[at : at + 1021]

    headers = {**person.headers, "Content-Type": "Multipart/Form-Data; charset=utf-8; boundary=B"}
    assert (await http.put("/me/avatar", content=pieces(), headers=headers)).status_code == 200


async def test_no_form_whatever_crashes(services: Services, http: httpx.AsyncClient, person: Person) -> None:
    generous = with_store(services, services.avatars.store, limit_change_account=Rate(10_000, 1))
    headers = {**person.headers, "Content-Type": "multipart/form-data; boundary=B"}
    whole = part(FILE, picture()) + END
    loop, seen = asyncio.get_running_loop(), set()

    async with serving(generous) as client:

        @settings(max_examples=150, deadline=None)
        @given(at=st.integers(0, len(whole)), new=st.binary(max_size=40), gone=st.integers(0, 40))
        def mutate(at: int, new: bytes, gone: int) -> None:
            body = whole[:at] + new + whole[at + gone :]
            request = client.put("/me/avatar", content=body, headers=headers)
            seen.add(asyncio.run_coroutine_threadsafe(request, loop).result(30).status_code)

        await asyncio.to_thread(mutate)
    assert seen <= {200, 400, 413, 415}


async def test_changes_are_limited(services: Services, http: httpx.AsyncClient, person: Person) -> None:
    strict = with_store(services, services.avatars.store, limit_change_account=Rate(2, 3600))
    async with serving(strict) as client:
        statuses = [(await put(client, person, picture())).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = await client.delete("/me/avatar", headers=person.headers)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0


async def test_without_a_store_avatars_are_not_offered(services: Services, person: Person) -> None:
    async with serving(with_store(services, None)) as client:
        account = await account_of(client, person)
        for answer in (await put(client, person, picture()), await client.get(f"/avatars/{account}/{'a' * 32}.webp")):
            assert (answer.status_code, answer.json()["code"]) == (404, "avatars_not_offered")
        async with services.database.begin() as transaction:
            row = update(Account).where(Account.id == account).values(avatar_url="https://elsewhere.example/x.png")
            await transaction.execute(row)
        assert (await client.delete("/me/avatar", headers=person.headers)).status_code == 204
        assert await row_of(services, account) is None


async def test_a_folder_keeps_avatars(services: Services, person: Person, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "avatars of ours"
    store = open_store(at(services.settings, folder.as_uri()))
    assert folder.stat().st_mode & 0o777 == 0o700
    async with serving(with_store(services, store)) as client:
        account = await account_of(client, person)
        for _ in range(2):
            answer = await put(client, person, picture())
            (file,) = (file for file in folder.rglob("*") if file.is_file())
            assert answer.json()["avatar_url"] == f"{ISSUER}/avatars/{account}/{file.name}"
            assert (await client.get(path_of(answer.json()["avatar_url"]))).content == file.read_bytes()
        (tmp_path / "deep" / "secret").write_text("secret")
        assert (await client.get(f"/avatars/{account}/..%2f..%2f..%2fsecret")).status_code == 404
        assert (await client.delete("/me/avatar", headers=person.headers)).status_code == 204
        assert list(folder.iterdir()) == []


async def test_a_folder_that_is_away_is_an_outage_and_changes_nothing(
    http: httpx.AsyncClient, services: Services, person: Person, tmp_path: Path
) -> None:
    url = (await put(http, person, picture())).json()["avatar_url"]
    store = open_store(at(services.settings, (tmp_path / "a").as_uri()))
    (tmp_path / "a").rmdir()
    (tmp_path / "a").write_text("a file stands where the folder was")
    async with serving(with_store(services, store)) as client:
        answer = await put(client, person, picture())
        assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
        assert answer.headers["retry-after"]
        assert str(tmp_path) not in answer.text
    assert await row_of(services, await account_of(http, person)) == url
    assert (await http.get(path_of(url))).status_code == 200


@pytest.fixture
def bucket_nobody_answers_for(services: Services, monkeypatch: pytest.MonkeyPatch, unused_port: int) -> Store:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT": f"http://127.0.0.1:{unused_port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = open_store(at(services.settings, "s3://bucket/avatars"))
    assert store is not None
    return store


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # it does not listen: whoever calls is turned away
        yield deaf.getsockname()[1]


async def test_a_bucket_that_does_not_answer_is_an_outage_and_changes_nothing(
    http: httpx.AsyncClient, services: Services, person: Person, bucket_nobody_answers_for: Store
) -> None:
    url = (await put(http, person, picture())).json()["avatar_url"]
    away = with_store(services, bucket_nobody_answers_for)
    async with serving(away) as client, asyncio.timeout(60):
        for answer in (
            await put(client, person, picture()),
            await client.delete("/me/avatar", headers=person.headers),
            await client.get(path_of(url)),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
            assert "127.0.0.1" not in answer.text
    account = await account_of(http, person)
    with pytest.raises(Unavailable, match=r"^avatars: \w+$"):
        await away.avatars.forget(account)
    assert await row_of(services, account) == url


async def test_an_account_that_is_closed_leaves_no_picture(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account = await account_of(http, person)
    await put(http, person, picture())
    await services.avatars.forget(account)
    await services.avatars.forget(account)
    assert await kept(services.avatars.store, account) == []


async def test_an_upload_for_an_account_that_is_gone_leaves_no_picture(services: Services) -> None:
    nobody = UUID(int=secrets.randbits(128))
    with pytest.raises(InvalidToken):
        await services.avatars.replace(nobody, picture())
    assert await kept(services.avatars.store, nobody) == []
    with pytest.raises(InvalidToken):
        await services.avatars.remove(nobody)


async def test_an_upload_that_is_overtaken_by_the_end_of_the_account_is_refused(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account = await account_of(http, person)
    await put(http, person, picture())
    async with services.database.begin() as transaction:
        await transaction.execute(delete(Account).where(Account.id == account))
    assert (await put(http, person, picture())).status_code == 401
    await services.avatars.forget(account)
    assert await kept(services.avatars.store, account) == []


def at(settings: Settings, url: str) -> Settings:
    return msgspec.structs.replace(settings, avatar_store=url)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://key:secret@bucket/x", "s3://bucket/x?region=y", "file:///proc/none/x", "memory:///#x",
     "file:///dev/null/x"],
)  # fmt: skip
def test_a_store_that_makes_no_sense_is_told_at_the_start(services: Services, url: str) -> None:
    with pytest.raises(SettingsError, match=r"^VESTIBULE_AVATAR_STORE [^\n]+$") as refusal:
        open_store(at(services.settings, url))
    assert "secret" not in str(refusal.value)


def test_no_store_is_none(services: Services) -> None:
    assert open_store(at(services.settings, "")) is None


async def test_the_description_names_the_form(http: httpx.AsyncClient) -> None:
    paths: dict[str, Any] = json.loads((await http.get("/openapi.json")).text)["paths"]
    form = paths["/me/avatar"]["put"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["image"]["format"] == "binary"
    assert {"200", "400", "401", "404", "413", "415", "429", "503"} <= set(paths["/me/avatar"]["put"]["responses"])
    shown = paths["/avatars/{account_id}/{name}"]["get"]
    assert shown["security"] == [{}]
    assert "image/webp" in shown["responses"]["200"]["content"]
