"""What a token says, and what follows from it (RFC 9068)."""

from datetime import timedelta
from uuid import UUID

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from service.crypto.keyring import ALGORITHM
from service.setting_values import SettingsError
from service.settings import load
from service.tokens.clients import CLIENT_ID
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Outbox, Person, sign_up


def claims_of(token: str) -> dict[str, object]:
    told: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return told


async def signed_in(http: httpx.AsyncClient, person: Person) -> dict[str, str]:
    answer = await http.post("/auth/login", json=person.credentials())
    tokens: dict[str, str] = answer.json()
    return tokens


@pytest.mark.standard("AT-23", "AT-24", "AT-25", "AT-40")
async def test_scope_is_one_string_said_twice_and_roles_are_a_list(http: httpx.AsyncClient, person: Person) -> None:
    tokens = await signed_in(http, person)
    claims = claims_of(tokens["access_token"])
    assert claims["scope"] == tokens["scope"] == "account"
    assert claims["roles"] == []
    assert claims["aud"] == ISSUER


@pytest.mark.standard("AT-24", "AT-47")
async def test_roles_of_an_account_reach_its_tokens_and_introspection(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    made = Person("roles@example.com", "roles-of-mine")
    await services.administration.create(made.email, made.nickname, made.password, ("admin", "support"))
    token = (await signed_in(http, made))["access_token"]
    assert claims_of(token)["roles"] == ["admin", "support"]
    assert (await introspector.ask(http, token))["roles"] == ["admin", "support"]


@pytest.mark.standard("AT-10", "AT-21")
async def test_a_person_is_issuer_and_subject_and_no_client_can_be_called_like_one(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    first, second = await sign_up(http, services, outbox), await sign_up(http, services, outbox)
    subjects = {str(claims_of(person.access_token)["sub"]) for person in (first, second)}
    again = claims_of((await signed_in(http, first))["access_token"])
    assert len(subjects) == 2
    assert (again["iss"], again["sub"] in subjects) == (ISSUER, True)
    assert all(UUID(subject).version == 7 for subject in subjects)
    assert not any(CLIENT_ID.fullmatch(f"a{subject[1:]}") for subject in subjects)


@pytest.mark.standard("LG-10", "LG-11")
async def test_a_mailed_code_proves_an_address_and_is_no_way_to_sign_in(
    http: httpx.AsyncClient, person: Person
) -> None:
    assert claims_of(person.access_token)["amr"] == ["email"]
    assert claims_of((await signed_in(http, person))["access_token"])["amr"] == ["pwd"]
    assert "acr" not in claims_of(person.access_token)
    for body in ({"email": person.email}, {"email": person.email, "code": "123456"}):
        assert (await http.post("/auth/login", json=body)).status_code == 400


@pytest.mark.standard("AT-15", "AT-42")
async def test_no_grant_takes_a_password(http: httpx.AsyncClient, person: Person) -> None:
    form = {"grant_type": "password", "username": person.email, "password": person.password, "client_id": "web"}
    answer = await http.post("/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


@pytest.mark.standard("KY-17", "KY-28")
async def test_keys_are_p256_and_sign_es256(services: Services) -> None:
    key = services.signing_keys.keyring.current(services.clock())
    assert key is not None
    assert isinstance(key.private.curve, ec.SECP256R1)
    assert (ALGORITHM, key.jwk["alg"], key.jwk["crv"]) == ("ES256", "ES256", "P-256")


@pytest.mark.standard("SE-10", "SE-24", "PF-50")
@pytest.mark.parametrize(
    ("absolute", "idle"), [(timedelta(days=31), timedelta(days=14)), (timedelta(days=7), timedelta(days=8))]
)
def test_sessions_that_last_too_long_stop_the_start(
    environ: dict[str, str], absolute: timedelta, idle: timedelta
) -> None:
    given = {
        "VESTIBULE_SESSION_ABSOLUTE": str(int(absolute.total_seconds())),
        "VESTIBULE_SESSION_IDLE": str(int(idle.total_seconds())),
    }
    with pytest.raises(SettingsError, match="VESTIBULE_SESSION_"):
        load({**environ, **given})
