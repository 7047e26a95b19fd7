"""What `vestibule dev` leaves for the shell: a client that may introspect and an administrator, in `dev.env`."""

import os
import secrets
from pathlib import Path

from service.errors import ClientIdTaken
from service.tokens.client_administration import ClientChanges
from service.tokens.scopes import ADMIN
from service.wiring import Services

INTROSPECTING = "dev-service"
ADMIN_EMAIL = "admin@example.com"
ADMIN_NICKNAME = "admin"
PASSWORD_BYTES = 18


async def furnish(services: Services, file: Path, url: str) -> dict[str, str]:
    """Makes what is not there yet and writes the file; what it holds and is still good stays as it is."""
    kept = _read(file)
    values = {
        "VESTIBULE_URL": url,
        "VESTIBULE_CLIENT_ID": INTROSPECTING,
        "VESTIBULE_CLIENT_SECRET": await _client_secret(services, kept.get("VESTIBULE_CLIENT_SECRET", "")),
    }
    password = await _admin_password(services, kept.get("VESTIBULE_ADMIN_PASSWORD", ""))
    if password:
        values |= {"VESTIBULE_ADMIN_EMAIL": ADMIN_EMAIL, "VESTIBULE_ADMIN_PASSWORD": password}
    _write(file, values)
    return values


async def _client_secret(services: Services, kept: str) -> str:
    await services.clients.reload()
    if kept and await services.clients.holder(INTROSPECTING, kept):
        return kept
    try:
        values = ClientChanges(name="A service", may_introspect=True)
        _, made = await services.client_administration.register(INTROSPECTING, values, confidential=True)
    except ClientIdTaken:
        made = None
    return made.secret if made else await services.client_administration.replace_secrets(INTROSPECTING)


async def _admin_password(services: Services, kept: str) -> str:
    """The password of the administrator; empty when there is one whose password this file does not know."""
    account = await services.administration.find(ADMIN_EMAIL)
    if account is not None:
        return kept if await services.passwords.verify(account.password_hash, kept) else ""
    if await services.administration.find(ADMIN_NICKNAME) is not None:
        return ""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    await services.administration.create(ADMIN_EMAIL, ADMIN_NICKNAME, password, (ADMIN,))
    return password


def _read(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _write(file: Path, values: dict[str, str]) -> None:
    draft = file.with_suffix(".draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.writelines(f"{name}={value}\n" for name, value in values.items())
    draft.replace(file)
