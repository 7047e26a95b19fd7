"""What a token is to be for (RFC 8707, RFC 6749 section 3.3): one API, and scopes that mean something to it."""

from collections.abc import Callable, Collection

from service.errors import InvalidScope
from service.oauth.errors import InvalidTarget
from service.tokens.clients import Client, Clients
from service.tokens.scopes import parse
from service.tokens.sessions import Aim


def aiming(
    form: dict[str, str], client: Client, clients: Clients, *, otherwise: str | None
) -> Callable[[tuple[str, ...]], Aim]:
    """How `resource` and `scope` of a form choose within a grant; `otherwise` is the API when neither says one."""
    return lambda allowed: choose(form, client, clients, allowed, otherwise=otherwise)


def choose(
    form: dict[str, str], client: Client, clients: Clients, allowed: Collection[str], *, otherwise: str | None
) -> Aim:
    """The API and the scopes of a token, never more than `allowed`.

    Without `resource` the scopes tell the API; where they belong to several of them, or to none, there is no token
    (RFC 9068 section 3). Raises `InvalidTarget`, `InvalidScope`.
    """
    open_to_it = tuple(dict.fromkeys((clients.audience, *client.audiences)))
    wanted = parse(form["scope"]) if "scope" in form else ()
    if not set(wanted) <= set(allowed):
        raise InvalidScope("more than was granted")
    audience = form.get("resource") or _audience_of(wanted, open_to_it, clients) or otherwise
    if audience is None or audience not in open_to_it or audience not in clients.audiences():
        raise InvalidTarget(f"not open to {client.id}" if audience else "several APIs, and none named")
    meant = clients.scopes_of(audience)
    if not set(wanted) <= meant:
        raise InvalidScope("a scope of another API")
    return Aim(audience, wanted or tuple(scope for scope in allowed if scope in meant))


def _audience_of(wanted: tuple[str, ...], open_to_it: tuple[str, ...], clients: Clients) -> str | None:
    """The one API that all of the wanted scopes belong to; our own where it is one of several."""
    if not wanted:
        return None
    fitting = [audience for audience in open_to_it if set(wanted) <= clients.scopes_of(audience)]
    if not fitting or (len(fitting) > 1 and clients.audience not in fitting):
        raise InvalidScope("scopes of no single API: name the resource")
    return clients.audience if clients.audience in fitting else fitting[0]
