"""The script that counts what happens in a row, and broken ones of which this is noticed."""

import secrets

import pytest
from redis import Redis

from service.store.redis import source
from tests.conftest import Servers
from tests.tokens.session_model import DAY

SLACK = 600_000
PROLONG = "redis.call('PEXPIRE', KEYS[1], ARGV[1])\n"
COUNT = "redis.call('INCR', KEYS[1])"


def row_of_failures(servers: Servers, script: str) -> None:
    """What a row must do; with a broken script one of these does not hold."""
    redis = Redis.from_url(servers.redis_url)
    key, other = (f"vestibule:test:{secrets.token_hex(8)}" for _ in range(2))
    try:
        counted = redis.register_script(script)
        assert [counted([key], [DAY]) for _ in range(3)] == [1, 2, 3]
        assert counted([other], [DAY]) == 1
        # Each failure begins the wait for the end of the row anew.
        redis.pexpire(key, DAY // 2)
        assert counted([key], [DAY]) == 4
        assert DAY - SLACK < redis.pttl(key) <= DAY
        redis.delete(key)
        assert counted([key], [DAY]) == 1
    finally:
        redis.delete(key, other)
        redis.close()


@pytest.mark.standard("CL-10", "SE-35")
def test_failures_in_a_row_are_counted_until_they_are_forgotten(servers: Servers) -> None:
    row_of_failures(servers, source("count"))


@pytest.mark.parametrize(
    ("find", "put"),
    [
        pytest.param(PROLONG, "", id="stays_for_ever"),
        pytest.param(PROLONG, f"if times == 1 then {PROLONG.strip()} end\n", id="is_not_prolonged"),
        pytest.param(PROLONG, PROLONG.replace("PEXPIRE", "EXPIRE"), id="takes_seconds"),
        pytest.param(COUNT, "redis.call('SETNX', KEYS[1], 1)", id="does_not_grow"),
        pytest.param(COUNT, "redis.call('INCRBY', KEYS[1], 2)", id="counts_double"),
        pytest.param("return times", "return times - 1", id="tells_how_many_came_before"),
    ],
)
def test_it_is_noticed_that_a_row_of_failures(servers: Servers, find: str, put: str) -> None:
    script = source("count")
    assert script.count(find) == 1
    with pytest.raises(AssertionError):
        row_of_failures(servers, script.replace(find, put))
