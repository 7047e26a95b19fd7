"""What a registration may say: every value a client or an API is registered with is checked here, each by its rule."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from service.crypto.assertions import read_keys
from service.errors import FieldError
from service.setting_values import LOOPBACK, is_label, odd_origins, parts_of
from service.tokens.clients import ASSERTION_METHOD, METHODS, PUBLIC_METHOD
from service.tokens.scopes import ACCOUNT, BUILT_IN, SCOPE

GRANTS = ("client_credentials", "refresh_token")
LONGEST_NAME = 100
LONGEST_URI = 2048
LONGEST_LIST = 100
LONGEST_SCOPE = 1000
LONGEST_IDENTIFIER = 255
"""Characters: a token holds them, and is read up to 4096 (`crypto/signer.py`)."""
SHORTEST_LIFE = 60
CUSTOM_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+", re.ASCII)
"""A reversed domain name, such as `com.example.app` (RFC 8252 section 7.1)."""


def problems_of_client(
    values: dict[str, Any], apis: Mapping[str, Collection[str]], longest: Mapping[str, int], *, confidential: bool
) -> list[FieldError]:
    """What is wrong with a whole registration. `apis` are the scopes of each; `longest` are the seconds that each
    lifetime may not exceed; `confidential` is what the client is said to be, for good."""
    is_public = values["auth_methods"] == [PUBLIC_METHOD]
    if is_public == confidential:
        detail = "A public client has the method `none`, a confidential one others; neither becomes the other."
        return [FieldError("auth_methods", "kind_fixed", detail)]
    audiences, offered = set(apis), {scope for scopes in apis.values() for scope in scopes}
    checks: list[tuple[bool, str, str, str]] = [
        (is_label(values["name"], LONGEST_NAME), "name", "name_invalid", f"1 to {LONGEST_NAME} printable characters."),
        (_is_methods(values["auth_methods"]), "auth_methods", "auth_methods_invalid", "`none` alone, or the others."),
        (
            (ASSERTION_METHOD in values["auth_methods"]) == (values["jwks"] is not None),
            "jwks",
            "jwks_mismatch",
            "A JWK Set belongs to private_key_jwt, and private_key_jwt needs one.",
        ),
        (set(values["grants"]) <= set(GRANTS), "grants", "grant_unknown", f"Known grants: {', '.join(GRANTS)}."),
        (
            not (is_public and "client_credentials" in values["grants"]),
            "grants",
            "grant_needs_secret",
            "client_credentials is for confidential clients.",
        ),
        (set(values["scopes"]) <= offered, "scopes", "scope_unknown", "A scope must be one of a registered API."),
        (
            len(" ".join(values["scopes"])) <= LONGEST_SCOPE,
            "scopes",
            "scopes_too_long",
            f"At most {LONGEST_SCOPE} characters together: every token holds them.",
        ),
        (
            ACCOUNT not in values["scopes"] or is_public or "refresh_token" in values["grants"],
            "scopes",
            "scope_of_people",
            "`account` is for clients through which people sign in.",
        ),
        (
            set(values["audiences"]) <= set(audiences),
            "audiences",
            "audience_unknown",
            "An audience must be a registered API.",
        ),
        (set(values["serves"]) <= audiences, "serves", "audience_unknown", "It can serve registered APIs only."),
        (
            not (is_public and (values["may_introspect"] or values["serves"])),
            "may_introspect",
            "public_client",
            "Only a confidential client may introspect.",
        ),
        (
            all(is_redirect_uri(uri) for uri in values["redirect_uris"]),
            "redirect_uris",
            "redirect_uri_invalid",
            "https, http on loopback, or a reversed domain name as scheme; no fragment, no credentials.",
        ),
        (_are_origins(values["origins"]), "origins", "origin_invalid", "Exact https origins (http on loopback)."),
    ]
    for field, most in longest.items():
        is_fine = values[field] is None or SHORTEST_LIFE <= values[field] <= most
        checks.append((is_fine, field, "lifetime_invalid", f"{SHORTEST_LIFE} to {most} seconds, or null."))
    for field in ("auth_methods", "grants", "scopes", "audiences", "serves", "redirect_uris", "origins"):
        given = values[field]
        is_fine = len(given) <= LONGEST_LIST and len(set(given)) == len(given)
        checks.append((is_fine, field, "list_invalid", f"At most {LONGEST_LIST} entries, each once."))
    return [*(FieldError(field, code, detail) for holds, field, code, detail in checks if not holds), *_keys(values)]


def problems_of_api(identifier: str, name: str, scopes: Sequence[str]) -> list[FieldError]:
    """What is wrong with an API."""
    checks = [
        (
            _is_identifier(identifier),
            "identifier",
            "identifier_invalid",
            f"An absolute URI, no fragment, at most {LONGEST_IDENTIFIER}.",
        ),
        (is_label(name, LONGEST_NAME), "name", "name_invalid", f"1 to {LONGEST_NAME} printable characters."),
        (
            len(set(scopes)) == len(scopes) <= LONGEST_LIST and all(SCOPE.fullmatch(scope) for scope in scopes),
            "scopes",
            "scope_invalid",
            "Up to 64 printable ASCII characters without space, quote and backslash; each once.",
        ),
        (not BUILT_IN & set(scopes), "scopes", "scope_taken", f"Ours alone: {', '.join(sorted(BUILT_IN))}."),
    ]
    return [FieldError(field, code, detail) for holds, field, code, detail in checks if not holds]


def is_redirect_uri(uri: str) -> bool:
    """Whether a browser may be sent there with a code (RFC 8252, RFC 9700 section 2.6)."""
    parts = parts_of(uri)
    if parts is None or "#" in uri or len(uri) > LONGEST_URI or not _is_plain(uri):
        return False
    if parts.scheme in {"http", "https"}:
        return (
            bool(parts.hostname) and parts.username is None and (parts.scheme == "https" or parts.hostname in LOOPBACK)
        )
    return bool(CUSTOM_SCHEME.fullmatch(parts.scheme))


def is_native_redirect(uri: str, registered: Sequence[str]) -> bool:
    """Whether an app on a person's own device may be given a code there: a registered custom scheme, byte for byte, or
    a registered loopback address, at whatever port the system gave the app (RFC 8252 section 7)."""
    if not is_redirect_uri(uri):
        return False
    parts = parts_of(uri)
    if parts is None or parts.scheme == "https":
        return False
    return uri in registered or _without_port(uri) in {_without_port(known) for known in registered}


def _without_port(uri: str) -> str:
    """A loopback URI without its port; others as they are. Names of this machine can be turned elsewhere by its hosts
    file, so only addresses may change their port."""
    parts = parts_of(uri)
    if parts is None or parts.scheme != "http" or parts.hostname not in LOOPBACK - {"localhost"}:
        return uri
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return parts._replace(netloc=host or "").geturl()


def _keys(values: dict[str, Any]) -> list[FieldError]:
    if values["jwks"] is None:
        return []
    try:
        read_keys(values["jwks"])
    except ValueError as error:
        return [FieldError("jwks", "jwks_invalid", f"{str(error)[:1].upper()}{str(error)[1:]}.")]
    return []


def _is_methods(methods: Sequence[str]) -> bool:
    return bool(methods) and set(methods) <= set(METHODS) and (PUBLIC_METHOD not in methods or len(methods) == 1)


def _are_origins(origins: Sequence[str]) -> bool:
    parts = [parts_of(origin) for origin in origins]
    is_safe = all(p is not None and (p.scheme == "https" or p.hostname in LOOPBACK) for p in parts)
    return is_safe and not odd_origins(tuple(origins))


def _is_identifier(identifier: str) -> bool:
    parts = parts_of(identifier)
    is_short = len(identifier) <= LONGEST_IDENTIFIER and _is_plain(identifier) and "#" not in identifier
    return is_short and parts is not None and bool(parts.scheme) and bool(parts.netloc or parts.path)


def _is_plain(uri: str) -> bool:
    return uri.isascii() and uri.isprintable() and not set(uri) & set(' "*<>\\^`{|}')
