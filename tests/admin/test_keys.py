"""Signing keys over HTTP: seen without their private half, turned over, and no longer trusted."""

import httpx
import pytest

from service.wiring import Services
from tests.admin.acting import Caller, refusal
from tests.admin.matrix import assert_shown

KEYS = "/admin/keys"


@pytest.mark.standard("AD-07", "AD-18")
async def test_keys_are_shown_with_their_state_and_nothing_of_their_private_half(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    shown = assert_shown("keys", await http.get(KEYS, headers=operator.headers))["items"]
    published = {key["kid"] for key in (await http.get("/.well-known/jwks.json")).json()["keys"]}

    assert {"active", "next"} <= {key["state"] for key in shown}
    assert [key["state"] for key in shown].count("active") == 1
    assert published == {key["kid"] for key in shown if key["state"] != "revoked"}


@pytest.mark.standard("AD-22")
async def test_a_turn_is_scheduled_once_however_often_it_is_asked_for(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    first = assert_shown("rotateKeys", await http.post(f"{KEYS}/rotate", json={}, headers=operator.headers))
    again = assert_shown("rotateKeys", await http.post(f"{KEYS}/rotate", json={}, headers=operator.headers))

    assert first["items"] == again["items"]
    scheduled = [key for key in first["items"] if key["state"] == "next" and key["activates_at"]]
    assert len(scheduled) == 1
    assert (await http.get("/admin/keys", headers=operator.headers)).status_code == 200


@pytest.mark.standard("AD-13")
async def test_a_key_that_is_not_trusted_any_more_is_gone_and_its_place_is_taken(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    coming = [key for key in (await http.get(KEYS, headers=operator.headers)).json()["items"] if key["state"] == "next"]
    kid = coming[-1]["kid"]
    answer = await http.post(f"{KEYS}/{kid}/revoke", json={"reason": "a backup got out"}, headers=operator.headers)
    shown = assert_shown("revokeKey", answer)["items"]

    assert kid not in [key["kid"] for key in shown]
    assert "next" in [key["state"] for key in shown]
    seen = (await http_of_second_worker.get(KEYS, headers=operator.headers)).json()["items"]
    assert kid not in [key["kid"] for key in seen]
    assert kid not in [key["kid"] for key in (await http_of_second_worker.get("/.well-known/jwks.json")).json()["keys"]]
    assert (await http.get("/me", headers=operator.headers)).status_code == 200
    for unknown in (kid, "nobody", "a" * 300, "%00", "%ff", "é", "..%2f..", "'", "%ed%a0%80"):
        answer = await http.post(f"{KEYS}/{unknown}/revoke", json={}, headers=operator.headers)
        assert answer.status_code == 404, unknown
        assert refusal(answer)[1] in {"unknown_key", "not_found"}
