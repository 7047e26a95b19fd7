"""The token endpoint of all three providers, up to the shape of the answer."""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from litestar import Request

from service.fake_provider.backstage import Backstage, Site
from service.fake_provider.grants import Grant
from service.fake_provider.mishaps import kind_of
from service.fake_provider.reading import Misasked, NotSignedIn, Refused, read_form


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a client got for its code or refresh token, and how the answer is to be spoilt."""

    grant: Grant
    access_token: str
    refresh_token: str
    mishap: str


async def proved_form(request: Request[Any, Any, Any], backstage: Backstage) -> tuple[dict[str, str], str]:
    """The form that an authenticated client sent (`client_secret_basic` or `client_secret_post`), and the client's id.

    Raises `Refused`.
    """
    try:
        form = await read_form(request)
    except Misasked as error:
        raise Refused("invalid_request", str(error)) from None
    client_id, secret = _credentials(request.headers.get("authorization", ""), form)
    known = backstage.clients.get(client_id)
    if known is None or not hmac.compare_digest(known.encode(), secret.encode()):
        raise Refused("invalid_client", "The client is unknown, or its secret is wrong.")
    return form, client_id


async def exchange(request: Request[Any, Any, Any], backstage: Backstage, site: Site, life: float) -> Exchange:
    """New tokens for a code or a refresh token; the access token lives so many seconds. Raises `Refused`."""
    form, client_id = await proved_form(request, backstage)
    grant_type = form.get("grant_type")
    if grant_type == "refresh_token":
        grant, mishap = _refreshed(form, client_id, backstage, site)
    elif grant_type == "authorization_code":
        grant, mishap = redeemed(form, client_id, backstage, site)
    else:
        raise Refused("unsupported_grant_type", "grant_type is authorization_code or refresh_token.")
    grants = backstage.grants
    return Exchange(grant, grants.new_access_token(grant, life), grants.new_refresh_token(grant), mishap)


def redeemed(form: Mapping[str, str], client_id: str, backstage: Backstage, site: Site) -> tuple[Grant, str]:
    """What a code stands for, and how the answer is to be spoilt. Raises `Refused`."""
    grant = backstage.grants.spend_code(site.name, client_id, form)
    if grant.fault == "token_refused":
        raise Refused("invalid_grant", "As it was chosen.")
    return grant, kind_of(grant.fault, "token")


def authorized(request: Request[Any, Any, Any], backstage: Backstage, site: Site, fault: str) -> Grant:
    """Whom the access token of an API call stands for. Raises `NotSignedIn`, also where the fault is this one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    grant = backstage.grants.opened_by(token, site.name) if scheme.lower() == "bearer" else None
    if grant is None or grant.fault == fault:
        raise NotSignedIn
    return grant


def _refreshed(form: Mapping[str, str], client_id: str, backstage: Backstage, site: Site) -> tuple[Grant, str]:
    """A refresh token that leads to a fault stays good, so that the fault lasts."""
    token = form.get("refresh_token", "")
    grant = backstage.grants.find_refresh_token(token, site.name, client_id)
    if grant.fault == "refresh_refused":
        raise Refused("invalid_grant", "As it was chosen.")
    mishap = kind_of(grant.fault, "refresh")
    if not mishap:
        backstage.grants.forget_refresh_token(token)
    return grant, mishap


def _credentials(header: str, form: Mapping[str, str]) -> tuple[str, str]:
    if not header:
        return form.get("client_id", ""), form.get("client_secret", "")
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or "client_secret" in form:
        raise Refused("invalid_request", "Credentials come by one method: Basic, or in the form.")
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        raise Refused("invalid_request", "The credentials cannot be read.") from None
    return unquote_plus(client_id), unquote_plus(secret)
