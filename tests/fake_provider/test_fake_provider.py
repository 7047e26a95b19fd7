"""The fake provider of `vestibule dev`: three whole sign-ins, and that it is as strict as the real ones."""

from typing import Any
from urllib.parse import parse_qs

import pytest

from service.fake_provider.provider import FakeProvider
from tests.fake_provider.visiting import (
    BACK,
    CLIENT,
    NONCE,
    OTHER_CLIENT,
    PROVIDERS,
    STATE,
    URL,
    VERIFIER,
    StandingClock,
    Visitor,
    at_hash_of,
    challenge_of,
    told_by,
    visiting,
)


async def test_the_openid_provider_signs_ann_in_with_all_that_her_scopes_allow(visitor: Visitor) -> None:
    location = (await visitor.choose()).headers["location"]
    assert location.startswith(BACK + "&")
    assert {**told_by(location), "code": ""} == {"site": "1", "code": "", "state": STATE, "iss": f"{URL}/openid"}
    tokens = (await visitor.redeem("openid", told_by(location)["code"])).json()
    claims = await visitor.claims(tokens["id_token"])
    profile = (await visitor.get("/openid/userinfo", tokens)).json()
    about_ann = {
        "sub": "ann-1",
        "email": "ann@example.net",
        "email_verified": True,
        "name": "Ann Archer",
        "preferred_username": "ann",
        "picture": f"{URL}/pictures/ann.png",
        "locale": "en-US",
    }
    now = int(visitor.fake.clock().timestamp())
    issued = {"iss": f"{URL}/openid", "aud": CLIENT[0], "nonce": NONCE, "iat": now, "exp": now + 600}
    assert profile == about_ann
    assert claims == {**about_ann, **issued, "at_hash": at_hash_of(tokens["access_token"])}
    assert (await visitor.http.get(profile["picture"])).content.startswith(b"\x89PNG")


async def test_scopes_that_were_not_asked_for_show_nothing(visitor: Visitor) -> None:
    tokens = (await visitor.redeem("openid", await visitor.code(asked={"scope": "openid"}))).json()
    assert (await visitor.get("/openid/userinfo", tokens)).json() == {"sub": "ann-1"}
    assert not {"email", "name"} & (await visitor.claims(tokens["id_token"])).keys()
    without = (await visitor.redeem("openid", await visitor.code(asked={"scope": "email"}))).json()
    assert "id_token" not in without


async def test_discord_tells_of_a_person_and_their_guilds(visitor: Visitor) -> None:
    location = (await visitor.choose("discord", person="cho")).headers["location"]
    assert "iss" not in told_by(location)
    tokens = (await visitor.redeem("discord", told_by(location)["code"])).json()
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 604800)
    user = (await visitor.get("/discord/api/v10/users/@me", tokens)).json()
    expected = {"id": "800000000000000003", "username": "cho", "global_name": "조은", "avatar": None, "locale": "ko"}
    assert user == expected | {"discriminator": "0", "mfa_enabled": False, "email": None, "verified": False}
    guilds = (await visitor.get("/discord/api/v10/users/@me/guilds", tokens)).json()
    assert len(guilds) == 2
    assert all(guild.keys() == {"id", "name", "icon", "owner", "permissions", "features"} for guild in guilds)
    assert isinstance(guilds[0]["permissions"], str)


async def test_discord_refuses_calls_without_the_scope_and_after_the_end_of_a_token(
    visitor: Visitor, standing_clock: StandingClock
) -> None:
    narrow = (await visitor.redeem("discord", await visitor.code("discord", asked={"scope": "identify"}))).json()
    assert "email" not in (await visitor.get("/discord/api/v10/users/@me", narrow)).json()
    assert (await visitor.get("/discord/api/v10/users/@me/guilds", narrow)).status_code == 401
    visitor.fake.discord_token_life = 100
    tokens = await visitor.tokens("discord")
    standing_clock.advance(99)
    assert (await visitor.get("/discord/api/v10/users/@me", tokens)).status_code == 200
    standing_clock.advance(1)
    over = await visitor.get("/discord/api/v10/users/@me", tokens)
    assert (over.status_code, over.json()) == (401, {"message": "401: Unauthorized", "code": 0})


async def test_github_tells_addresses_at_an_endpoint_of_their_own(visitor: Visitor) -> None:
    location = (await visitor.choose("github")).headers["location"]
    assert told_by(location)["iss"] == f"{URL}/github/login/oauth"
    tokens = (await visitor.redeem("github", told_by(location)["code"])).json()
    assert tokens | {"access_token": ""} == {
        "access_token": "",
        "token_type": "bearer",
        "scope": "read:user,user:email",
    }
    user = (await visitor.get("/github/api/v3/user", tokens)).json()
    expected = {"id": 9000001, "login": "ann", "name": "Ann Archer", "email": None}
    assert user == expected | {"avatar_url": f"{URL}/pictures/ann.png"}
    addresses = (await visitor.get("/github/api/v3/user/emails", tokens)).json()
    primary = {"email": "ann@example.net", "primary": True, "verified": True, "visibility": "private"}
    assert [address for address in addresses if address["primary"]] == [primary]
    assert (await visitor.get("/github/api/v3/user/emails", await visitor.tokens("github", person="cho"))).json() == []


async def test_github_answers_errors_with_status_200_and_forms_unless_json_is_asked_for(visitor: Visitor) -> None:
    refused = await visitor.redeem("github", "unknown")
    assert (refused.status_code, refused.json()["error"]) == (200, "bad_verification_code")
    stranger = await visitor.redeem("github", "unknown", (CLIENT[0], "wrong"))
    assert (stranger.status_code, stranger.json()["error"]) == (200, "incorrect_client_credentials")
    form = {"code": await visitor.code("github"), "redirect_uri": BACK, "code_verifier": VERIFIER}
    named = {"client_id": CLIENT[0], "client_secret": CLIENT[1]}
    answer = await visitor.http.post("/github/login/oauth/access_token", data=form | named)
    assert answer.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert parse_qs(answer.text).keys() == {"access_token", "token_type", "scope"}


@pytest.mark.parametrize("site", PROVIDERS)
async def test_a_code_is_good_once_in_its_minute_for_its_client_redirect_and_verifier(
    visitor: Visitor, standing_clock: StandingClock, site: str
) -> None:
    wrongs: list[dict[str, Any]] = [
        {"redirect_uri": BACK + "2"},
        {"client": OTHER_CLIENT},
        {"code_verifier": VERIFIER[::-1]},
        {"code_verifier": ""},
        {"code": ""},
    ]
    for wrong in wrongs:
        refused = await visitor.redeem(site, **({"code": await visitor.code(site)} | wrong))
        assert "access_token" not in refused.text, wrong
        assert refused.status_code == (200 if site == "github" else 400), wrong
    code, late = await visitor.code(site), await visitor.code(site)
    standing_clock.advance(59)
    assert "access_token" in (await visitor.redeem(site, code)).json()
    assert "access_token" not in (await visitor.redeem(site, code)).json()
    standing_clock.advance(1)
    assert "access_token" not in (await visitor.redeem(site, late)).json()


async def test_a_code_and_a_token_are_good_at_their_own_provider_only(visitor: Visitor) -> None:
    assert (await visitor.redeem("discord", await visitor.code("openid"))).json()["error"] == "invalid_grant"
    tokens = await visitor.tokens("github")
    assert (await visitor.get("/openid/userinfo", tokens)).status_code == 401
    assert (await visitor.get("/discord/api/v10/users/@me", tokens)).status_code == 401


async def test_a_verifier_is_long_and_is_refused_where_no_challenge_was(visitor: Visitor) -> None:
    for verifier in ("a" * 42, "a" * 129):
        code = await visitor.code(asked={"code_challenge": challenge_of(verifier)})
        assert (await visitor.redeem("openid", code, code_verifier=verifier)).json()["error"] == "invalid_grant"
    plain: dict[str, str | None] = {"code_challenge": None, "code_challenge_method": None}
    refused = await visitor.redeem("openid", await visitor.code(asked=plain))
    assert refused.json()["error"] == "invalid_grant"
    assert (await visitor.redeem("openid", await visitor.code(asked=plain), code_verifier="")).status_code == 200


@pytest.mark.parametrize("site", ["openid", "discord"])
async def test_a_refresh_token_is_good_once_and_the_next_one_after_it(visitor: Visitor, site: str) -> None:
    first = await visitor.tokens(site)
    second = (await visitor.refresh(site, first["refresh_token"])).json()
    again = await visitor.refresh(site, first["refresh_token"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    third = await visitor.refresh(site, second["refresh_token"])
    assert (await visitor.get(PROVIDERS[site].profile, third.json())).status_code == 200


async def test_a_client_proves_itself_by_either_method_and_not_by_both(visitor: Visitor) -> None:
    refused = await visitor.redeem("openid", await visitor.code(), (CLIENT[0], "wrong"))
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert (await visitor.redeem("openid", "x", client_secret=CLIENT[1])).json()["error"] == "invalid_request"
    form = {"grant_type": "authorization_code", "code": await visitor.code(), "redirect_uri": BACK}
    named = {"code_verifier": VERIFIER, "client_id": CLIENT[0], "client_secret": CLIENT[1]}
    assert (await visitor.http.post("/openid/token", data=form | named)).status_code == 200


async def test_auth_time_is_told_when_somebody_asked_for_it_or_the_person_chose_it(visitor: Visitor) -> None:
    now = int(visitor.fake.clock().timestamp())
    told = []
    for asked, form in (({}, {}), ({"max_age": "9"}, {}), ({"prompt": "login"}, {}), ({}, {"auth_age": "70"})):
        tokens = (await visitor.redeem("openid", await visitor.code(asked=dict(asked), **form))).json()
        told.append((await visitor.claims(tokens["id_token"])).get("auth_time"))
    assert told == [None, now, now, now - 70]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"email_verified": "text:true"}, ("ann@example.net", "true")),
        ({"email_verified": "number:1"}, ("ann@example.net", 1)),
        ({"email_verified": "absent"}, ("ann@example.net", None)),
        ({"person": "bob"}, ("bob@example.net", False)),
        ({"email": ""}, (None, None)),
        ({"email": "", "blank": "keep"}, ("ann@example.net", True)),
        ({"person": "other", "email": "new@example.net"}, ("new@example.net", True)),
    ],
)
async def test_a_form_says_what_is_told_of_an_address(
    visitor: Visitor, form: dict[str, str], expected: tuple[object, object]
) -> None:
    told = (await visitor.get("/openid/userinfo", await visitor.tokens(**form))).json()
    assert (told.get("email"), told.get("email_verified")) == expected
    assert type(told.get("email_verified")) is type(expected[1])


async def test_somebody_else_is_new_each_time_unless_a_subject_is_given(visitor: Visitor) -> None:
    subjects = [
        (await visitor.get("/discord/api/v10/users/@me", await visitor.tokens("discord", **form))).json()["id"]
        for form in ({"person": "other"}, {"person": "other"}, {"person": "other", "subject": "42"}, {"subject": "43"})
    ]
    assert subjects[2:] == ["42", "43"]
    assert len(set(subjects)) == 4


async def test_calls_are_counted_even_those_that_lead_nowhere(visitor: Visitor) -> None:
    for _ in range(600):
        await visitor.http.get("/openid/jwks")
        await visitor.http.get("/nowhere")
    assert len(visitor.fake.requests) == 1000
    assert visitor.fake.requests[-2:] == ["GET /openid/jwks", "GET /nowhere"]


async def test_only_the_newest_codes_are_kept(visitor: Visitor) -> None:
    first = await visitor.code()
    codes = [await visitor.code() for _ in range(1000)]
    assert (await visitor.redeem("openid", first)).status_code == 400
    assert (await visitor.redeem("openid", codes[0])).status_code == 200


async def test_keys_can_be_added_and_replaced(visitor: Visitor) -> None:
    old = (await visitor.tokens())["id_token"]
    visitor.fake.add_key()
    assert await visitor.claims(old)
    assert len((await visitor.http.get("/openid/jwks")).json()["keys"]) == 2
    visitor.fake.rotate_key()
    assert await visitor.claims((await visitor.tokens())["id_token"])
    with pytest.raises(KeyError):
        await visitor.claims(old)


async def test_two_providers_share_nothing(fake: FakeProvider, visitor: Visitor) -> None:
    code = await visitor.code()
    async with visiting(FakeProvider(URL, fake.clients)) as elsewhere:
        assert (await elsewhere.redeem("openid", code)).status_code == 400
