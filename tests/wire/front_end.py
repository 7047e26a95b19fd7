"""The endpoints of the front-end API that take a body, and somebody who may call them all."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

from tests.conftest import PASSWORD

JSON = "application/json"
USER = "/users/{id}"
PROFILE: dict[str, Any] = {"nickname": "nobody-on-the-wire", "avatar_url": "https://img.example/a.webp", "locale": "ko"}
REGISTER: dict[str, Any] = {"email": "nobody@example.com", "password": PASSWORD, "nickname": "nobody-at-all"}
OPEN: dict[str, dict[str, Any]] = {
    "/auth/register": REGISTER,
    "/auth/verify": {"registration": "vrg_nothing", "code": "000000"},
    "/auth/verify/resend": {"registration": "vrg_nothing"},
    "/auth/login": {"email": "stranger@example.com", "password": PASSWORD},
    "/auth/refresh": {"refresh_token": "vrt_nothing"},
    "/auth/logout": {"refresh_token": "vrt_nothing"},
    "/auth/password/forgot": {"email": "stranger@example.com"},
    "/auth/password/reset": {"token": "vpr_nothing", "password": PASSWORD},
}
NEED_A_TOKEN: dict[str, dict[str, Any]] = {
    "/auth/reauthenticate": {"password": "not the words of anybody"},
    "/me": PROFILE,
    "/me/password": {"current_password": "not the words of anybody", "new_password": PASSWORD},
    "/me/email": {"email": "nobody@example.com", "password": "not the words of anybody"},
    "/me/email/confirm": {"token": "vec_nothing"},
    USER: PROFILE,
}
BODIES = {**OPEN, **NEED_A_TOKEN}
FRONT_END = tuple(BODIES)
PATCHED = ("/me", USER)
"""Where every field may be left out; the others are posted to."""


@dataclass(frozen=True)
class Caller:
    """Somebody who is signed in, with a client of their own."""

    http: httpx.AsyncClient
    account: str
    access_token: str

    async def send(self, path: str, content: Any, content_type: str | None = JSON, **headers: str) -> httpx.Response:
        """A body that takes the way of its endpoint, just as it is."""
        given = {"Authorization": f"Bearer {self.access_token}", **headers}
        if content_type is not None:
            given["Content-Type"] = content_type
        method = "PATCH" if path in PATCHED else "POST"
        return await self.http.request(method, path.replace("{id}", self.account), content=content, headers=given)

    async def send_json(self, path: str, body: object) -> httpx.Response:
        """A document."""
        return await self.send(path, json.dumps(body).encode())
