"""What may not become a nickname, a language or a picture, and which fields are nobody's to change."""

from typing import Any

import httpx
import pytest

from service.wiring import Services
from tests.conftest import Person
from tests.deeds import field_codes, row_of

PICTURE = "https://pictures.example.com/me.png?size=80#face"


async def change(http: httpx.AsyncClient, person: Person, body: dict[str, Any]) -> httpx.Response:
    return await http.patch("/me", json=body, headers=person.headers)


@pytest.mark.standard("LG-03", "LG-04", "CL-17")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)",
        "JavaScript:alert(1)//https://x.example.com",
        "data:image/png;base64,AAAA",
        "http://pictures.example.com/me.png",
        "ftp://pictures.example.com/me.png",
        "//pictures.example.com/me.png",
        "/me.png",
        "https:pictures.example.com/me.png",
        "https:///me.png",
        "https://",
        "https://me@pictures.example.com/me.png",
        "https://me:secret@pictures.example.com/me.png",
        "https://@pictures.example.com/me.png",
        "https://pictures.example.com\\@evil.example/me.png",
        "https:\\\\pictures.example.com/me.png",
        " https://pictures.example.com/me.png",
        "https://pictures.example.com/me.png ",
        "https://pictures.example.com/a b.png",
        "https://pictures.example.com/a\tb.png",
        "https://pictures.example.com/a\nb.png",
        "ht\ntps://pictures.example.com/a.png",
        "https://pictures.example.com/\x00.png",
        "https://pictures.example.com/\x7f.png",
        "https://pictures.example.com/\u00e4.png",
        "https://pictures.example.com/\u202egnp.exe",
        "https://p\u0456ctures.example.com/me.png",
        "https://pictures.example.com:99999/me.png",
        "https://pictures.example.com:0/me.png",
        "https://pictures.example.com:port/me.png",
        "https://[::1/me.png",
        "https://pictures.example.com/" + "a" * 2048,
    ],
)
async def test_only_a_plain_https_link_may_be_a_picture(
    http: httpx.AsyncClient, services: Services, person: Person, url: str
) -> None:
    answer = await change(http, person, {"avatar_url": url, "locale": "ko"})

    assert answer.status_code == 400, url
    assert answer.json()["code"] in {"invalid_input", "malformed_request"}
    row = await row_of(services, person)
    assert (row.avatar_url, row.locale) == (None, "en")


async def test_a_picture_link_may_have_two_thousand_and_forty_eight_characters(
    http: httpx.AsyncClient, person: Person
) -> None:
    head = "https://pictures.example.com/"
    longest = head + "a" * (2048 - len(head))
    assert (await change(http, person, {"avatar_url": longest})).json()["avatar_url"] == longest
    assert field_codes(await change(http, person, {"avatar_url": longest + "a"})) == [
        ("avatar_url", "avatar_url_invalid")
    ]


@pytest.mark.standard("LG-03", "LG-04", "LG-16")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("nickname", value)
            for value in (
                None,
                7,
                ["ann"],
                "",
                "a",
                "a" * 33,
                "a" * 5000,
                ".ann",
                "ann lee",
                "ann\nBcc: x@example.com",
                "ann\x00lee",
                "\uff41\uff4e\uff4e",
                "ann\u200blee",
                "\u3164\u3164",
                "<b>ann</b>",
            )
        ),
        *(
            ("locale", value)
            for value in (None, 7, "", "e", "english", "en_US", "en-", "en US", "xx-\x00", "en\n", "e" * 500)
        ),
        ("avatar_url", 7),
        ("avatar_url", {"url": PICTURE}),
    ],
)
async def test_nicknames_and_languages_are_as_they_must_be(
    http: httpx.AsyncClient, services: Services, person: Person, name: str, value: object
) -> None:
    answer = await change(http, person, {name: value})

    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    row = await row_of(services, person)
    assert (row.nickname, row.locale, row.avatar_url) == (person.nickname, "en", None)


@pytest.mark.standard("LG-15")
@pytest.mark.parametrize(
    "more",
    [
        {"roles": ["admin"]},
        {"is_admin": True},
        {"id": "00000000-0000-0000-0000-000000000000"},
        {"email": "other@example.com"},
        {"email_verified": True},
        {"password_hash": "x"},
        {"password_changed_at": "2020-01-01T00:00:00Z"},
        {"nickname_key": "somebody"},
        {"disabled_at": None},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"tenant_id": 1},
    ],
)
async def test_a_field_that_is_not_theirs_to_change_changes_nothing(
    http: httpx.AsyncClient, services: Services, person: Person, more: dict[str, object]
) -> None:
    before = _columns(await row_of(services, person))

    answer = await change(http, person, {"locale": "ko", **more})

    assert answer.status_code == 400, answer.text
    assert _columns(await row_of(services, person)) == before


def _columns(row: Any) -> dict[str, object]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}
