"""Leaked passwords are refused, and nothing about a password leaves the host but five digits."""

from hashlib import sha1

import httpx
import pytest

from service.accounts.breaches import BreachedPasswords

URL = "https://range.test/range/"
LEAKED = "correct horse battery staple"
DIGEST = sha1(LEAKED.encode(), usedforsecurity=False).hexdigest().upper()


def answering(status: int, text: str, seen: list[httpx.Request] | None = None) -> BreachedPasswords:
    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, text=text)

    return BreachedPasswords(URL, 1.0, httpx.MockTransport(handle))


@pytest.mark.standard("PW-18")
async def test_a_leaked_password_is_known_and_only_five_digits_left_the_host() -> None:
    seen: list[httpx.Request] = []
    breaches = answering(200, f"{'0' * 35}:3\r\n{DIGEST[5:]}:12\r\n", seen)
    assert await breaches.contain(LEAKED)
    (request,) = seen
    assert str(request.url) == URL + DIGEST[:5]
    assert DIGEST[5:] not in str(request.headers) + request.content.decode()
    assert request.headers["add-padding"] == "true"


@pytest.mark.standard("PW-18")
async def test_padding_and_other_passwords_are_not_leaks() -> None:
    assert not await answering(200, f"{DIGEST[5:]}:0\r\n").contain(LEAKED)
    assert not await answering(200, f"{DIGEST[5:]}:7\r\n").contain("rain over the quiet harbour")


@pytest.mark.standard("PW-18")
@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_a_range_service_that_fails_leaves_the_local_list_in_charge(status: int) -> None:
    assert not await answering(status, f"{DIGEST[5:]}:12").contain(LEAKED)


@pytest.mark.standard("PW-18")
async def test_a_range_service_that_hangs_is_given_up() -> None:
    def hang(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    assert not await BreachedPasswords(URL, 0.1, httpx.MockTransport(hang)).contain(LEAKED)
