"""Every long-lived object, made once, bottom-up. Tests replace the clock, the mail transport and the scripts' clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import structlog

from service import background, metrics
from service.accounts.administration import Administration
from service.accounts.avatars import Avatars, open_store
from service.accounts.breaches import BreachedPasswords
from service.accounts.closing import Closing
from service.accounts.credentials import Credentials
from service.accounts.directory import Directory
from service.accounts.entrance import Entrance
from service.accounts.export import Exports
from service.accounts.federation import Federation
from service.accounts.guesses import Guesses
from service.accounts.identities import Identities
from service.accounts.mail_budget import MailBudget
from service.accounts.mass_sign_out import MassSignOut
from service.accounts.new_passwords import NewPasswords
from service.accounts.notices import Notices
from service.accounts.own_password import OwnPassword
from service.accounts.password_rules import PasswordRules
from service.accounts.pending import PendingSignUps
from service.accounts.profile import Profile
from service.accounts.recovery import Recovery
from service.accounts.registration import Registration
from service.audit import Audit
from service.audit_search import AuditTrail
from service.clock import Clock, utc_now
from service.crypto.blocklist import Blocklist
from service.crypto.passwords import Cost, Passwords
from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError
from service.crypto.signer import Signer
from service.errors import Unavailable
from service.limits import Limits
from service.login.guilds import Guilds
from service.login.password import Login
from service.login.social import SocialLogin
from service.login.transactions import Transactions
from service.mail.mailbox import Mailbox
from service.mail.mailer import Mailer
from service.mail.message import Transport
from service.mail.outbox import Outbox
from service.mail.smtp import Smtp
from service.mail.templates import Templates
from service.oauth.callers import ProvedCallers
from service.oauth.client_authentication import ClientAuthentication
from service.oauth.grants.client_credentials import ClientCredentials
from service.oauth.grants.refresh_token import RefreshTokenGrant
from service.oauth.introspect import Introspections
from service.oauth.token import TokenEndpoint
from service.operations.health import Health
from service.operations.housekeeping import Housekeeping
from service.operations.reminders import Reminders
from service.operations.rewrapping import Rewrapping
from service.operations.vitals import Vitals
from service.providers.directory import Providers
from service.settings import Settings
from service.store.postgres import Database
from service.store.redis import RedisStore
from service.tokens.access import AccessTokens
from service.tokens.client_administration import ClientAdministration
from service.tokens.clients import Clients
from service.tokens.healing import Healing
from service.tokens.inspection import Inspection
from service.tokens.journal import Journal
from service.tokens.keys import SigningKeys
from service.tokens.one_time import OneTimeTokens
from service.tokens.overview import Overview
from service.tokens.principal import BearerAuthentication
from service.tokens.recall import Recall
from service.tokens.refresh import RefreshTokens
from service.tokens.replay import Overlay, Replay
from service.tokens.revocation import Revocation
from service.tokens.sessions import Sessions
from service.tokens.verified import VerifiedTokens

log = structlog.get_logger("vestibule.wiring")

CHANGED = "changed"
"""The channel on which workers tell each other that clients or keys changed."""


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers and commands ask for, by name: a field here is a dependency of that name there.

    No name may be that of a field in a request: Litestar would blame itself for what is wrong with the field.
    """

    settings: Settings
    clock: Clock
    database: Database
    store: RedisStore
    passwords: Passwords
    audit: Audit
    outbox: Outbox
    mailer: Mailer
    limits: Limits
    clients: Clients
    client_administration: ClientAdministration
    signing_keys: SigningKeys
    sessions: Sessions
    inspection: Inspection
    recall: Recall
    replay: Replay
    bearer: BearerAuthentication
    registrations: Registration
    administration: Administration
    directory: Directory
    mass_sign_out: MassSignOut
    audit_trail: AuditTrail
    recovery: Recovery
    profile: Profile
    credentials: Credentials
    overview: Overview
    avatars: Avatars
    exports: Exports
    closing: Closing
    login: Login
    providers: Providers
    federation: Federation
    social: SocialLogin
    guilds: Guilds
    proved_callers: ProvedCallers
    client_authentication: ClientAuthentication
    token_endpoint: TokenEndpoint
    introspections: Introspections
    revocation: Revocation
    health: Health
    vitals: Vitals
    mailbox: Mailbox
    housekeeping: Housekeeping
    rewrapping: Rewrapping

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts what works in the background, and ends it in the opposite order.

        A store that is away at the start does not stop it: readiness waits until keys and clients are loaded.
        """
        await self._reload()
        await self.health.look()
        self.audit.start()
        self.health.start()
        self.vitals.start()
        self.mailer.start()
        self.housekeeping.start()
        self.providers.start()
        self.replay.start()
        reloading = asyncio.create_task(self._reload_on(), name="reload")
        listening = asyncio.create_task(self._reload_when_told(), name="listen")
        try:
            yield
        finally:
            await background.end(listening)
            await background.end(reloading)
            await self.replay.stop()
            await self.providers.stop()
            await self.housekeeping.stop()
            await self.vitals.stop()
            await self.health.stop()
            await self.mailer.stop()
            await self.audit.stop()
            await self.close()

    async def close(self) -> None:
        """Lets go of threads and connections."""
        self.passwords.close()
        self.avatars.close()
        await self.providers.close()
        await self.recall.close()
        await self.store.close()
        await self.database.close()

    async def _reload_on(self) -> None:
        pause = self.settings.key_refresh.total_seconds()
        while True:
            await asyncio.sleep(pause)
            await self._reload()
            await self._rotate_keys()

    async def _reload_when_told(self) -> None:
        """Other workers say when they changed a client or a key; who missed it looks within `key_refresh`."""
        pause = self.settings.key_refresh.total_seconds()
        while True:
            try:
                async for _ in self.store.announcements(CHANGED):
                    await self._reload()
            except Unavailable as error:
                log.warning("not listening for changes", reason=error.reason)
            await asyncio.sleep(pause)

    async def _rotate_keys(self) -> None:
        try:
            if await self.signing_keys.rotate_if_due():
                self.audit.record("keys.rotate", "scheduled")
        except Unavailable as error:
            log.warning("a due rotation of keys waits", reason=error.reason)
        except Exception:
            log.exception("a due rotation of keys failed")

    async def _reload(self) -> None:
        for what, reload in (("signing keys", self.signing_keys.reload), ("clients", self.clients.reload)):
            try:
                await reload()
            except Unavailable as error:
                log.warning("not read anew", what=what, reason=error.reason)
            except UnsealError:
                log.error("a signing key cannot be unsealed: its root key is not in VESTIBULE_KEYS")
            except Exception:
                log.exception("could not be read anew", what=what)


def build(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    mail: Callable[[RedisStore], Transport] | None = None,
    abroad: httpx.AsyncBaseTransport | None = None,
    scripts: Callable[[str], str] | None = None,
) -> Services:
    """Wires the house. `mail` makes the transport (SMTP of the settings by default), `abroad` leads to foreign
    providers (the network by default), `scripts` reads Lua files.

    Raises `SettingsError` for settings that only show their weakness here.
    """
    roots = RootKeys.parse(settings.keys)
    database = Database.connect(settings)
    store = RedisStore.connect(settings, scripts)
    transport = mail(store) if mail else Smtp.of(settings)
    cost = Cost(settings.argon2_time_cost, settings.argon2_memory_kib, settings.argon2_parallelism)
    passwords = Passwords(
        roots,
        cost,
        slots=settings.hash_slots,
        queue=settings.hash_queue,
        took=metrics.hash_seconds.observe,
        refused=metrics.hashes_refused.inc,
    )
    breaches = BreachedPasswords(settings.breached_passwords_url, settings.breached_passwords_timeout.total_seconds())
    blocklist = Blocklist.load(settings.password_context_words)
    rules = PasswordRules(settings.password_min_length, blocklist, breaches)
    new_passwords = NewPasswords(passwords, rules)
    limits = Limits(store, roots)
    audit = Audit(database, clock)
    outbox = Outbox(database, roots, clock, settings.name)
    mailer = Mailer(outbox, transport, Templates(), settings.mail_life, settings.mail_timeout, settings.leeway)
    guesses = Guesses(limits, settings)
    mail_budget = MailBudget(limits, settings)
    notices = Notices(outbox, clock)
    one_time = OneTimeTokens(roots, clock)

    announce = partial(store.announce, CHANGED)
    clients = Clients(database, roots, clock, settings.token_audience, announce)
    signing_keys = SigningKeys(database, roots, settings, clock, announce)
    signer = Signer(settings.issuer, settings.token_audience, settings.leeway)
    access_tokens = AccessTokens(signer, signing_keys, settings, clock, VerifiedTokens(signer))
    journal = Journal(database, clock)
    overlay = Overlay()
    recall = Recall(Database.connect(settings, pool=1), clock)
    healing = Healing(store, recall, overlay, clients, settings, clock)
    sessions = Sessions(store, RefreshTokens(roots), access_tokens, clients, journal, healing, audit, settings)
    inspection = Inspection(access_tokens, healing, clients)
    proved_callers = ProvedCallers(clients, clock)

    avatars = Avatars(database, limits, audit, settings, clock, store=open_store(settings))
    profile = Profile(database, passwords, avatars, limits, notices, audit, settings, clock)
    own_password = OwnPassword(profile, passwords, guesses, audit)
    entrance = Entrance(database, sessions, journal, guesses, notices, audit)
    pending = PendingSignUps(store, roots, settings)
    identities = Identities(database, roots, clock)
    providers = Providers.of(settings, clock, abroad)
    registration = Registration(
        database=database,
        pending=pending,
        passwords=passwords,
        rules=rules,
        limits=limits,
        guesses=guesses,
        mail_budget=mail_budget,
        outbox=outbox,
        entrance=entrance,
        clients=clients,
        audit=audit,
        settings=settings,
        clock=clock,
    )
    recovery = Recovery(
        database=database,
        identities=identities,
        new_passwords=new_passwords,
        one_time=one_time,
        sessions=sessions,
        journal=journal,
        guesses=guesses,
        mail_budget=mail_budget,
        limits=limits,
        notices=notices,
        audit=audit,
        settings=settings,
        clock=clock,
    )
    credentials = Credentials(
        database=database,
        own_password=own_password,
        new_passwords=new_passwords,
        one_time=one_time,
        sessions=sessions,
        journal=journal,
        guesses=guesses,
        mail_budget=mail_budget,
        limits=limits,
        notices=notices,
        audit=audit,
        settings=settings,
        clock=clock,
    )
    login = Login(
        database=database,
        passwords=passwords,
        pending=pending,
        registration=registration,
        entrance=entrance,
        own_password=own_password,
        recovery=recovery,
        sessions=sessions,
        journal=journal,
        clients=clients,
        guesses=guesses,
        notices=notices,
        audit=audit,
        clock=clock,
    )
    federation = Federation(
        database=database,
        providers=providers,
        identities=identities,
        pending=pending,
        sessions=sessions,
        journal=journal,
        notices=notices,
        limits=limits,
        audit=audit,
        settings=settings,
        clock=clock,
    )
    social = SocialLogin(
        providers=providers,
        transactions=Transactions(store, roots, settings),
        federation=federation,
        entrance=entrance,
        recovery=recovery,
        profile=profile,
        clients=clients,
        guesses=guesses,
        limits=limits,
        audit=audit,
        settings=settings,
        clock=clock,
    )
    health = Health(database, store, transport, signing_keys, clock)
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        store=store,
        passwords=passwords,
        audit=audit,
        outbox=outbox,
        mailer=mailer,
        limits=limits,
        clients=clients,
        client_administration=ClientAdministration(database, clients, roots, audit, settings, clock),
        signing_keys=signing_keys,
        sessions=sessions,
        inspection=inspection,
        recall=recall,
        replay=Replay(database, store, journal, settings, clock, overlay),
        bearer=BearerAuthentication(inspection, settings, clock),
        registrations=registration,
        administration=Administration(database, new_passwords, sessions, journal, audit, clock),
        directory=Directory(database),
        mass_sign_out=MassSignOut(database, sessions, audit, clock),
        audit_trail=AuditTrail(database),
        recovery=recovery,
        profile=profile,
        credentials=credentials,
        overview=Overview(database, sessions, journal, one_time, limits, audit, settings, clock),
        avatars=avatars,
        exports=Exports(
            database, profile, sessions, journal, one_time, identities, outbox, audit, limits, settings, clock
        ),
        closing=Closing(database, sessions, one_time, notices, avatars, pending, audit, settings, clock),
        login=login,
        providers=providers,
        federation=federation,
        social=social,
        guilds=Guilds(database, providers, identities, limits, settings, clock),
        proved_callers=proved_callers,
        client_authentication=ClientAuthentication(clients, limits, store, audit, settings, clock, proved_callers),
        token_endpoint=TokenEndpoint(
            {
                "client_credentials": ClientCredentials(clients, access_tokens, audit),
                "refresh_token": RefreshTokenGrant(clients, login),
            },
            limits,
            settings,
        ),
        introspections=Introspections(inspection, sessions, access_tokens, clients, clock),
        revocation=Revocation(access_tokens, sessions, store, audit, clock),
        health=health,
        vitals=Vitals(database, store, passwords, outbox, audit, signing_keys, health, clock),
        mailbox=Mailbox(store, clock),
        housekeeping=Housekeeping(database, Reminders(database, notices, audit, clock), settings, clock),
        rewrapping=Rewrapping(database, roots, signing_keys, outbox, identities),
    )
