"""Which web pages may call us: an exact list, what their browsers are told about it, and whose writes never run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from service.setting_values import parts_of
from service.settings import Settings

Headers = list[tuple[bytes, bytes]]

FRONT_END = ("/auth", "/me", "/users", "/admin", "/console", "/graphql")
"""What people's browsers call, and so what another site could make them call. OAuth endpoints ask for a client."""
WITH_COOKIE = ("/auth", "/me/identities")
"""Where the refresh cookie, or that of a sign-in through a provider, is set and read; nowhere else may a page of
another origin send cookies along."""
PUBLIC_DOCUMENTS = "/.well-known"
"""Keys and metadata: the same for everybody, so for every page."""
READING = {"GET", "HEAD", "OPTIONS"}

VARY = (b"vary", b"Origin")
ALLOW_ORIGIN = b"access-control-allow-origin"
EXPOSED = (b"access-control-expose-headers", b"WWW-Authenticate, Retry-After, X-Request-Id")
LONGEST_PAGE = 2048
MAX_AGE = (b"access-control-max-age", b"600")
CALLS = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-Vestibule-CSRF, X-Request-Id"),
    MAX_AGE,
)
PUBLIC_CALLS = (
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"*"),  # clients of metadata send a version header of their protocol
    MAX_AGE,
)


@dataclass(frozen=True, slots=True)
class Origins:
    """Our own origin and the allowed ones, compared byte for byte: no pattern, no case folding, never `null`.

    Whoever matches by suffix or prefix lets `evilapp.example.com` in, or `app.example.com.evil.example`; `null` is
    what any sandboxed frame sends. Pages of origins that clients registered may call us and read the answer; the
    cookie comes along from our own and those of the settings alone.
    """

    trusted: frozenset[bytes]
    registered: Callable[[], frozenset[bytes]]
    posted_back: frozenset[str] = frozenset()
    """Where providers make browsers post what they answer; state and cookie say whether it was asked for."""

    @classmethod
    def of(cls, settings: Settings, registered: Callable[[], frozenset[bytes]]) -> Self:
        """Those of the settings, which take nothing but exact origins, and those that clients have at each moment."""
        trusted = frozenset(origin.encode() for origin in (settings.own_origin, *settings.allowed_origins))
        posting = [name for name, given in settings.providers.items() if given.response_mode == "form_post"]
        return cls(trusted, registered, frozenset(f"/auth/social/{name}/callback" for name in posting))

    def knows(self, origin: bytes | None) -> bool:
        """Whether pages of this origin may call us."""
        return origin is not None and (origin in self.trusted or origin in self.registered())

    def refuses(self, method: str, path: str, origin: bytes | None) -> bool:
        """Whether a request is a page of a foreign origin that would change something.

        CORS alone hides the answer and lets the deed happen: login CSRF signs a person into the attacker's account
        that way. Without `Origin` it is no page (browsers name it on every write), so native apps pass.
        """
        if method == "POST" and path in self.posted_back:
            return False
        writes = method not in READING and any(_is_below(path, root) for root in FRONT_END)
        return writes and origin is not None and not self.knows(origin)

    def preflight(self, path: str, origin: bytes | None) -> Headers:
        """What a preflight is answered beyond the headers of every answer: nothing for a foreign origin.

        The same for every path: a page then sees that its path is unknown, instead of a network error.
        """
        if _is_below(path, PUBLIC_DOCUMENTS):
            return list(PUBLIC_CALLS)
        return list(CALLS) if self.knows(origin) else []

    def share(self, headers: Headers, path: str, origin: bytes | None) -> Headers:
        """The headers of an answer, and with them who may read it.

        `Vary` stands on answers to everybody: a cache would hand one origin's answer to another otherwise.
        """
        if (ALLOW_ORIGIN, b"*") in headers:
            return headers
        if _is_below(path, PUBLIC_DOCUMENTS):
            return [*headers, (ALLOW_ORIGIN, b"*"), EXPOSED]
        headers = _varied(headers)
        if origin is None or not self.knows(origin):
            return headers
        may_send_cookie = origin in self.trusted and any(_is_below(path, root) for root in WITH_COOKIE)
        with_cookie = [(b"access-control-allow-credentials", b"true")] if may_send_cookie else []
        return [*headers, (ALLOW_ORIGIN, origin), EXPOSED, *with_cookie]


def own_page(wanted: str, settings: Settings) -> str | None:
    """The URL of a page that browsers may be sent to after a flow, None for any other (ASVS 3.7.2).

    A path of ours, or a URL whose origin is ours or an allowed one, byte for byte: whatever a browser could read in
    another way (`//host`, a backslash, a control character, credentials) is none.
    """
    is_plain = wanted.isascii() and wanted.isprintable() and not set(wanted) & set(' "\\<>^`{|}')
    if not is_plain or len(wanted) > LONGEST_PAGE:
        return None
    if wanted.startswith("/"):
        return None if wanted.startswith("//") else settings.own_origin + wanted
    parts = parts_of(wanted)
    origin = f"{parts.scheme}://{parts.netloc}" if parts else ""
    return wanted if origin in {settings.own_origin, *settings.allowed_origins} and wanted.startswith(origin) else None


def origin_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The `Origin` of a request, None without one. Several fields are one list (RFC 9110 5.3), nobody's origin."""
    given = [value for name, value in headers if name == b"origin"]
    return b", ".join(given) if given else None


def is_preflight(method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser asks before it sends (Fetch, CORS-preflight request)."""
    names = {name for name, _ in headers}
    return method == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def _varied(headers: Headers) -> Headers:
    """The headers with `Origin` in their one `Vary`."""
    if not any(name.lower() == b"vary" for name, _ in headers):
        return [*headers, VARY]
    parts = [part.strip() for name, value in headers if name.lower() == b"vary" for part in value.split(b",")]
    if any(part.lower() in {b"*", b"origin"} for part in parts):
        return headers
    others = [header for header in headers if header[0].lower() != b"vary"]
    return [*others, (VARY[0], b", ".join([*filter(None, parts), VARY[1]]))]
