"""The main job, from nobody to signed out."""

import httpx

from service.wiring import Services
from tests.conftest import Introspector, Outbox, begin_sign_up, mailed_code, somebody


async def test_a_person_signs_up_proves_the_address_refreshes_and_signs_out(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)

    verified = await http.post("/auth/verify", json={"registration": handle, "code": code})
    assert verified.status_code == 200
    assert verified.json()["token_type"] == "Bearer"
    assert (await introspector.ask(http, verified.json()["access_token"]))["active"] is True

    login = await http.post("/auth/login", json=person.credentials())
    assert login.status_code == 200
    refreshed = await http.post("/auth/refresh", json={"refresh_token": login.json()["refresh_token"]})
    assert refreshed.status_code == 200
    token = refreshed.json()["access_token"]
    told = await introspector.ask(http, token)
    assert told["active"] is True
    me = await http.get("/me", headers={"Authorization": f"Bearer {token}"})
    assert (me.json()["email"], me.json()["id"]) == (person.email, told["sub"])

    out = await http.post("/auth/logout", json={"refresh_token": refreshed.json()["refresh_token"]})
    assert (out.status_code, out.content) == (204, b"")
    assert await introspector.ask(http, token) == {"active": False}
    assert (await http.get("/me", headers={"Authorization": f"Bearer {token}"})).status_code == 401
    # The other session goes on.
    assert (await introspector.ask(http, verified.json()["access_token"]))["active"] is True
