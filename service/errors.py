"""Every refusal of the service, by name.

A refusal says two things: to the client a status, a stable code and a sentence that reveals nothing, and to the
log the `reason`, which no client ever sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field of a request."""

    field: str
    code: str
    detail: str


class ServiceError(Exception):
    """A refusal; its class attributes and `detail` are public, its `reason` is for the log alone."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"
    detail: ClassVar[str] = "The request cannot be served."
    challenge: str | None = None
    """The `WWW-Authenticate` value of a 401 (RFC 9110 section 11.6.1 wants one on every 401)."""

    def __init__(
        self,
        reason: str = "",
        *,
        retry_after: int | None = None,
        fields: Sequence[FieldError] = (),
        members: Mapping[str, object] | None = None,
    ) -> None:
        """`retry_after` in seconds; `members` become extension members of the problem document."""
        super().__init__(reason or self.code)
        self.reason = reason
        self.retry_after = retry_after
        self.fields = tuple(fields)
        self.members = dict(members or {})

    @classmethod
    def title(cls) -> str:
        """What kind of refusal this is, in a few words: the code, for people."""
        return cls.code.replace("_", " ").capitalize()


class MalformedRequest(ServiceError):
    code = "malformed_request"
    detail = "The request could not be read."


class InvalidInput(ServiceError):
    code = "invalid_input"
    detail = "Some fields are not valid."


class UnknownClient(ServiceError):
    code = "unknown_client"
    detail = "No front end is registered under this client_id."


class InvalidOrExpiredCode(ServiceError):
    code = "invalid_or_expired_code"
    detail = "The code is wrong, was used, or has expired."


class InvalidCredentials(ServiceError):
    status = 401
    code = "invalid_credentials"
    detail = "The name or the password is not right."
    challenge = 'Bearer realm="login"'


class SessionExpired(ServiceError):
    status = 401
    code = "session_expired"
    detail = "The session has ended. Sign in again."
    challenge = 'Bearer realm="session"'


class SessionReused(SessionExpired):
    """A refresh token that had its successor long ago came back: the family ended (RFC 9700 section 4.14.2)."""

    def __init__(self, account: UUID) -> None:
        super().__init__("an old refresh token came back: the session was ended")
        self.account = account


class Unauthenticated(ServiceError):
    status = 401
    code = "unauthenticated"
    detail = "This needs an access token."
    challenge = 'Bearer realm="api"'


class InvalidToken(ServiceError):
    status = 401
    code = "invalid_token"
    detail = "The access token is not valid, or its session has ended."
    challenge = (
        'Bearer realm="api", error="invalid_token", error_description="The access token is invalid or has ended"'
    )


class StaleAuthentication(ServiceError):
    """RFC 9470: the session is good, but the password was given too long ago for this."""

    status = 401
    code = "insufficient_user_authentication"
    detail = "Give your password again (POST /auth/reauthenticate), or sign in anew."

    def __init__(self, max_age: int) -> None:
        super().__init__("not fresh")
        self.challenge = f'Bearer realm="api", error="insufficient_user_authentication", max_age={max_age}'


class AmbiguousCredentials(ServiceError):
    code = "invalid_request"
    detail = "The Authorization header must appear once and hold one Bearer token."
    challenge = 'Bearer realm="api", error="invalid_request"'


class InsufficientScope(ServiceError):
    """RFC 6750 section 3.1: the token is good, but not for this."""

    status = 403
    code = "insufficient_scope"
    detail = "The access token does not have the scope, or its holder not the role, that this needs."

    def __init__(self, scope: str) -> None:
        super().__init__(f"needs {scope}")
        self.challenge = f'Bearer realm="api", error="insufficient_scope", scope="{scope}"'


class InvalidScope(ServiceError):
    code = "invalid_scope"
    detail = "The scope is unknown, malformed, or more than was granted."


class EmailNotVerified(ServiceError):
    status = 403
    code = "email_not_verified"
    detail = "The address is not confirmed yet. A new mail is on its way."


class AccountDisabled(ServiceError):
    status = 403
    code = "account_disabled"
    detail = "The account is disabled."


class PasswordChangeRequired(ServiceError):
    """Said after the right password alone: it tells that the account exists (NIST SP 800-63B-4 3.1.1.2)."""

    status = 403
    code = "password_change_required"
    detail = "This password may not be used any more. A mail with a link for a new one is on its way."


class CrossSiteRefused(ServiceError):
    status = 403
    code = "cross_site_refused"
    detail = "Only our own pages and registered origins may do this; with the cookie they send X-Vestibule-CSRF: 1."


class NotYours(ServiceError):
    status = 403
    code = "not_yours"
    detail = "Only the person themselves, or an administrator, may do this."


class NotFound(ServiceError):
    status = 404
    code = "not_found"
    detail = "There is nothing here."


class NicknameTaken(ServiceError):
    status = 409
    code = "nickname_taken"
    detail = "Somebody has this nickname already."


class EmailTaken(ServiceError):
    """Never crosses the wire at sign-up; the operator's command line shows it."""

    status = 409
    code = "email_taken"
    detail = "An account with this address exists."


class ClientIdTaken(ServiceError):
    status = 409
    code = "client_id_taken"
    detail = "A client with this id exists."


class TooManyClients(ServiceError):
    status = 409
    code = "too_many_clients"
    detail = "No more clients can be registered (VESTIBULE_MOST_CLIENTS)."


class TooManySecrets(ServiceError):
    status = 409
    code = "too_many_secrets"
    detail = "The client has two live secrets. End one of them first."


class ApiTaken(ServiceError):
    status = 409
    code = "api_taken"
    detail = "An API with this identifier is registered."


class ApiInUse(ServiceError):
    status = 409
    code = "api_in_use"
    detail = "Clients are registered for this API. Change them first."


class LastAdmin(ServiceError):
    status = 409
    code = "last_admin"
    detail = "Nobody else could administer this service. Make another administrator first."


class OperatorsShutOut(ServiceError):
    status = 409
    code = "operators_shut_out"
    detail = "No enabled front end with the scopes account and admin would be left for operators to sign in through."


class UnknownKey(ServiceError):
    status = 404
    code = "unknown_key"
    detail = "There is no such signing key, or it was revoked before."


class InvalidState(ServiceError):
    """A callback that no sign-in of this browser waits for (ASVS 10.1.2)."""

    code = "invalid_state"
    detail = "This sign-in was not begun in this browser, was finished before, or took too long. Begin again."


class AccessDenied(ServiceError):
    status = 403
    code = "access_denied"
    detail = "The sign-in was cancelled at the provider."


class ProviderUnavailable(ServiceError):
    """The provider is down, slow, or answers rubbish."""

    status = 502
    code = "provider_unavailable"
    detail = "The provider cannot be asked right now. Try again shortly."


class ProviderAnswerInvalid(ServiceError):
    """What the provider says proves nothing: a signature, a nonce, an audience or a subject is not right."""

    status = 502
    code = "provider_answer_invalid"
    detail = "The provider's answer cannot be trusted."


class ProviderEmailMissing(ServiceError):
    status = 403
    code = "provider_email_missing"
    detail = "The provider names no e-mail address, and a new account needs one."


class ProviderEmailUnverified(ServiceError):
    status = 403
    code = "provider_email_unverified"
    detail = "The provider has not verified the e-mail address, and a new account needs a verified one."


class AccountLinkRequired(ServiceError):
    """Addresses never link accounts by themselves: whoever has one at a provider need not be who has it here."""

    status = 409
    code = "account_link_required"
    detail = "An account with this address exists. Sign in to it, then link the provider."


class IdentityTaken(ServiceError):
    status = 409
    code = "identity_taken"
    detail = "This identity is linked to another account."


class AlreadyLinked(ServiceError):
    status = 409
    code = "already_linked"
    detail = "Another identity of this provider is linked to the account. Unlink that one first."


class NotLinked(ServiceError):
    status = 409
    code = "not_linked"
    detail = "No identity of this provider is linked, or the provider takes its consent for withdrawn: link it again."


class LastCredential(ServiceError):
    status = 409
    code = "last_credential"
    detail = "This is the only way into the account. Set a password or link another provider first."


class TooManyRequests(ServiceError):
    status = 429
    code = "too_many_requests"
    detail = "Too many attempts. Wait before you try again."


class Unavailable(ServiceError):
    """We cannot know: a dependency is away. Never a refusal that makes a client throw its tokens away."""

    status = 503
    code = "temporarily_unavailable"
    detail = "The service cannot answer right now. Try again shortly."

    def __init__(self, reason: str = "", *, retry_after: int = 1) -> None:
        super().__init__(reason, retry_after=retry_after)
