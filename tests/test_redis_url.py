"""What the URL of Redis may say, and that what is wrong with it is told without the password."""

import pytest

from service.redis_url import RedisUrl
from service.setting_values import SettingsError
from service.settings import load
from tests.conftest import root_key

SECRET = "q7secretq7"


def test_one_server_is_left_to_redis_py() -> None:
    url = "redis://user:p%40ss@cache.example:6380/3"
    assert RedisUrl.parse(url) == RedisUrl("single", url)
    assert RedisUrl.parse("rediss://cache.example").is_encrypted
    assert RedisUrl.parse("unix:///run/valkey.sock?db=2").kind == "single"
    assert RedisUrl.parse("REDIS://cache.example").kind == "single"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("redis+cluster://a:7000", (("a", 7000),)),
        ("redis+cluster://a,b:7001,c", (("a", 6379), ("b", 7001), ("c", 6379))),
        ("redis+cluster://a:7000/", (("a", 7000),)),
        ("redis+cluster://a:7000/0", (("a", 7000),)),
        ("redis+cluster://[::1]:7000,[2001:db8::1]", (("::1", 7000), ("2001:db8::1", 6379))),
    ],
)
def test_a_cluster_is_its_first_nodes(text: str, hosts: tuple[tuple[str, int], ...]) -> None:
    found = RedisUrl.parse(text)
    assert (found.kind, found.hosts, found.database, found.is_encrypted) == ("cluster", hosts, 0, False)
    assert (found.username, found.password) == (None, None)


def test_sentinels_name_a_primary() -> None:
    found = RedisUrl.parse("rediss+sentinel://a,b:5000/main/4?sentinel_username=watch&sentinel_password=p%2Fw")
    assert (found.kind, found.is_encrypted) == ("sentinel", True)
    assert found.hosts == (("a", 26379), ("b", 5000))
    assert (found.primary, found.database) == ("main", 4)
    assert (found.sentinel_username, found.sentinel_password) == ("watch", "p/w")
    assert RedisUrl.parse("redis+sentinel://a/main").database == 0
    assert RedisUrl.parse("redis+sentinel://a/my%20main").primary == "my main"


@pytest.mark.parametrize(
    ("credentials", "username", "password"),
    [
        ("user:pass", "user", "pass"),
        (":pass", None, "pass"),
        ("user:", "user", None),
        ("us%3Aer:p%40%2F%3A%2Css", "us:er", "p@/:,ss"),
        ("user:p:a:ss", "user", "p:a:ss"),
        ("user:p%2525", "user", "p%25"),
        ("%C3%A9:%E2%82%AC", "é", "€"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis+cluster://{}@a:1,b:2", "redis+sentinel://{}@a:1,b:2/main"])
def test_passwords_are_decoded_once(scheme: str, credentials: str, username: str | None, password: str | None) -> None:
    found = RedisUrl.parse(scheme.format(credentials))
    assert (found.username, found.password) == (username, password)
    assert found.hosts == (("a", 1), ("b", 2))


JUNK = (
    "",
    "cache.example",
    f"http://:{SECRET}@cache.example",
    f"redis+other://:{SECRET}@cache.example",
    f"redis://:{SECRET}@cache.example:port",
    f"redis://:{SECRET}@cache.example:99999",
    f"redis+cluster://:{SECRET}@",
    f"redis+cluster://:{SECRET}@a,",
    f"redis+cluster://:{SECRET}@a:port",
    f"redis+cluster://:{SECRET}@a:99999",
    f"redis+cluster://:{SECRET}@a/1",
    f"redis+sentinel://:{SECRET}@a",
    f"redis+sentinel://:{SECRET}@a/",
    f"redis+sentinel://:{SECRET}@a/main/x",
    f"redis+sentinel://:{SECRET}@,/main",
    f"redis+sentinel://:{SECRET}@[::1/main",
)


@pytest.mark.parametrize("text", JUNK)
def test_junk_leads_nowhere(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  of whatever kind
        RedisUrl.parse(text)


@pytest.mark.parametrize("text", JUNK)
def test_what_is_wrong_is_told_without_the_password(text: str) -> None:
    environ = {
        "DATABASE_URL": "postgresql://127.0.0.1/x",
        "REDIS_URL": text,
        "VESTIBULE_KEYS": root_key(),
        "VESTIBULE_ISSUER": "https://auth.test",
    }
    with pytest.raises(SettingsError) as refusal:
        load(environ)
    cause: BaseException | None = refusal.value
    assert "REDIS_URL" in str(cause)
    while cause is not None:
        assert SECRET not in str(cause)
        cause = None if cause.__suppress_context__ else cause.__cause__ or cause.__context__


def test_an_address_of_any_kind_is_taken_by_the_settings() -> None:
    for text in ("redis://a", "unix:///run/x", f"redis+cluster://:{SECRET}@a,b", f"rediss+sentinel://:{SECRET}@a/m"):
        environ = {
            "DATABASE_URL": "postgresql://127.0.0.1/x",
            "REDIS_URL": text,
            "VESTIBULE_KEYS": root_key(),
            "VESTIBULE_ISSUER": "https://auth.test",
        }
        found = load(environ)
        assert str(found.redis_url) == text
        assert SECRET not in repr(found)
