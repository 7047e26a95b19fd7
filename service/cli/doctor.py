"""`vestibule doctor`: looks at everything the service needs, and says what to do about what is not well."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import click

from service import logs
from service.cli.running import FAILED, settings_or_end
from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError
from service.errors import ProviderUnavailable, Unavailable
from service.mail.message import MailNotSent, NoTransport
from service.mail.smtp import Smtp
from service.setting_values import SettingsError
from service.settings import Settings
from service.store.schema import is_current
from service.wiring import Services, build

TIME_LIMIT = 15.0
MOST_SKEW = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found: `advice` is empty when all is well."""

    name: str
    detail: str
    advice: str = ""


@click.command()
def doctor() -> None:
    """Check settings, PostgreSQL, Redis, migrations, keys, clock, mail and providers.

    Ends with 1 when something is not well.
    """
    logs.configure(readable=True, level="error")
    settings = settings_or_end()
    findings = asyncio.run(examine(settings))
    for finding in findings:
        mark = click.style("✗", fg="red") if finding.advice else click.style("✓", fg="green")
        click.echo(f"{mark} {finding.name:<14} {finding.detail}")
        if finding.advice:
            click.echo(f"  → {finding.advice}")
    if any(finding.advice for finding in findings):
        raise SystemExit(FAILED)


async def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which one would mend them."""
    try:
        RootKeys.parse(settings.keys)
    except SettingsError as error:
        return [Finding("settings", str(error), "set VESTIBULE_KEYS to what `vestibule keys generate` prints")]
    services = build(settings, mail=lambda _: NoTransport())
    looks: tuple[tuple[str, Callable[[Services], Awaitable[Finding]]], ...] = (
        ("postgres", _postgres),
        ("migrations", _migrations),
        ("signing keys", _signing_keys),
        ("redis", _redis),
        ("clock", _clock),
        ("mail", _mail),
        ("providers", _providers),
    )
    try:
        return [
            Finding("settings", f"issuer {settings.issuer}"),
            *[await _look(services, *look) for look in looks],
        ]
    finally:
        await services.close()


async def _look(services: Services, name: str, look: Callable[[Services], Awaitable[Finding]]) -> Finding:
    try:
        async with asyncio.timeout(TIME_LIMIT):
            return await look(services)
    except Unavailable as error:
        store = "REDIS_URL" if error.reason.startswith("redis") else "DATABASE_URL"
        return Finding(name, f"not reached ({error.reason})", f"check {store}, that the server runs, and the network")
    except TimeoutError:
        return Finding(name, "no answer in 15 seconds", "check the network and the server's load")


async def _postgres(services: Services) -> Finding:
    await services.database.ping()
    return Finding("postgres", "answers")


async def _migrations(services: Services) -> Finding:
    if await is_current(services.database):
        return Finding("migrations", "current")
    return Finding("migrations", "the schema is not the one of this version", "run `vestibule migrate`")


async def _signing_keys(services: Services) -> Finding:
    if not await is_current(services.database):
        return Finding("signing keys", "no tables yet", "run `vestibule migrate`")
    try:
        await services.signing_keys.reload()
    except UnsealError:
        return Finding(
            "signing keys", "cannot be unsealed", "put the root key that sealed them back into VESTIBULE_KEYS"
        )
    if services.signing_keys.keyring.current(services.clock()) is None:
        return Finding("signing keys", "none signs", "run `vestibule migrate`: it makes the first ones")
    return Finding("signing keys", f"{len(services.signing_keys.keyring.keys)} in the key ring")


async def _redis(services: Services) -> Finding:
    info = await services.store.info()
    policy, persistent = info.get("maxmemory_policy"), info.get("aof_enabled")
    version = info.get("valkey_version") or info.get("redis_version")
    if int(str(info.get("redis_version", "0")).split(".")[0]) < 7:  # noqa: PLR2004  scripts use flags of Redis 7
        return Finding("redis", f"version {version}", "use Redis 7 or Valkey 8 and later")
    if policy != "noeviction":
        advice = "CONFIG SET maxmemory-policy noeviction: any other evicts sessions silently"
        return Finding("redis", f"maxmemory-policy {policy}", advice)
    if not persistent:
        return Finding(
            "redis", "appendonly is off", "CONFIG SET appendonly yes: a restart loses every session otherwise"
        )
    return Finding("redis", f"version {version}, noeviction, appendonly")


async def _clock(services: Services) -> Finding:
    skew = abs(services.clock().timestamp() - await services.store.time())
    if skew > MOST_SKEW:
        return Finding(
            "clock",
            f"differs from Redis by {skew:.1f} s",
            "synchronize both clocks (chrony, systemd-timesyncd)",
        )
    return Finding("clock", f"within {skew:.2f} s of Redis")


async def _mail(services: Services) -> Finding:
    try:
        await Smtp.of(services.settings).check()
    except SettingsError as error:
        return Finding("mail", "not set up", str(error))
    except MailNotSent as error:
        return Finding("mail", f"the server did not take us in ({error})", "check VESTIBULE_SMTP_URL and the network")
    return Finding("mail", "the server takes us in")


async def _providers(services: Services) -> Finding:
    """Only OpenID providers have something to fetch; whether a client secret is right shows at the first sign-in."""
    away: dict[str, str] = {}
    for provider in services.providers.all.values():
        try:
            await provider.look()
        except ProviderUnavailable as error:
            away[provider.id] = error.reason
    if not away:
        return Finding("providers", ", ".join(services.providers.all) or "none")
    advice = f"check {' and '.join(f'VESTIBULE_PROVIDER_{name.upper()}_ISSUER' for name in away)}, and the network"
    return Finding("providers", "; ".join(away.values()), advice)
