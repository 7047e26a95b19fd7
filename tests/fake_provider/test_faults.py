"""Each thing that can go wrong at the fake provider goes wrong, in its sign-in alone, and nothing else with it."""

import asyncio
import hmac
from hashlib import sha256
from typing import Any, cast
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.crypto.opaque import base64url
from service.fake_provider.faults import DISCOVERY_FAULTS, FAULTS
from tests.fake_provider.visiting import (
    BACK,
    CLIENT,
    NONCE,
    PROVIDERS,
    STATE,
    URL,
    VERIFIER,
    Visitor,
    at_hash_of,
    told_by,
)

ISSUER = f"{URL}/openid"
DOCUMENT = "/openid/.well-known/openid-configuration"
ANOTHER_ISSUER = "https://another-issuer.example"

WAYS_BACK: dict[str, dict[str, str | None]] = {
    "": {"state": STATE, "iss": ISSUER},
    "cancelled": {"error": "access_denied", "state": STATE, "iss": ISSUER},
    "server_error": {"error": "server_error", "state": STATE, "iss": ISSUER, "code": None},
    "wrong_iss": {"state": STATE, "iss": ANOTHER_ISSUER},
    "no_iss": {"state": STATE, "iss": None},
    "no_state": {"state": None, "iss": ISSUER},
    "wrong_state": {"iss": ISSUER},
}
CLAIMS = {
    "": set[str](),
    "wrong_nonce": {"nonce"},
    "no_nonce": {"nonce"},
    "wrong_audience": {"aud"},
    "extra_audience": {"aud"},
    "wrong_issuer": {"iss"},
    "expired": {"iat", "exp"},
    "issued_in_future": {"iat", "exp"},
    "wrong_at_hash": {"at_hash"},
    "no_subject": {"sub"},
    "profile_only": {"email", "email_verified"},
}
"""Which claims of an ID token are another thing than they should be."""
SIGNATURES = {"bad_signature", "unsigned", "hs256_with_public_key", "unknown_key"}
WITH_A_TEST_OF_ITS_OWN = {"no_id_token", "profile_other_subject", "profile_unauthorized", "token_refused"}
STEPS = {
    f"{step}_{kind}"
    for step, kinds in {
        "token": ("500", "slow", "rubbish", "list", "without_token", "huge", "redirect", "gzip_bomb"),
        "profile": ("500", "slow", "rubbish", "redirect"),
    }.items()
    for kind in kinds
}
LATER = {"guilds_500", "guilds_unauthorized", "guilds_limited", "refresh_refused", "refresh_500"}


def test_no_fault_is_without_a_test() -> None:
    tested = {*WAYS_BACK, *CLAIMS, *SIGNATURES, *WITH_A_TEST_OF_ITS_OWN, *STEPS, *LATER}
    assert tested - {""} == FAULTS


@pytest.mark.parametrize("fault", WAYS_BACK)
async def test_the_way_back_goes_wrong(visitor: Visitor, fault: str) -> None:
    told = told_by((await visitor.choose(fault=fault)).headers["location"])
    assert {name: told.get(name) for name in WAYS_BACK[fault]} == WAYS_BACK[fault]
    assert ("code" in told) is not ("error" in told)
    assert ("<script>" in told.get("error_description", "")) is (fault == "cancelled")
    assert (told.get("state") != STATE) is fault.endswith("_state")


async def test_somebody_who_cancels_needs_no_name(visitor: Visitor) -> None:
    told = told_by((await visitor.choose(person="", decision="cancel")).headers["location"])
    assert told == {"site": "1", "error": "access_denied", "state": STATE, "iss": ISSUER}


@pytest.mark.parametrize("fault", CLAIMS)
async def test_an_id_token_is_wrong_in_that_and_right_in_all_else(visitor: Visitor, fault: str) -> None:
    tokens = await visitor.tokens(fault=fault)
    claims = await visitor.claims(tokens["id_token"])
    now = int(visitor.fake.clock().timestamp())
    right = {
        **{"iss": ISSUER, "sub": "ann-1", "aud": CLIENT[0], "nonce": NONCE, "iat": now, "exp": now + 600},
        **{"email": "ann@example.net", "email_verified": True, "at_hash": at_hash_of(tokens["access_token"])},
    }
    assert {name for name, value in right.items() if claims.get(name) != value} == CLAIMS[fault]
    assert claims.get("exp", 0) > now or fault == "expired"
    assert claims["iat"] <= now or fault == "issued_in_future"
    assert (CLIENT[0] in claims["aud"]) is (fault != "wrong_audience")
    assert ("nonce" in claims, "sub" in claims) == (fault != "no_nonce", fault != "no_subject")
    profile = (await visitor.get("/openid/userinfo", tokens)).json()
    assert (profile["sub"], profile["email"]) == ("ann-1", "ann@example.net")


@pytest.mark.parametrize("fault", sorted(SIGNATURES))
async def test_a_signature_is_not_to_be_believed(visitor: Visitor, fault: str) -> None:
    token = (await visitor.tokens(fault=fault))["id_token"]
    header, (published,) = jwt.get_unverified_header(token), (await visitor.http.get("/openid/jwks")).json()["keys"]
    signed, _, signature = token.rpartition(".")
    algorithms = {"unsigned": "none", "hs256_with_public_key": "HS256"}
    assert header["alg"] == algorithms.get(fault, "ES256")
    assert (header["kid"] == published["kid"]) is (fault != "unknown_key")
    if fault == "unsigned":
        assert signature == ""
    elif fault == "hs256_with_public_key":
        public = cast("Any", jwt.PyJWK(published).key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert signature == base64url(hmac.new(public, signed.encode(), sha256).digest())
    else:
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, jwt.PyJWK(published), algorithms=["ES256"], options={"verify_aud": False})


async def test_an_id_token_can_be_missing_and_a_profile_about_somebody_else(visitor: Visitor) -> None:
    assert "id_token" not in await visitor.tokens(fault="no_id_token")
    tokens = await visitor.tokens(fault="profile_other_subject")
    assert (await visitor.claims(tokens["id_token"]))["sub"] == "ann-1"
    assert (await visitor.get("/openid/userinfo", tokens)).json()["sub"] == "ann-1-2"


@pytest.mark.parametrize("site", PROVIDERS)
async def test_a_code_and_a_profile_can_be_refused(visitor: Visitor, site: str) -> None:
    refused = await visitor.redeem(site, await visitor.code(site, fault="token_refused"))
    told = (200, "bad_verification_code") if site == "github" else (400, "invalid_grant")
    assert (refused.status_code, refused.json()["error"]) == told
    tokens = await visitor.tokens(site, fault="profile_unauthorized")
    assert (await visitor.get(PROVIDERS[site].profile, tokens)).status_code == 401


@pytest.mark.parametrize("site", ["discord", "github"])
async def test_a_profile_can_be_without_an_id(visitor: Visitor, site: str) -> None:
    profile = (await visitor.get(PROVIDERS[site].profile, await visitor.tokens(site, fault="no_subject"))).json()
    assert "id" not in profile
    assert "ann" in profile.values()


@pytest.mark.parametrize("site", PROVIDERS)
@pytest.mark.parametrize("step", ["token", "profile"])
async def test_an_endpoint_answers_badly(visitor: Visitor, site: str, step: str) -> None:
    broken = await answer_of(visitor, site, step, "500")
    assert broken.status_code == 500
    rubbish = await answer_of(visitor, site, step, "rubbish")
    assert (rubbish.status_code, rubbish.headers["content-type"].partition(";")[0]) == (200, "text/html")
    right, elsewhere = await answer_of(visitor, site, step), await answer_of(visitor, site, step, "redirect")
    assert elsewhere.status_code == 302
    followed = await visitor.http.get(elsewhere.headers["location"])
    assert (followed.status_code, followed.json().keys()) == (200, right.json().keys())
    assert visitor.fake.requests[-1].startswith("GET /elsewhere/")


@pytest.mark.parametrize("site", PROVIDERS)
async def test_a_token_endpoint_answers_what_is_no_token_or_too_much(visitor: Visitor, site: str) -> None:
    assert (await answer_of(visitor, site, "token", "list")).json() == []
    assert (await answer_of(visitor, site, "token", "without_token")).json() == {}
    huge = await answer_of(visitor, site, "token", "huge")
    assert len(huge.content) > 4_000_000
    assert huge.json().keys() == (await answer_of(visitor, site, "token")).json().keys()


async def test_a_form_can_be_too_long_as_well(visitor: Visitor) -> None:
    form = {"code": await visitor.code("github", fault="token_huge"), "redirect_uri": BACK, "code_verifier": VERIFIER}
    huge = await visitor.http.post(PROVIDERS["github"].token, data=form, auth=CLIENT)
    assert len(huge.content) > 4_000_000
    assert "access_token" in parse_qs(huge.text)


async def test_a_short_answer_unfolds_to_a_long_one(visitor: Visitor) -> None:
    bomb = await answer_of(visitor, "openid", "token", "gzip_bomb")
    assert bomb.headers["content-encoding"] == "gzip"
    assert int(bomb.headers["content-length"]) < 1_000_000
    assert len(bomb.content) > 50_000_000
    assert "access_token" in bomb.json()


@pytest.mark.parametrize("step", ["token", "profile"])
async def test_a_right_answer_can_take_too_long(visitor: Visitor, step: str) -> None:
    visitor.fake.slow = 0
    assert (await answer_of(visitor, "openid", step, "slow")).status_code == 200
    visitor.fake.slow = 3600
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(answer_of(visitor, "openid", step, "slow"), 0.2)


async def test_guilds_go_wrong_later(visitor: Visitor) -> None:
    path, statuses = "/discord/api/v10/users/@me/guilds", {}
    for fault in ("", "guilds_500", "guilds_unauthorized", "guilds_limited"):
        tokens = await visitor.tokens("discord", fault=fault)
        assert (await visitor.get("/discord/api/v10/users/@me", tokens)).status_code == 200
        answer = await visitor.get(path, tokens)
        statuses[fault] = (answer.status_code, answer.headers.get("retry-after"))
    assert list(statuses.values()) == [(200, None), (500, None), (401, None), (429, "7")]


@pytest.mark.parametrize("site", ["openid", "discord"])
async def test_refreshing_goes_wrong_each_time(visitor: Visitor, site: str) -> None:
    for fault, status in (("refresh_refused", 400), ("refresh_500", 500)):
        token = (await visitor.tokens(site, fault=fault))["refresh_token"]
        assert [(await visitor.refresh(site, token)).status_code for _ in range(2)] == [status, status]


async def test_a_fault_stays_with_its_sign_in(visitor: Visitor) -> None:
    bad, good = await visitor.tokens("discord", fault="guilds_500"), await visitor.tokens("discord")
    path = "/discord/api/v10/users/@me/guilds"
    after = (await visitor.refresh("discord", bad["refresh_token"])).json()
    assert [(await visitor.get(path, tokens)).status_code for tokens in (bad, after, good)] == [500, 500, 200]


async def test_discovery_is_wrong_for_everybody_until_that_is_taken_back(visitor: Visitor) -> None:
    right = (await visitor.http.get(DOCUMENT)).json()
    differing = {
        "wrong_issuer": {"issuer": f"{ISSUER}/"},
        "other_issuer": {"issuer": ANOTHER_ISSUER},
        "no_iss_support": {"authorization_response_iss_parameter_supported": False},
        "internal_endpoints": {
            "token_endpoint": "http://169.254.169.254/token",
            "jwks_uri": "http://169.254.169.254/jwks",
        },
        "jwks_down": {},
        "jwks_rubbish": {},
    }
    statuses = {"down": 500, "rubbish": 200, "slow": 200, "http_redirect": 302}
    assert differing.keys() | statuses.keys() == DISCOVERY_FAULTS.keys()
    for fault, other in differing.items():
        assert (await visitor.http.post("/", data={"discovery_fault": fault})).status_code == 303
        assert (await visitor.http.get(DOCUMENT)).json() == right | other, fault
    visitor.fake.slow = 0
    for fault, status in statuses.items():
        visitor.fake.discovery_fault = fault
        answer = await visitor.http.get(DOCUMENT)
        assert (answer.status_code, answer.text.startswith("<!doctype")) == (status, fault == "rubbish"), fault
    assert (await visitor.http.post("/", data={"discovery_fault": ""})).status_code == 303
    assert (await visitor.http.get(DOCUMENT)).json() == right


async def test_the_key_set_goes_wrong(visitor: Visitor) -> None:
    answers = {}
    for fault in ("", "jwks_down", "jwks_rubbish"):
        visitor.fake.discovery_fault = fault
        answer = await visitor.http.get("/openid/jwks")
        answers[fault] = (answer.status_code, answer.headers["content-type"].partition(";")[0])
    assert answers == {
        "": (200, "application/json"),
        "jwks_down": (500, "text/plain"),
        "jwks_rubbish": (200, "text/html"),
    }


async def test_a_fault_of_discovery_that_is_not_there_is_refused(visitor: Visitor) -> None:
    assert (await visitor.http.post("/", data={"discovery_fault": "gone"})).status_code == 400
    with pytest.raises(ValueError, match="gone"):
        visitor.fake.discovery_fault = "gone"


async def test_the_first_page_shows_every_person_and_every_fault(visitor: Visitor) -> None:
    page = (await visitor.http.get("/")).text
    assert [
        name for name in ("ann", "bob", "조은", "大地", "eve", *FAULTS, *DISCOVERY_FAULTS) if name not in page
    ] == []


async def answer_of(visitor: Visitor, site: str, step: str, kind: str = "") -> httpx.Response:
    """What an endpoint says where this kind of fault was chosen for it."""
    fault = f"{step}_{kind}" if kind else ""
    if step == "token":
        return await visitor.redeem(site, await visitor.code(site, fault=fault))
    return await visitor.get(PROVIDERS[site].profile, await visitor.tokens(site, fault=fault))
