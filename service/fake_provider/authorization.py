"""The front channel of all three providers: who may ask, the page, and the way back with a code or an error."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response

from service.crypto.opaque import mint
from service.fake_provider.backstage import ANOTHER_ISSUER, Backstage, Site
from service.fake_provider.faults import FAULTS, groups_at
from service.fake_provider.grants import Grant
from service.fake_provider.pages import render
from service.fake_provider.people import PEOPLE, chosen
from service.fake_provider.reading import Misasked, is_number, read_form, read_query

ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-\"$-~]+", re.ASCII)
"""Any scheme, so that native apps may try; printable ASCII without a fragment."""
WEB = ("http:", "https:")
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
MOST_AGE_DIGITS = 9
RESPONSE_MODES = ("", "query", "form_post")
SCRIPT = "<script>alert('The person said no')</script>"


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request whose client and way back are known."""

    site: Site
    parameters: Mapping[str, str]

    @property
    def redirect_uri(self) -> str:
        return self.parameters["redirect_uri"]

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("scope", "").split())

    @property
    def objection(self) -> str:
        """The error (RFC 6749 section 4.1.2.1) that it earns instead of a page, or nothing."""
        if self.parameters.get("response_type") != "code":
            return "unsupported_response_type"
        challenge, method = self.parameters.get("code_challenge", ""), self.parameters.get("code_challenge_method", "")
        proves_well = method == "S256" and bool(CHALLENGE.fullmatch(challenge))
        if (challenge or method) and not proves_well:
            return "invalid_request"
        return "" if self.parameters.get("response_mode", "") in RESPONSE_MODES else "invalid_request"

    @property
    def tells_auth_time(self) -> bool:
        return "max_age" in self.parameters or "login" in self.parameters.get("prompt", "").split()


async def show(request: Request[Any, Any, Any], backstage: Backstage, site: Site) -> Response[str]:
    """The page on which a person chooses. Raises `Misasked`."""
    asked = _asked(request, backstage, site)
    if asked.objection:
        return _back(backstage, asked, {"error": asked.objection})
    return render(
        "authorize.html",
        site=site,
        asked=asked,
        people=PEOPLE.values(),
        groups=groups_at(site.name),
    )


async def choose(request: Request[Any, Any, Any], backstage: Backstage, site: Site) -> Response[str]:
    """The way back, as the person chose. Raises `Misasked`."""
    asked = _asked(request, backstage, site)
    if asked.objection:
        return _back(backstage, asked, {"error": asked.objection})
    form = await read_form(request)
    fault = form.get("fault", "")
    if fault and fault not in FAULTS:
        raise Misasked(f"Nothing called “{fault}” can go wrong here.")
    if form.get("decision", "") not in {"", "cancel"}:
        raise Misasked("A decision is cancel, or absent.")
    return _back(backstage, asked, _decided(backstage, asked, form, fault), fault)


def _asked(request: Request[Any, Any, Any], backstage: Backstage, site: Site) -> Asked:
    parameters = read_query(request)
    if parameters.get("client_id") not in backstage.clients:
        raise Misasked("No client of that name is known here.")
    redirect_uri = parameters.get("redirect_uri", "")
    if not ABSOLUTE_URI.fullmatch(redirect_uri):
        raise Misasked("redirect_uri is an absolute URI without a fragment.")
    if parameters.get("response_mode") == "form_post" and not redirect_uri.lower().startswith(WEB):
        raise Misasked("A form can be posted to http and https only.")
    return Asked(site, parameters)


def _decided(backstage: Backstage, asked: Asked, form: Mapping[str, str], fault: str) -> dict[str, str]:
    if form.get("decision"):
        return {"error": "access_denied"}
    if fault == "cancelled":
        return {"error": "access_denied", "error_description": SCRIPT}
    if fault == "server_error":
        return {"error": "server_error"}
    return {"code": backstage.grants.new_code(_grant(backstage, asked, form, fault))}


def _grant(backstage: Backstage, asked: Asked, form: Mapping[str, str], fault: str) -> Grant:
    now, age = backstage.clock(), form.get("auth_age", "")
    if age and not is_number(age, MOST_AGE_DIGITS):
        raise Misasked("auth_age is a number of seconds.")
    person = chosen(form)
    if asked.site.name == "github" and not is_number(person.subject_at("github")):
        raise Misasked("A subject of GitHub is a number.")
    return Grant(
        site=asked.site.name,
        client_id=asked.parameters["client_id"],
        redirect_uri=asked.redirect_uri,
        scopes=asked.scopes,
        person=person,
        fault=fault,
        nonce=asked.parameters.get("nonce", ""),
        challenge=asked.parameters.get("code_challenge", ""),
        auth_time=now - timedelta(seconds=int(age or 0)) if age or asked.tells_auth_time else None,
        made_at=now,
    )


def _back(backstage: Backstage, asked: Asked, told: dict[str, str], fault: str = "") -> Response[str]:
    """The answer with `state` and `iss` (RFC 9207), by redirect or as a form that posts itself."""
    named = {"state": asked.parameters.get("state", ""), "iss": backstage.issuer(asked.site)}
    wrong = {
        "wrong_state": {"state": mint("state")},
        "no_state": {"state": ""},
        "wrong_iss": {"iss": ANOTHER_ISSUER},
        "no_iss": {"iss": ""},
    }
    answer = told | {name: value for name, value in (named | wrong.get(fault, {})).items() if value}
    if asked.parameters.get("response_mode") == "form_post":
        return render("form_post.html", with_script=True, action=asked.redirect_uri, answer=answer)
    joint = "&" if "?" in asked.redirect_uri else "?"
    headers = {"Location": f"{asked.redirect_uri}{joint}{urlencode(answer)}", "Cache-Control": "no-store"}
    return Response("", status_code=302, headers=headers)
