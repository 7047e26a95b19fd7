"""The pages for people: no file beside them, no script but the one of a form that posts itself."""

import secrets
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import MediaType, Request, Response

from service.fake_provider.reading import Misasked

PAGES = Environment(
    loader=PackageLoader("service.fake_provider"), autoescape=True, undefined=StrictUndefined, auto_reload=False
)
NONCE_BYTES = 16
POLICY = "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'"
"""Nothing is said of forms: browsers would apply it to the redirect that answers one, which leads anywhere."""
SCRIPT_POLICY = "; script-src 'nonce-{nonce}'"


def render(name: str, *, status: int = 200, with_script: bool = False, **values: object) -> Response[str]:
    """A page of `templates/`; one with a script of its own has to say so."""
    nonce = secrets.token_urlsafe(NONCE_BYTES)
    policy = POLICY + (SCRIPT_POLICY if with_script else "")
    headers = {"Content-Security-Policy": policy.format(nonce=nonce), "Cache-Control": "no-store"}
    page = PAGES.get_template(name).render(nonce=nonce, **values)
    return Response(page, status_code=status, media_type=MediaType.HTML, headers=headers)


def as_page(request: Request[Any, Any, Any], error: Misasked) -> Response[str]:
    """What was wrong with a request, on a page of its own; nobody is sent anywhere."""
    return render("misasked.html", status=400, sentence=str(error))
