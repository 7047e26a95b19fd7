"""How a command gets at the service, and how it ends: 0 done, 1 refused or failed, 2 wrong usage or settings."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import click
import structlog

from service import logs
from service.crypto.sealing import UnsealError
from service.errors import ServiceError
from service.mail.message import NoTransport
from service.setting_values import SettingsError
from service.settings import Settings, load
from service.wiring import Services, build

T = TypeVar("T")

FAILED, MISUSED = 1, 2


def with_services(action: Callable[[Services], Awaitable[T]]) -> T:
    """Runs one action on the wired service and ends the process with one line when it is refused."""
    logs.configure(readable=True, level="warning")
    settings = settings_or_end()
    try:
        return asyncio.run(_run(settings, action))
    except SettingsError as error:
        end(str(error), MISUSED)
    except ServiceError as refusal:
        end(_told(refusal))
    except UnsealError:
        end("a signing key cannot be unsealed: put the root key that sealed it back into VESTIBULE_KEYS")


async def prepare(services: Services) -> None:
    """Gives a new installation its first signing keys and its default front end."""
    await services.signing_keys.ensure()
    await services.client_administration.ensure_front_end()


def settings_or_end() -> Settings:
    """The settings of the environment; ends the process with one line that names what is wrong."""
    try:
        return load(os.environ)
    except SettingsError as error:
        end(str(error), MISUSED)


def end(message: str, code: int = FAILED) -> NoReturn:
    """Says one line on standard error and ends."""
    click.secho(f"vestibule: {message}", err=True, fg="red" if sys.stderr.isatty() else None)
    raise SystemExit(code)


async def _run(settings: Settings, action: Callable[[Services], Awaitable[T]]) -> T:
    services = build(settings, mail=lambda _: NoTransport())
    structlog.contextvars.bind_contextvars(user_agent="vestibule command line")
    try:
        result = await action(services)
        await services.audit.flush()
    finally:
        await services.close()
    return result


def _told(refusal: ServiceError) -> str:
    details = "; ".join(f"{field.field}: {field.detail}" for field in refusal.fields)
    return details or f"{refusal.detail}{f' ({refusal.reason})' if refusal.reason else ''}"
