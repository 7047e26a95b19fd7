"""`/auth/confirm`: the page that mailed links open when the operator has no front end that does.

The secret of a link stands in its fragment, which browsers keep to themselves: no server, proxy, log or Referer sees
it. So asking for the page consumes nothing, however often mail scanners do it; a person has to press a button there.
"""

import secrets
import tomllib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Controller, HttpMethod, MediaType, Request, Response, route
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from service.languages import preferred
from service.settings import Settings
from service.tokens.principal import PUBLIC

ROOM = files("service.web")
TEXTS = tomllib.loads((ROOM / "texts.toml").read_text(encoding="utf-8"))
"""All words of the page, by language."""
ASSETS = {"confirm.js": "text/javascript", "confirm.css": "text/css"}
"""All that is served of the folder, and as what; the framework adds the charset."""
CONTENTS = {name: (ROOM / "static" / name).read_bytes() for name in ASSETS}
PAGES = Environment(loader=PackageLoader("service.web"), autoescape=True, undefined=StrictUndefined, auto_reload=False)
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Two files and calls to ourselves, nothing else; scripts cannot turn text into markup. Forms lead nowhere: without
its script the page must not put a password into a URL."""
NONCE_BYTES = 16
READ = [HttpMethod.GET, HttpMethod.HEAD]


class ConfirmController(Controller):
    """The page and its two files."""

    path = "/auth/confirm"
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    include_in_schema = False

    @route("", http_method=READ)
    async def page(self, request: Request[Any, Any, Any], settings: NamedDependency[Settings]) -> Response[str]:
        """The page, in the language that the browser prefers."""
        language = preferred(request.headers.get("accept-language", ""))
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        page = PAGES.get_template("confirm.html").render(
            language=language,
            text=TEXTS[language],
            nonce=nonce,
            product=settings.name,
            least=settings.password_min_length,
        )
        headers = {
            "Content-Security-Policy": POLICY.format(nonce=nonce),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Content-Language": language,
            "Vary": "Accept-Language",
        }
        return Response(page, media_type=MediaType.HTML, headers=headers)

    @route("/{name:str}", http_method=READ)
    async def asset(self, name: FromPath[str]) -> Response[bytes]:
        """One of the two files. Never kept, so that no old script meets a new page."""
        if name not in ASSETS:
            raise NotFoundException
        return Response(CONTENTS[name], media_type=ASSETS[name], headers={"Cache-Control": "no-store"})
