"""Where browsers come back from a provider, and the page where they end when a front end has none of its own."""

import secrets
from typing import Any
from urllib.parse import parse_qsl

from litestar import Controller, MediaType, Request, Response, get, post, route
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.device import Device
from service.errors import InvalidState, ServiceError
from service.languages import preferred
from service.login.social import SocialLogin
from service.login.social_controller import BROWSER_COOKIE
from service.problems import NO_STORE, refusal_headers
from service.settings import Settings
from service.tokens.principal import PUBLIC
from service.tokens.transport import leave_old_session, marked, session_cookies
from service.web.controller import NONCE_BYTES, PAGES, POLICY, READ, TEXTS

LONGEST_ANSWER = 16_384
MOST_PARAMETERS = 40


class CallbackController(Controller):
    """Each provider has a callback of its own, so that one provider's answer is not taken for another's."""

    path = "/auth/social/{provider:str}/callback"
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    include_in_schema = False

    @get("", status_code=303)
    async def query(
        self,
        request: Request[Any, Any, Any],
        *,
        provider: FromPath[str],
        social: NamedDependency[SocialLogin],
        device: NamedDependency[Device],
    ) -> Response[Any]:
        """Sends the browser on: with cookies, or with `error` in the query; a page where nobody waits for it."""
        answer = request.scope["query_string"].decode("latin-1")
        return await _finished(request, provider, answer, social, marked(device))

    @post("", status_code=303)
    async def form(
        self,
        request: Request[Any, Any, Any],
        *,
        provider: FromPath[str],
        social: NamedDependency[SocialLogin],
        device: NamedDependency[Device],
    ) -> Response[Any]:
        """The same for providers that make the browser post their answer (OAuth 2.0 Form Post Response Mode)."""
        answer = (await request.body()).decode("latin-1")
        return await _finished(request, provider, answer, social, marked(device))


class DoneController(Controller):
    """The page at the end, with nothing in it but a sentence."""

    path = "/auth/done"
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    include_in_schema = False

    @route("", http_method=READ)
    async def page(self, request: Request[Any, Any, Any], settings: NamedDependency[Settings]) -> Response[str]:
        """Says how it went; words of a URL are never shown."""
        return _page(request, settings, request.query_params.get("error"), 200)


async def _finished(
    request: Request[Any, Any, Any],
    provider: str,
    answer: str,
    social: SocialLogin,
    device: Device,
) -> Response[Any]:
    try:
        browser = request.cookies.get(BROWSER_COOKIE, "")
        finished = await social.finish(provider, _parameters(answer), device, browser)
    except ServiceError as refusal:
        request.scope.setdefault("state", {})["refusal"] = refusal
        page = _page(request, social.settings, refusal.code, refusal.status)
        page.headers.update(refusal_headers(refusal))
        return page
    cookies = []
    if finished.grant is not None:
        await leave_old_session(request, social.entrance.sessions)
        cookies = session_cookies(finished.grant)
    headers = {**NO_STORE, "Location": finished.next}
    return Response(b"", status_code=303, media_type=MediaType.TEXT, headers=headers, cookies=cookies)


def _parameters(answer: str) -> dict[str, str]:
    """What a provider sent. Raises `InvalidState` for what has two meanings (RFC 6749 section 3.1)."""
    try:
        pairs = parse_qsl(answer[:LONGEST_ANSWER], keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise InvalidState("an unreadable answer") from None
    parameters = dict(pairs)
    if len(parameters) != len(pairs) or len(answer) > LONGEST_ANSWER:
        raise InvalidState("a parameter is repeated, or the answer too long")
    return parameters


def _page(request: Request[Any, Any, Any], settings: Settings, error: str | None, status: int) -> Response[str]:
    language = preferred(request.headers.get("accept-language", ""))
    text: Any = TEXTS[language]["done"]
    nonce = secrets.token_urlsafe(NONCE_BYTES)
    page = PAGES.get_template("done.html").render(
        language=language,
        text=text,
        nonce=nonce,
        product=settings.name,
        base=settings.issuer,
        kind="good" if error is None else "bad",
        message=text["good"] if error is None else text["errors"].get(error, text["errors"]["other"]),
    )
    headers = {
        "Content-Security-Policy": POLICY.format(nonce=nonce),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Content-Language": language,
        "Vary": "Accept-Language",
    }
    return Response(page, status_code=status, media_type=MediaType.HTML, headers=headers)
