"""`/dev/mailbox`: the mails that `vestibule dev` did not send. Never part of a production service."""

import re
from html import escape
from typing import Any

from litestar import Controller, MediaType, Request, Response, delete, get
from litestar.di import NamedDependency

from service.mail.mailbox import Mailbox
from service.tokens.principal import PUBLIC

STYLE = """body{font-family:system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}
:root{color-scheme:light dark}
article{border-top:1px solid;padding:.5rem 0}pre{white-space:pre-wrap}"""
LINK = re.compile(r"https?://\S+")
ANCHOR = r'<a href="\g<0>" rel="noreferrer">\g<0></a>'
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class MailboxController(Controller):
    """What arrived, newest first."""

    path = "/dev/mailbox"
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    include_in_schema = False

    @get("")
    async def read(self, request: Request[Any, Any, Any], mailbox: NamedDependency[Mailbox]) -> Response[Any]:
        """A page, or with `Accept: application/json` a list."""
        mails = await mailbox.mails()
        if "application/json" in request.headers.get("accept", ""):
            return Response(mails, headers={"Cache-Control": "no-store"})
        articles = "".join(
            f"<article><h2>{escape(mail.subject)}</h2><p>To {escape(mail.to)}, {mail.sent_at:%H:%M:%S} UTC</p>"
            f"<pre>{LINK.sub(ANCHOR, escape(mail.text))}</pre></article>"
            for mail in mails
        )
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Mailbox</title>"
            f"<style>{STYLE}</style><h1>Mailbox</h1>{articles or '<p>No mail yet.</p>'}</html>"
        )
        return Response(page, media_type=MediaType.HTML, headers=HEADERS)

    @delete("", status_code=204)
    async def empty(self, mailbox: NamedDependency[Mailbox]) -> None:
        """Throws everything away."""
        await mailbox.empty()
