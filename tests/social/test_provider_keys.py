"""A provider's keys: asked for seldom, found when they are new, forgotten when they are withdrawn."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import jwt
import msgspec
import pytest

from service.errors import ProviderAnswerInvalid, ProviderUnavailable, ServiceError
from service.fake_provider.keys import Keys
from service.settings import Settings
from tests.conftest import TestClock
from tests.social.acting import Stranger
from tests.social.elsewhere import KEY_SET, Elsewhere, elsewhere, random_kids

HOUR = 3600
COOLDOWN = 60


@pytest.fixture
async def there(settings: Settings, clock: TestClock) -> AsyncIterator[Elsewhere]:
    async with elsewhere(settings, clock) as found:
        yield found


async def refusals(there: Elsewhere, tokens: list[str]) -> set[type[ServiceError]]:
    """How tokens are refused that come all at once."""
    found = await asyncio.gather(*map(there.presented, tokens), return_exceptions=True)
    assert all(isinstance(one, ServiceError) for one in found), found
    return {type(one) for one in found if isinstance(one, ServiceError)}


@pytest.mark.standard("SO-25")
async def test_the_keys_are_fetched_once_for_all_who_come_within_an_hour(there: Elsewhere, clock: TestClock) -> None:
    there.way.delay = 0.01
    people = [Stranger() for _ in range(10)]
    found = await asyncio.gather(*(there.identified(who) for who in people))
    assert [one.subject for one in found] == [who.subject for who in people]
    await clock.advance(seconds=HOUR - 10)
    await there.vouched()
    assert there.fetches(KEY_SET) == 1
    await clock.advance(seconds=20)
    await asyncio.gather(*(there.vouched() for _ in range(10)))
    assert there.fetches(KEY_SET) == 2


@pytest.mark.standard("SO-25")
async def test_unknown_key_ids_lead_to_one_fetch_per_cooldown(there: Elsewhere, clock: TestClock) -> None:
    await there.vouched()
    strange = random_kids(there.signed(there.fake.keys), 200)
    for expected in (2, 3):
        assert await refusals(there, strange[:100]) == {ProviderAnswerInvalid}
        for token in strange[100:]:
            with pytest.raises(ProviderAnswerInvalid):
                await there.presented(token)
        assert there.fetches(KEY_SET) == expected
        assert (await there.vouched()).subject == "ann-1"
        await clock.advance(seconds=COOLDOWN + 1)


@pytest.mark.standard("SO-25")
async def test_unknown_key_ids_lead_to_few_fetches_also_where_there_were_no_keys(there: Elsewhere) -> None:
    strange = random_kids(there.signed(there.fake.keys), 200)
    assert await refusals(there, strange) == {ProviderAnswerInvalid}
    assert there.fetches(KEY_SET) <= 2
    assert (await there.vouched()).subject == "ann-1"


@pytest.mark.standard("SO-25")
@pytest.mark.parametrize("fault", ["jwks_down", "jwks_rubbish"])
async def test_keys_that_cannot_be_had_are_not_asked_for_by_everybody(
    there: Elsewhere, clock: TestClock, fault: str
) -> None:
    there.fake.discovery_fault = fault
    tokens = [there.signed(there.fake.keys)] * 20
    assert await refusals(there, tokens) == {ProviderUnavailable}
    for token in tokens:
        with pytest.raises(ProviderUnavailable):
            await there.presented(token)
    there.fake.discovery_fault = ""
    await clock.advance(seconds=COOLDOWN + 1)
    assert (await there.vouched()).subject == "ann-1"
    assert there.fetches(KEY_SET) == 2


@pytest.mark.standard("SO-25")
async def test_people_do_not_queue_one_after_the_other_for_keys_that_do_not_come(
    settings: Settings, clock: TestClock
) -> None:
    impatient = msgspec.structs.replace(settings, provider_timeout=timedelta(seconds=1))
    async with elsewhere(impatient, clock) as there:
        await there.authorize_url()
        there.way.delay = 30
        assert await refusals(there, [there.signed(there.fake.keys)] * 10) == {ProviderUnavailable}
        assert there.fetches(KEY_SET) == 1


@pytest.mark.standard("SO-25")
@pytest.mark.parametrize(
    "answer", ["jwks_down", "jwks_rubbish", b'{"keys": []}', b'{"keys": {}}', b"[]", b"x" * 10**6], ids=range(6)
)
async def test_a_fetch_that_fails_leaves_the_keys_that_are_known(
    there: Elsewhere, clock: TestClock, answer: str | bytes
) -> None:
    await there.vouched()
    if isinstance(answer, str):
        there.fake.discovery_fault = answer
    else:
        there.way.answer(KEY_SET, answer)
    for token in random_kids(there.signed(there.fake.keys), 3):
        with pytest.raises(ProviderAnswerInvalid):
            await there.presented(token)
        assert (await there.vouched()).subject == "ann-1"
    await clock.advance(seconds=HOUR + 1)
    assert (await there.vouched()).subject == "ann-1"


@pytest.mark.standard("SO-25")
async def test_a_new_key_is_found_by_the_first_who_brings_it(there: Elsewhere, clock: TestClock) -> None:
    await there.vouched()
    there.fake.rotate_key()
    there.way.delay = 0.01
    found = await asyncio.gather(*(there.vouched() for _ in range(10)))
    assert {one.subject for one in found} == {"ann-1"}
    assert there.fetches(KEY_SET) == 2
    there.fake.add_key()
    with pytest.raises(ProviderAnswerInvalid):
        await there.vouched()
    await clock.advance(seconds=COOLDOWN + 1)
    assert (await there.vouched()).subject == "ann-1"


@pytest.mark.standard("SO-25")
async def test_a_new_key_is_found_at_a_provider_that_names_none_of_its_keys(there: Elsewhere, clock: TestClock) -> None:
    def publish(keys: Keys) -> None:
        bare = [{name: value for name, value in key.items() if name != "kid"} for key in keys.jwks["keys"]]
        there.way.answer(KEY_SET, {"keys": bare})

    for keys in (Keys(), Keys()):
        publish(keys)
        assert (await there.presented(_without_kid(there, keys))).subject == "ann-1"
        await clock.advance(seconds=COOLDOWN + 1)


def _without_kid(there: Elsewhere, keys: Keys) -> str:
    """A token that does not say which key signed it."""
    payload = jwt.decode(there.signed(keys), options={"verify_signature": False})
    return jwt.encode(payload, keys._published[-1].private, algorithm="ES256")


@pytest.mark.standard("SO-25")
async def test_a_withdrawn_key_is_forgotten_when_others_are_found_or_an_hour_has_passed(
    there: Elsewhere, clock: TestClock
) -> None:
    stolen = there.fake.keys
    assert (await there.vouched(stolen)).subject == "ann-1"
    there.fake.keys = Keys()
    await clock.advance(seconds=HOUR + 1)
    with pytest.raises(ProviderAnswerInvalid):
        await there.vouched(stolen)
    stolen = there.fake.keys
    assert (await there.vouched(stolen)).subject == "ann-1"
    there.fake.keys = Keys()
    await clock.advance(seconds=COOLDOWN + 1)
    assert (await there.vouched()).subject == "ann-1"
    with pytest.raises(ProviderAnswerInvalid):
        await there.vouched(stolen)


@pytest.mark.standard("SO-25")
async def test_a_fetch_that_failed_is_made_up_for_after_the_cooldown(there: Elsewhere, clock: TestClock) -> None:
    stolen = there.fake.keys
    await there.vouched(stolen)
    there.fake.keys = Keys()
    there.fake.discovery_fault = "jwks_down"
    await clock.advance(seconds=HOUR + 1)
    assert (await there.vouched(stolen)).subject == "ann-1"  # nobody knows better at this moment
    there.fake.discovery_fault = ""
    await clock.advance(seconds=COOLDOWN + 1)
    with pytest.raises(ProviderAnswerInvalid):
        await there.vouched(stolen)


@pytest.mark.standard("SO-20", "SO-25")
async def test_a_key_set_is_not_fetched_from_where_a_redirect_leads(there: Elsewhere) -> None:
    location = f"{there.fake.url}/openid/userinfo"
    there.way.answer(KEY_SET, there.fake.keys.jwks, 302, location=location)
    with pytest.raises(ProviderUnavailable):
        await there.vouched()
    assert there.fetches("/openid/userinfo") == 0


@pytest.mark.standard("SO-11")
async def test_an_algorithm_that_the_provider_does_not_announce_is_refused(there: Elsewhere) -> None:
    there.document(id_token_signing_alg_values_supported=["RS256", "none", "HS256"])
    with pytest.raises(ProviderAnswerInvalid, match="algorithm"):
        await there.vouched()
