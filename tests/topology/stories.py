"""What the token store is for, told once for every topology: each story goes through the service's own classes."""

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from service.accounts.pending import PendingSignUps
from service.clock import utc_now
from service.crypto.roots import RootKeys
from service.crypto.signer import PersonClaims
from service.errors import SessionExpired, SessionReused
from service.mail.message import Mail
from service.setting_values import Rate
from service.tokens.inspection import Active
from service.tokens.session_facts import Ended, Opened
from service.wiring import Services
from tests.conftest import PASSWORD, somebody
from tests.tokens.acting import admitted, claims_of
from tests.tokens.hearing import outcomes

MINUTE = 60_000


@dataclass(frozen=True)
class Actor:
    """Somebody's sessions at a worker."""

    services: Services
    account: UUID

    async def opens(self) -> Opened:
        return await self.services.sessions.open(self.account, "web", ("pwd",), ())

    async def refreshes(self, token: str) -> str:
        return (await self.services.sessions.rotate(token, "web")).refresh_token

    async def inspects(self, access_token: str) -> Active | None:
        return await self.services.inspection.of(access_token)

    async def claims(self, access_token: str) -> PersonClaims:
        active = await self.inspects(access_token)
        assert active is not None
        assert isinstance(active.claims, PersonClaims)
        return active.claims


def actor(services: Services) -> Actor:
    """Somebody new."""
    return Actor(services, uuid4())


async def a_session_is_opened_rotated_retried_and_closed(services: Services) -> None:
    anna = actor(services)
    opened = await anna.opens()
    other = await anna.opens()
    first = opened.grant.refresh_token
    second = await anna.refreshes(first)
    assert await anna.refreshes(first) == second
    assert await services.sessions.held_live(second, "web") is not None
    assert await services.sessions.held_live(first, "web") is None
    assert {one.session for one in await services.sessions.live(anna.account)} == {opened.session, other.session}
    await services.sessions.close(second)
    assert await anna.inspects(opened.grant.access_token) is None
    assert await anna.inspects(other.grant.access_token) is not None
    with pytest.raises(SessionExpired):
        await anna.refreshes(second)
    assert await services.sessions.reason_of_end(anna.account, opened.session) == "logout"


async def a_token_that_comes_back_late_ends_its_family(services: Services) -> None:
    anna = actor(services)
    opened = await anna.opens()
    third = await anna.refreshes(await anna.refreshes(opened.grant.refresh_token))
    with pytest.raises(SessionReused):
        await anna.refreshes(opened.grant.refresh_token)
    with pytest.raises(SessionExpired):
        await anna.refreshes(third)


async def who_proves_themselves_again_goes_on(services: Services) -> None:
    anna = actor(services)
    opened = await anna.opens()
    claims = await anna.claims(opened.grant.access_token)
    renewed = await services.sessions.reauthenticate(claims, ("pwd", "otp"))
    assert (await anna.claims(renewed.grant.access_token)).amr == ("pwd", "otp")
    assert await anna.refreshes(renewed.grant.refresh_token)


async def roles_show_at_the_next_look(services: Services) -> None:
    anna = actor(services)
    access_token = (await anna.opens()).grant.access_token
    await services.sessions.appoint(anna.account, ["reader"])
    active = await anna.inspects(access_token)
    assert active is not None
    assert active.roles == ("reader",)


async def all_others_end_and_then_all(services: Services) -> None:
    anna = actor(services)
    opened = [await anna.opens() for _ in range(4)]
    assert await services.sessions.close_others(anna.account, opened[0].session, Ended.ENDED) == 3
    assert [await anna.inspects(one.grant.access_token) is not None for one in opened] == [True, False, False, False]
    await services.sessions.close_all(anna.account)
    assert await anna.inspects(opened[0].grant.access_token) is None
    assert await services.sessions.live(anna.account) == []


async def one_access_token_ends_before_its_time(services: Services) -> None:
    anna = actor(services)
    opened = await anna.opens()
    client = await services.clients.acting("web")
    assert client is not None
    await services.revocation.revoke(opened.grant.access_token, client)
    services.replay.overlay.tokens.clear()  # Redis itself must know
    assert await anna.inspects(opened.grant.access_token) is None
    assert await anna.refreshes(opened.grant.refresh_token)


async def a_lost_session_comes_back_from_the_journal(services: Services) -> None:
    person = somebody()
    account = await services.administration.create(person.email, person.nickname, PASSWORD, ())
    grants = [await admitted(services, account) for _ in range(2)]
    await services.store.delete(f"sessions:{{{account.id}}}")
    assert await services.inspection.of(grants[0].access_token) is not None
    await services.sessions.rotate(grants[1].refresh_token, "web")
    assert len(await services.sessions.live(account.id)) == 2


async def a_sign_up_waits_for_its_code(services: Services) -> None:
    settings, email = services.settings, f"{secrets.token_hex(6)}@example.com"
    pending = PendingSignUps(services.store, RootKeys.parse(settings.keys), settings)
    held = await pending.hold(email, "anna", PASSWORD, "a hash", address_known=False, language="en")
    first, second = await pending.new_proofs(held), await pending.new_proofs(held)
    assert await pending.redeem(held, "link", first.link) == "wrong"
    assert await pending.redeem(held, "code", second.code) == "right"
    assert await pending.redeem(held, "link", second.link) == "claimed"
    await pending.release(held)
    assert await pending.redeem(held, "link", second.link) == "right"
    again = await pending.hold(email, "bert", PASSWORD, "a hash", address_known=False, language="en")
    latest = await pending.latest_of(email)
    assert latest is not None
    assert (latest.id, latest.nickname) == (again.id, "bert")
    await pending.forget_all(email)
    assert await pending.latest_of(email) is None
    assert await pending.redeem(held, "code", second.code) == "unknown"


async def limits_count(services: Services) -> None:
    limits, subject = services.limits, secrets.token_hex(6)
    rate = Rate(3, 3600)
    assert [await limits.allows("tests", rate, subject) for _ in range(4)] == [True, True, True, False]
    await limits.forgive(("tests", subject))
    assert await limits.allows("tests", rate, subject)
    assert [await limits.count("row", timedelta(minutes=1), subject) for _ in range(2)] == [1, 2]
    assert await limits.counted("row", subject) == 2
    await limits.vouch("tests", timedelta(minutes=1), subject)
    assert await limits.is_vouched("tests", subject)


async def what_may_be_used_once_is(services: Services) -> None:
    store, key = services.store, f"test:{secrets.token_hex(6)}"
    spent = await asyncio.gather(*(store.run("spend", key, MINUTE) for _ in range(30)))
    assert Counter(spent) == {1: 1, 0: 29}
    await store.put(f"{key}:waiting", b"sealed", 60)
    picked = await asyncio.gather(*(store.pick(f"{key}:waiting") for _ in range(30)))
    assert Counter(picked) == {b"sealed": 1, None: 29}


async def plain_keys_sets_hashes_and_lists_are_kept(services: Services) -> None:
    store, key = services.store, f"test:{secrets.token_hex(6)}"
    await store.add(f"{key}:set", "a", 60)
    await store.add(f"{key}:set", "b", 60)
    assert await store.members(f"{key}:set") == {b"a", b"b"}
    await store.run("hold", f"{key}:hash", MINUTE, "one", "1", "two", "2")
    assert await store.fields(f"{key}:hash") == {"one": b"1", "two": b"2"}
    await store.drop_field(f"{key}:hash", "one")
    assert await store.fields_of(f"{key}:hash", "one", "two") == [None, b"2"]
    assert await store.field(f"{key}:hash", "two") == b"2"
    for number in range(4):
        await store.push(f"{key}:list", number, 2)
    assert await store.items(f"{key}:list") == [b"3", b"2"]
    await store.delete(f"{key}:set", f"{key}:hash", f"{key}:list")
    assert not await store.exists(f"{key}:hash")
    assert [await store.members(f"{key}:set"), await store.fields(f"{key}:hash")] == [set(), {}]


async def the_mailbox_fills(services: Services) -> None:
    await services.mailbox.empty()
    for number in range(3):
        await services.mailbox.deliver(Mail("anna@example.com", f"letter {number}", "text", "<p>text"))
    assert [mail.subject for mail in await services.mailbox.mails()] == ["letter 2", "letter 1", "letter 0"]


async def forty_refreshes_at_once_leave_one_lineage(services: Services) -> None:
    anna = actor(services)
    token = (await anna.opens()).grant.refresh_token
    successors = await asyncio.gather(*(anna.refreshes(token) for _ in range(40)))
    assert len(set(successors)) == 1
    assert await anna.refreshes(successors[0])


async def a_refresh_that_meets_a_sign_out_leaves_nothing_alive(services: Services) -> None:
    anna = actor(services)
    for number in range(20):
        token = (await anna.opens()).grant.refresh_token
        refreshing = [asyncio.create_task(outcomes(anna.refreshes(token))) for _ in range(2)]
        for _ in range(number):
            await asyncio.sleep(0)
        await services.sessions.close(token)
        for [answer] in await asyncio.gather(*refreshing):
            assert answer is SessionExpired or await outcomes(anna.refreshes(answer)) == [SessionExpired]
    assert await services.sessions.live(anna.account) == []


async def cancelled_commands_give_nobody_the_answer_of_another(services: Services) -> None:
    people = [actor(services) for _ in range(20)]
    tokens = [(await one.opens()).grant.access_token for one in people]
    for number in range(12):
        asked = [asyncio.create_task(services.inspection.of(token)) for token in tokens]
        for _ in range(number):
            await asyncio.sleep(0)
        for task in asked[::2]:
            task.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told = [claims_of(answer_token)["sub"] for answer_token in tokens[1::2]]
        assert [one.claims.sub for one in answers[1::2] if isinstance(one, Active)] == told


async def clocks_and_identities_are_known(services: Services) -> None:
    assert abs(await services.store.time() - utc_now().timestamp()) < 5
    assert "run_id:" in await services.store.identity()
    assert await services.store.identity() == await services.store.identity()
    assert (await services.store.info())["maxmemory_policy"] == "noeviction"


STORIES = (
    a_session_is_opened_rotated_retried_and_closed,
    a_token_that_comes_back_late_ends_its_family,
    who_proves_themselves_again_goes_on,
    roles_show_at_the_next_look,
    all_others_end_and_then_all,
    one_access_token_ends_before_its_time,
    a_lost_session_comes_back_from_the_journal,
    a_sign_up_waits_for_its_code,
    limits_count,
    what_may_be_used_once_is,
    plain_keys_sets_hashes_and_lists_are_kept,
    the_mailbox_fills,
    forty_refreshes_at_once_leave_one_lineage,
    a_refresh_that_meets_a_sign_out_leaves_nothing_alive,
    cancelled_commands_give_nobody_the_answer_of_another,
    clocks_and_identities_are_known,
)
