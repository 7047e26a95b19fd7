"""`/docs` and `/openapi.json`: the API described by itself, with an interface that loads nothing from elsewhere."""

from importlib.resources import files
from typing import Any

import msgspec
from litestar import Controller, Litestar, MediaType, Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.routes import BaseRoute

from service.tokens.principal import PUBLIC

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vestibule API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null});\n'
DAY = "public, max-age=86400"
PAGE_HEADERS = {"Content-Security-Policy": POLICY, "Cross-Origin-Opener-Policy": "same-origin"}


class DocsController(Controller):
    """Interactive documentation."""

    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    include_in_schema = False

    @get("/docs", media_type=MediaType.HTML)
    async def page(self) -> Response[str]:
        """The page."""
        return Response(PAGE, media_type=MediaType.HTML, headers=PAGE_HEADERS)

    @get("/docs/start.js")
    async def start(self) -> Response[str]:
        """The line that starts the interface; a file of its own, since the page allows no inline script."""
        return Response(START, media_type="text/javascript")

    @get("/docs/{name:str}", sync_to_thread=True)
    def asset(self, name: FromPath[str]) -> Response[bytes]:
        """One of the two files of the interface."""
        if name not in ASSETS:
            raise NotFoundException
        content = (files("swagger_ui") / "static" / name).read_bytes()
        return Response(content, media_type=ASSETS[name], headers={"Cache-Control": DAY})

    @get("/openapi.json")
    async def description(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """The OpenAPI 3.1 document."""
        encoded: bytes | None = request.app.state.get("openapi")
        if encoded is None:
            encoded = request.app.state["openapi"] = msgspec.json.encode(_described(request.app))
        return Response(encoded, media_type="application/json")


def _described(app: Litestar) -> dict[str, Any]:
    """Litestar describes a body of JSON null where there is none (RFC 9110 section 15.3.5)."""
    document = app.openapi_schema.to_schema()
    for path in document["paths"].values():
        for operation in path.values():
            operation.get("responses", {}).get("204", {}).pop("content", None)
    return document


class DocsRouter(Router):
    """Where Litestar is told to document itself. It would register pages that load their scripts from elsewhere."""

    def register(self, value: Any) -> list[BaseRoute]:
        """Takes our controller and nothing of Litestar's."""
        return super().register(value) if value is DocsController else []
