"""Sign-in through foreign providers: begun here, proved there, finished here (RFC 9700, OpenID Connect Core)."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec
import structlog

from service.accounts.entrance import Entrance
from service.accounts.federation import Arrival, Federation, Linking
from service.accounts.guesses import Guesses
from service.accounts.profile import Profile
from service.accounts.recovery import Recovery
from service.audit import Audit
from service.clock import Clock
from service.device import Device
from service.errors import (
    AccessDenied,
    FieldError,
    InvalidCredentials,
    InvalidInput,
    InvalidState,
    PasswordChangeRequired,
    ProviderUnavailable,
    ServiceError,
    TooManyRequests,
    Unavailable,
)
from service.limits import Limits
from service.login.transactions import Transactions, Waiting
from service.origins import own_page
from service.providers.directory import Providers
from service.providers.provider import Asked, ForeignPerson, ForeignTokens, Provider
from service.settings import Settings
from service.tokens.client_rules import is_native_redirect
from service.tokens.clients import Clients
from service.tokens.principal import Principal
from service.tokens.session_facts import Ended, Grant

log = structlog.get_logger("vestibule.social")

PROVED_ELSEWHERE = ("fed",)
"""`amr` of a session that a provider opened: how the person was proved there, we did not see."""
CANCELLED = {"access_denied", "user_cancelled_authorize"}
"""The second is Apple's word."""
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
LONGEST_CODE = 4096


@dataclass(frozen=True, slots=True)
class Browser:
    """What a browser brought: the value that ties transactions to it, and its refresh token; either may be empty."""

    tie: str
    refresh_token: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """Where to send a browser, and the value of the cookie that ties it to its transactions."""

    authorize_url: str
    browser: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Where a browser goes from here: with tokens, or with `error` in the URL; linking brings neither."""

    next: str
    grant: Grant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCode:
    """What a native app was given, and what it had begun with."""

    code: str
    verifier: str
    redirect_uri: str
    client_id: str
    nonce: str | None


@dataclass(frozen=True, slots=True)
class SocialLogin:
    """Lets people in whom a provider vouches for, and links providers to accounts."""

    providers: Providers
    transactions: Transactions
    federation: Federation
    entrance: Entrance
    recovery: Recovery
    profile: Profile
    clients: Clients
    guesses: Guesses
    limits: Limits
    audit: Audit
    settings: Settings
    clock: Clock

    async def begin(
        self, provider: str, wanted: str | None, client_id: str, device: Device, browser: Browser, *, login_again: bool
    ) -> Begun:
        """A sign-in that leads back to the page `wanted`. `login_again` asks the provider for a new proof.

        Raises `NotFound`, `InvalidInput` for a page that is not on the list, `UnknownClient`, `TooManyRequests`. A
        provider that is away leads back to the page at once, with `error=provider_unavailable`.
        """
        found = self.providers.get(provider)
        client = await self.clients.front_end(client_id)
        page = self._page(wanted)
        await self.limits.take("social-network", self.settings.limit_social_network, device.network)
        held = await self.entrance.sessions.held(browser.refresh_token) if browser.refresh_token else None
        left = (held.token.account, held.token.session) if held else None
        waiting = msgspec.structs.replace(self._waiting(found, page, client.id), mark=device.mark, left=left)
        try:
            return await self._begun(found, waiting, browser.tie, login_again=login_again)
        except ProviderUnavailable as error:
            log.warning("a sign-in could not begin", provider=found.id, reason=error.reason)
            return Begun(with_error(page, error.code), self.transactions.browser(browser.tie))

    async def begin_link(self, principal: Principal, provider: str, wanted: str | None, browser: str) -> Begun:
        """The same for somebody who is signed in and wants to sign in through this provider too.

        Raises `NotFound`, `StaleAuthentication`, `InvalidInput`, `TooManyRequests`, `ProviderUnavailable`.
        """
        principal.ensure_fresh(self.settings, self.clock)
        found = self.providers.get(provider)
        await self.limits.take("change", self.settings.limit_change_account, str(principal.account))
        account = await self.profile.read(principal.account)
        waiting = self._waiting(
            found,
            self._page(wanted),
            principal.claims.client_id,
            Linking(account.id, principal.session, account.password_changed_at.timestamp()),
        )
        return await self._begun(found, waiting, browser)

    async def finish(self, provider: str, answer: Mapping[str, str], device: Device, browser: str) -> Finished:
        """What a browser brought back from a provider.

        Raises `InvalidState` when no transaction of this browser and provider waits for it, or somebody else than that
        provider says to have answered; `Unavailable` before it is known. Every other refusal leads back to the page.
        """
        found = self.providers.get(provider)
        waiting = await self.transactions.take(answer.get("state", ""), browser, found.id)
        if waiting is None or waiting.issuer != found.issuer:
            raise InvalidState("no transaction of this browser and provider")
        try:
            await found.look()
            self._ensure_from(found, answer.get("iss"))
            return await self._finished(found, waiting, answer, device)
        except InvalidState:
            self.audit.record("login.social", "wrong_issuer", provider=found.id)
            raise
        except ServiceError as refusal:
            self.audit.record("login.social", refusal.code, client=waiting.client_id, provider=found.id)
            log.info("a sign-in through a provider was refused", provider=found.id, reason=refusal.reason)
            return Finished(with_error(waiting.next, refusal.code))

    async def exchange(self, provider: str, native: NativeCode, device: Device) -> Grant:
        """Signs a native app's person in, by a code that the app was given at its own redirect URI (RFC 8252).

        The app made state, verifier and nonce, and looks after the state. Raises as the callback does, and
        `InvalidInput` for a redirect URI that its client is not registered with.
        """
        found = self.providers.get(provider)
        client = await self.clients.front_end(native.client_id)
        wrong = []
        if not VERIFIER.fullmatch(native.verifier):
            detail = "43 to 128 unreserved characters (RFC 7636 section 4.1)."
            wrong.append(FieldError("code_verifier", "code_verifier_invalid", detail))
        if not is_native_redirect(native.redirect_uri, client.redirect_uris):
            detail = "A loopback or custom-scheme URI that the client is registered with (RFC 8252)."
            wrong.append(FieldError("redirect_uri", "redirect_uri_not_allowed", detail))
        if wrong:
            raise InvalidInput(fields=wrong)
        await self.limits.take("social-network", self.settings.limit_social_network, device.network)
        try:
            person, tokens = await found.identify(native.code, native.redirect_uri, native.verifier, native.nonce)
            return await self._enter(found, person, tokens, client.id, device)
        except ServiceError as refusal:
            self.audit.record("login.social", refusal.code, client=client.id, provider=found.id)
            raise

    def _page(self, wanted: str | None) -> str:
        """The page to go back to. Raises `InvalidInput` unless it is ours or of an allowed origin (ASVS 3.7.2)."""
        if wanted is None:
            return f"{self.settings.issuer}/auth/done"
        page = own_page(wanted, self.settings)
        if page is None:
            detail = "A path of ours, or a URL of an allowed origin."
            raise InvalidInput(fields=[FieldError("next", "next_not_allowed", detail)])
        return page

    def _waiting(self, provider: Provider, page: str, client_id: str, linking: Linking | None = None) -> Waiting:
        nonce, verifier = self.transactions.secrets()
        return Waiting(
            provider=provider.id,
            issuer=provider.issuer,
            redirect_uri=f"{self.settings.issuer}/auth/social/{provider.id}/callback",
            next=page,
            client_id=client_id,
            browser="",
            nonce=nonce,
            verifier=verifier,
            account=linking.account if linking else None,
            session=linking.session if linking else b"",
            password_changed_at=linking.password_changed_at if linking else 0,
        )

    async def _begun(self, provider: Provider, waiting: Waiting, presented: str, *, login_again: bool = False) -> Begun:
        await provider.look()
        browser = self.transactions.browser(presented)
        state = await self.transactions.hold(waiting, browser)
        asked = Asked(waiting.redirect_uri, state, waiting.nonce, waiting.verifier, login_again)
        return Begun(await provider.authorize_url(asked), browser)

    def _ensure_from(self, provider: Provider, issuer: str | None) -> None:
        """Mix-up: somebody else's answer is not taken to this provider (RFC 9207 section 2.4)."""
        if (issuer is None and provider.names_itself) or (issuer is not None and issuer != provider.issuer):
            raise InvalidState("the answer of another issuer, or of nobody")

    async def _finished(
        self, provider: Provider, waiting: Waiting, answer: Mapping[str, str], device: Device
    ) -> Finished:
        if "error" in answer:
            is_cancelled = answer["error"] in CANCELLED
            raise AccessDenied("cancelled") if is_cancelled else ProviderUnavailable(f"error {answer['error'][:64]!r}")
        code = answer.get("code", "")
        if not 0 < len(code) <= LONGEST_CODE:
            raise ProviderUnavailable("neither code nor error")
        person, tokens = await provider.identify(code, waiting.redirect_uri, waiting.verifier, waiting.nonce)
        if waiting.account is None:
            device = replace(device, mark=device.mark or waiting.mark)
            grant = await self._enter(provider, person, tokens, waiting.client_id, device)
            await self._leave(waiting)
            return Finished(waiting.next, grant)
        asked = Linking(waiting.account, waiting.session, waiting.password_changed_at)
        await self.federation.link(asked, provider, person, tokens if provider.has_use_for_tokens else None, device)
        return Finished(waiting.next)

    async def _enter(
        self, provider: Provider, person: ForeignPerson, tokens: ForeignTokens, client: str, device: Device
    ) -> Grant:
        kept = tokens if provider.has_use_for_tokens else None
        arrival = await self.federation.enter(provider, person, kept, device)
        account = arrival.account
        try:
            account.ensure_may_enter()
        except PasswordChangeRequired:
            with suppress(TooManyRequests, Unavailable):
                await self.recovery.request(account.email, device)
            raise
        is_known = arrival.is_new or await self.guesses.knows(account, device)
        try:
            grant = await self.entrance.admit(
                account,
                client,
                PROVED_ELSEWHERE,
                device,
                news=None if is_known else 0,
                identity=arrival.identity,
                proved_ago=self._proved_ago(arrival, person),
            )
        except InvalidCredentials as refusal:
            raise Unavailable(f"at this very moment: {refusal.reason}") from None
        self.audit.record("login.social", account=account.id, client=client, provider=provider.id)
        return grant

    async def _leave(self, waiting: Waiting) -> None:
        """Ends the session that the browser had: its cookie is replaced, and nobody could reach it (ASVS 7.2.4)."""
        if waiting.left is not None:
            account, session = waiting.left
            with suppress(Unavailable):
                await self.entrance.sessions.end(account, session, Ended.LOGOUT)
                await self.entrance.journal.ended(session, Ended.LOGOUT.reason)

    def _proved_ago(self, arrival: Arrival, person: ForeignPerson) -> timedelta:
        """How long ago the person gave a credential, as far as anybody vouches for it (ASVS 6.8.4).

        A provider that does not say may have let them in by an old cookie: where they have a password here, that is
        asked for before anything dangerous. Where they have none, the provider is the best proof there is.
        """
        if person.authenticated_at is not None:
            ago = timedelta(seconds=self.clock().timestamp() - person.authenticated_at)
            return min(max(ago, timedelta(0)), self.settings.session_absolute)
        return self.settings.fresh_life + timedelta(seconds=1) if arrival.account.password_hash else timedelta(0)


def with_error(page: str, code: str) -> str:
    """The page with `error=<code>` in its query."""
    parts = urlsplit(page)
    query = "&".join(filter(None, (parts.query, urlencode({"error": code}))))
    return urlunsplit(parts._replace(query=query))
