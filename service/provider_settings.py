"""Foreign sign-in providers as operators configure them, each by a block of variables of its own.

`VESTIBULE_PROVIDER_DISCORD_CLIENT_ID` is the `client_id` of the provider `discord`. Discord, GitHub and Google are
known by these names, and so is Apple; any other name is an OpenID provider, at its `ISSUER`.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import SplitResult

import msgspec

from service.setting_values import LOOPBACK, Secret, SettingsError, is_label, parts_of

PREFIX = "VESTIBULE_PROVIDER_"
ID = re.compile(r"[a-z][a-z0-9]{0,31}", re.ASCII)
DISCOVERY = "/.well-known/openid-configuration"
LONGEST_NAME = 40
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)
"""RFC 6749 section 3.3."""
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "discord": {"kind": "discord", "name": "Discord", "url": "https://discord.com"},
    "github": {"kind": "github", "name": "GitHub", "url": "https://github.com", "api_url": "https://api.github.com"},
    "apple": {
        "kind": "openid",
        "name": "Apple",
        "issuer": "https://appleid.apple.com",
        "scopes": "openid email name",
        "response_mode": "form_post",
    },
    "google": {"kind": "openid", "name": "Google", "issuer": "https://accounts.google.com"},
}
LEAST_SCOPES: Mapping[str, tuple[str, ...]] = {
    "discord": ("identify", "email", "guilds"),
    "github": ("user:email",),
    "openid": ("openid", "email", "profile"),
}
"""What is asked for unless the operator says otherwise (ASVS 10.1.2): who it is, and what we have an endpoint for."""


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider. Which fields it takes depends on its kind."""

    kind: Literal["openid", "discord", "github"] = "openid"
    client_id: str
    client_secret: Secret
    name: str = ""
    """How people know it; its id when empty."""
    issuer: str = ""
    """Of an OpenID provider: its issuer byte for byte, with the slash at the end where it has one. The address of its
    discovery document will do where it has none."""
    url: str = ""
    """Of Discord and GitHub: the site that people sign in at."""
    api_url: str = ""
    """Of GitHub: where its API is, `{url}/api/v3` for another site than github.com."""
    scopes: tuple[str, ...] = ()
    response_mode: Literal["query", "form_post"] = "query"
    """`form_post` for OpenID providers that insist on it, such as Apple."""
    private_network: bool = False
    """Whether it stands in the operator's own network: at private addresses, on loopback also without TLS."""

    @property
    def identity_issuer(self) -> str:
        """Who says who somebody is: with the subject, the key of an identity. GitHub calls itself so in `iss`."""
        return f"{self.url}/login/oauth" if self.kind == "github" else self.issuer or self.url

    def __repr__(self) -> str:
        return f"ProviderSettings(name={self.name!r}, …)"


def configured(provider: str, given: Mapping[str, str]) -> ProviderSettings:
    """One provider from its variables. Raises `SettingsError`."""
    head = f"{PREFIX}{provider.upper()}_"
    if not ID.fullmatch(provider):
        raise SettingsError(f"{head}…: a provider's name has up to 32 letters and digits, a letter first")
    values: dict[str, Any] = {**PRESETS.get(provider, {}), **given}
    values |= {field: values[field].rstrip("/") for field in ("url", "api_url") if field in values}
    if given.get("url") and values.get("kind") == "github":
        values["api_url"] = values["api_url"] if given.get("api_url") else f"{values['url']}/api/v3"
    values["name"] = values.get("name") or provider
    values["issuer"] = values.get("issuer", "").removesuffix(DISCOVERY)
    values["scopes"] = tuple(str(values.get("scopes", "")).replace(",", " ").split())
    if isinstance(values.get("private_network"), str):
        values["private_network"] = _boolean(head, values["private_network"])
    try:
        settings = msgspec.convert(values, ProviderSettings, dec_hook=lambda _, value: Secret(value))
    except msgspec.ValidationError as error:
        raise SettingsError(_in_variables(head, str(error))) from None
    settings = msgspec.structs.replace(settings, scopes=settings.scopes or LEAST_SCOPES[settings.kind])
    problems = _problems(settings)
    if problems:
        raise SettingsError(f"{head}{problems[0]}")
    return settings


def _problems(given: ProviderSettings) -> list[str]:
    is_openid = given.kind == "openid"
    site, needed = (given.issuer, "ISSUER") if is_openid else (given.url, "URL")
    rules = (
        (bool(given.client_id), "CLIENT_ID must not be empty"),
        (bool(given.client_secret), "CLIENT_SECRET must not be empty"),
        (
            is_label(given.name, LONGEST_NAME),
            "NAME must be 1 to 40 printable characters, and not begin or end with a space",
        ),
        (all(SCOPE.fullmatch(scope) for scope in given.scopes), "SCOPES holds a character that no scope has"),
        (_is_site(site, given), f"{needed} must be an https URL without query and fragment (see PRIVATE_NETWORK)"),
        (
            given.kind != "github" or _is_site(given.api_url, given),
            "API_URL must be an https URL without query and fragment",
        ),
        (is_openid or not given.issuer, "ISSUER is for OpenID providers; use URL"),
        (given.kind == "github" or not given.api_url, "API_URL is for GitHub"),
        (not is_openid or not given.url, "URL is for Discord and GitHub; use ISSUER"),
        (not is_openid or "openid" in given.scopes, "SCOPES must hold openid (OpenID Connect Core 3.1.2.1)"),
        (is_openid or given.response_mode == "query", "RESPONSE_MODE form_post is for OpenID providers"),
    )
    return [problem for holds, problem in rules if not holds]


def _is_site(url: str, given: ProviderSettings) -> bool:
    parts = parts_of(url)
    return (
        parts is not None
        and url.isascii()
        and url.isprintable()
        and not set(url) & set(' "<>?#\\^`{|}')
        and bool(parts.hostname)
        and parts.username is None
        and is_secure(parts, is_private=given.private_network)
    )


def is_secure(parts: SplitResult, *, is_private: bool) -> bool:
    """Whether a provider's URL may be called: https, and for private ones http on this machine."""
    return parts.scheme == "https" or (is_private and parts.scheme == "http" and parts.hostname in LOOPBACK)


def _boolean(head: str, text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise SettingsError(f"{head}PRIVATE_NETWORK is true or false, not {text[:20]!r}")
    return text.lower() in {"true", "1"}


def _in_variables(head: str, message: str) -> str:
    missing = re.fullmatch(r"Object missing required field `(\w+)`", message)
    if missing:
        return f"missing setting {head}{missing[1].upper()}"
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        return f"there is no setting {head}{unknown[1].upper()} (the name of a provider holds no underscore)"
    return re.sub(r"`\$\.(\w+)`", lambda found: head + found[1].upper(), message)
