"""Takeover by e-mail: an address at a provider opens nobody's account, whoever vouches for it and however."""

from collections.abc import Iterator
from itertools import product

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.attacks.social import (
    Wiretap,
    accounts_with,
    assert_signs_nobody_in,
    assert_untouched,
    identities_of,
)
from tests.conftest import browser, somebody
from tests.deeds import (
    id_of,
    with_account,
)
from tests.social.acting import (
    PROVIDERS,
    Stranger,
    error_of,
    known_as,
    me,
    signed_in,
    through,
)

VOUCHED = {
    "true": {"openid": "", "discord": "", "github": ""},
    "false": dict.fromkeys(PROVIDERS, "provider_email_unverified"),
    "absent": {
        "openid": "provider_email_unverified",
        "discord": "provider_email_unverified",
        "github": "provider_unavailable",
    },
    **{
        odd: {
            "openid": "provider_email_unverified",
            "discord": "provider_unavailable",
            "github": "provider_unavailable",
        }
        for odd in ("text:true", "text:True", "text:1", "text:yes", "text:", "number:1", "number:0")
    },
}
"""What a provider says of an address, and what becomes of it; what its API never says, is no profile of it."""

SPOILT = {
    "a space of no width": "\u200b{victim}",
    "a soft hyphen": "{0}\u00ad@{1}",
    "a mark that turns the writing": "\u202e{victim}",
    "a line separator": "{0}\u2028@{1}",
    "a line end": "{0}\r\n@{1}",
    "a line end behind": "{victim}\n",
    "a tab": "{0}\t@{1}",
    "a control character": "{0}\x7f@{1}",
    "a zero byte": "{0}\x00@{1}",
    "a space": "{0} @{1}",
    "a space behind": "{victim} ",
    "a dot behind": "{victim}.",
    "a longer domain": "{victim}" + "\u200b" * 240 + ".evil.example",
    "a name": "Somebody <{victim}>",
    "quotes": '"{0}"@{1}',
    "two addresses": "{victim},a@evil.example",
    "two domains": "{victim}@evil.example",
    "a comment": "{0}(@evil.example)@{1}",
}


@pytest.mark.standard("SO-21", "SO-22")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_word_of_a_provider_opens_the_account_that_has_the_address(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    victim = await with_account(services, roles=("admin",))
    for said, outcomes in VOUCHED.items():
        attacker = known_as(victim)
        async with browser(app) as http:
            answer = await through(http, abroad, provider, attacker, email_verified=said)
            assert error_of(answer) == (outcomes[provider] or "account_link_required"), said
            assert_signs_nobody_in(answer)
        assert await identities_of(services, attacker) == []
    await assert_untouched(app, services, victim, attacker)
    assert len(await accounts_with(services, victim.email)) == 1


@pytest.mark.standard("SO-22")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_address_makes_an_account_when_the_provider_says_true_and_never_else(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    for said, outcomes in VOUCHED.items():
        who = Stranger()
        async with browser(app) as http:
            answer = await through(http, abroad, provider, who, email_verified=said)
            assert error_of(answer) == outcomes[provider], said
        assert len(await accounts_with(services, who.email)) == (0 if outcomes[provider] else 1), said
        assert len(await identities_of(services, who)) == (0 if outcomes[provider] else 1), said


@pytest.mark.standard("SO-21", "SO-22")
async def test_who_is_not_vouched_for_does_not_learn_whether_an_address_has_an_account(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    victim = await with_account(services)
    for provider, address in product(PROVIDERS, (victim.email, somebody().email)):
        async with browser(app) as http:
            answer = await through(http, abroad, provider, Stranger(email=address), email_verified="false")
            assert error_of(answer) == "provider_email_unverified"


@pytest.mark.standard("SO-21")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_address_of_an_account_is_known_in_every_spelling(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    plain, foreign = somebody(), somebody()
    name = foreign.email.partition("@")[0]
    foreign.email = f"{name}@bücher-{name}.example"
    ascii_domain = foreign.email.partition("@")[2].encode("idna").decode()
    spellings = (
        (plain, (plain.email, plain.email.upper(), plain.email.title(), plain.email.replace("@e", "@E"))),
        (
            foreign,
            (
                foreign.email,
                f"{name.upper()}@BÜCHER-{name}.example",
                f"{name}@bu\u0308cher-{name}.example",
                f"{name}@{ascii_domain}",
                f"{name}@{ascii_domain.upper()}",
            ),
        ),
    )
    for victim, forms in spellings:
        await services.administration.create(victim.email, victim.nickname, victim.password, ())
        for address in forms:
            who = Stranger(email=address)
            async with browser(app) as http:
                answer = await through(http, abroad, provider, who)
                assert error_of(answer) == "account_link_required", address
                assert_signs_nobody_in(answer)
            assert await identities_of(services, who) == []


@pytest.mark.standard("SO-21", "SO-06")
async def test_another_address_is_another_person(app: Litestar, services: Services, abroad: httpx.AsyncClient) -> None:
    victim = await with_account(services)
    name, _, domain = victim.email.partition("@")
    for address in (f"{name}+tag@{domain}", f"{name[0]}.{name[1:]}@{domain}", f"{name}@mail.{domain}"):
        who = Stranger(email=address)
        async with browser(app) as http:
            account = await me(http, await signed_in(http, await through(http, abroad, "openid", who)))
            assert account["email"] == address
            assert account["id"] != str(await id_of(services, victim))
    await assert_untouched(app, services, victim, known_as(victim))


@pytest.mark.standard("SO-21", "SO-22")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_address_is_not_mended_into_one_that_nobody_vouched_for(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    """What a provider verified is these characters: without some of them it is somebody else's address."""
    refusals = {"provider_email_missing", "provider_unavailable", "provider_answer_invalid"}
    mended = []
    for how, spoil in SPOILT.items():
        victim = somebody().email
        who = Stranger(email=spoil.format(*victim.split("@"), victim=victim))
        async with browser(app) as http:
            answer = await through(http, abroad, provider, who)
        if await accounts_with(services, victim) or error_of(answer) not in refusals:
            mended.append(how)
    assert mended == []


@pytest.fixture
def loose_userinfo(line_abroad: Wiretap) -> Iterator[None]:
    """Userinfo names an address and does not say whether it is verified."""

    def without_word(request: httpx.Request, content: bytes) -> bytes:
        if request.url.path != "/openid/userinfo":
            return content
        told = msgspec.json.decode(content)
        del told["email_verified"]
        return msgspec.json.encode(told)

    line_abroad.change = without_word
    yield
    line_abroad.change = None


@pytest.mark.standard("SO-22")
@pytest.mark.usefixtures("loose_userinfo")
async def test_verified_is_said_of_the_address_beside_it(
    tapped: Litestar, services: Services, abroad: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ID token that holds the word without an address says nothing of the address in another document."""
    monkeypatch.setattr("service.fake_provider.claims._flaw", lambda grant, now: {"email": None})
    who = Stranger()
    async with browser(tapped) as http:
        answer = await through(http, abroad, "openid", who)
    assert error_of(answer) == "provider_email_unverified"
    assert await accounts_with(services, who.email) == []
