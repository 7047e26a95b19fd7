"""Settings of sign-in providers: what is wrong stops the start with one line that names the variable and no secret."""

from pathlib import Path

import pytest

from service.clock import utc_now
from service.provider_settings import ProviderSettings
from service.providers.calls import is_allowed
from service.providers.directory import Providers
from service.setting_values import Secret, SettingsError
from service.settings import Settings, load
from service.wiring import build
from tests.test_settings import given

CANARY = "canary-of-a-provider"
PREFIX = "VESTIBULE_PROVIDER_"
ACME = {
    f"{PREFIX}ACME_CLIENT_ID": "vestibule-at-acme",
    f"{PREFIX}ACME_CLIENT_SECRET": CANARY,
    f"{PREFIX}ACME_ISSUER": "https://id.acme.example",
}


def of(name: str, **fields: str | None) -> dict[str, str | None]:
    """The variables of a provider; each has an id and a secret unless they are taken away."""
    usual = {"CLIENT_ID": "vestibule", "CLIENT_SECRET": CANARY}
    return {f"{PREFIX}{name}_{field}": value for field, value in {**usual, **fields}.items()}


def acme(**fields: str | None) -> dict[str, str]:
    """A whole environment with one OpenID provider, changed as said."""
    return given(**{**ACME, **{f"{PREFIX}ACME_{field}": value for field, value in fields.items()}})


def refusal(environ: dict[str, str]) -> str:
    """The one line with which these settings stop the start."""
    with pytest.raises(SettingsError) as error:
        load(environ)
    told = str(error.value)
    assert told
    assert told.isprintable(), told
    assert CANARY not in told
    return told


def one(environ: dict[str, str]) -> ProviderSettings:
    """The only provider of an environment."""
    (found,) = load(environ).providers.values()
    return found


def test_without_variables_there_are_no_providers() -> None:
    assert load(given()).providers == {}


def test_an_openid_provider_needs_an_id_a_secret_and_an_issuer() -> None:
    found = one(acme())
    assert (found.kind, found.name, found.issuer) == ("openid", "acme", "https://id.acme.example")
    assert (found.scopes, found.response_mode, found.private_network) == (
        ("openid", "email", "profile"),
        "query",
        False,
    )
    assert found.client_secret == CANARY


def test_everything_of_a_provider_can_be_said() -> None:
    found = one(
        acme(
            NAME="Acme & Söhne",
            SCOPES="openid,email groups",
            RESPONSE_MODE="form_post",
            PRIVATE_NETWORK="true",
            ISSUER="http://127.0.0.1:9000/realms/acme",
        )
    )
    assert (found.name, found.scopes) == ("Acme & Söhne", ("openid", "email", "groups"))
    assert (found.response_mode, found.private_network) == ("form_post", True)


@pytest.mark.standard("PW-23")
@pytest.mark.parametrize("field", ["CLIENT_ID", "CLIENT_SECRET", "ISSUER"])
@pytest.mark.parametrize("value", [None, ""])
def test_what_is_missing_or_empty_is_named(field: str, value: str | None) -> None:
    assert f"{PREFIX}ACME_{field}" in refusal(acme(**{field: value}))


@pytest.mark.parametrize("kind", ["DISCORD", "GITHUB"])
@pytest.mark.parametrize("field", ["CLIENT_ID", "CLIENT_SECRET", "URL"])
def test_what_is_empty_of_a_known_provider_is_named(kind: str, field: str) -> None:
    assert f"{PREFIX}{kind}_{field}" in refusal(given(**of(kind, **{field: ""})))


@pytest.mark.parametrize("field", ["FOO", "CLIENT", "CLIENTID", "SCOPE", "SECRET", "KEY", "TIMEOUT"])
def test_a_field_that_does_not_exist_is_named(field: str) -> None:
    assert f"{PREFIX}ACME_{field}" in refusal(acme(**{field: "1"}))


@pytest.mark.parametrize("variable", [f"{PREFIX}ACME", f"{PREFIX}CLIENT_ID", "VESTIBULE_PROVIDERS"])
def test_a_variable_that_is_cut_short_is_named(variable: str) -> None:
    assert variable in refusal(given(**{**ACME, variable: "x"}))


NOT_URLS = [
    "http://id.acme.example",
    "http://localhost:9000",
    "id.acme.example",
    "//id.acme.example",
    "https://",
    "https:///path",
    "ftp://id.acme.example",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://id.acme.example?x=1",
    "https://id.acme.example#x",
    "https://me:word@id.acme.example",
    "https://me@id.acme.example",
    "https://id.acme.example:0",
    "https://id.acme.example:99999",
    "https://[::1",
]
UNREADABLE = [
    " https://id.acme.example",
    "https://id.acme.example\n",
    "https://id.acme.example\r\nX: 1",
    "https://id.acme.example/\x00",
    "https://id.\tacme.example",
    "https://id acme.example",
    "https://id.acme.example?",
    "https://id.acme.example#",
]
"""What `urlsplit` mends silently, while an issuer is compared and called byte for byte."""


@pytest.mark.standard("SO-07", "SO-19")
@pytest.mark.parametrize("url", NOT_URLS + UNREADABLE)
def test_a_provider_is_at_an_https_url(url: str) -> None:
    assert f"{PREFIX}ACME_ISSUER" in refusal(acme(ISSUER=url))
    for kind in ("DISCORD", "GITHUB"):
        assert f"{PREFIX}{kind}_URL" in refusal(given(**of(kind, URL=url)))
    assert f"{PREFIX}GITHUB_API_URL" in refusal(given(**of("GITHUB", API_URL=url)))


@pytest.mark.standard("SO-03", "SO-14")
@pytest.mark.parametrize("kind", ["DISCORD", "GITHUB"])
def test_a_slash_behind_a_site_changes_nothing_or_is_refused(kind: str) -> None:
    """GitHub names itself in its answers, by an issuer that has no empty segment."""
    plain = issuers_if_any(given(**of(kind, URL="https://forge.example")))
    assert len(plain) == 1
    assert issuers_if_any(given(**of(kind, URL="https://forge.example/"))) in (plain, [])


def issuers_if_any(environ: dict[str, str]) -> list[str]:
    """The same of an environment; none where it is refused."""
    try:
        return issuers(load(environ))
    except SettingsError:
        return []


def issuers(settings: Settings) -> list[str]:
    """Whose people the providers of these settings are."""
    return Providers.of(settings, utc_now).issuers()


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize(
    ("host", "address"), [("localhost:9000", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("[::1]:9000", "::1")]
)
def test_http_is_for_private_providers_on_this_machine(host: str, address: str) -> None:
    assert is_allowed(address, is_private=True)
    assert not is_allowed(address, is_private=False)
    assert one(acme(ISSUER=f"http://{host}", PRIVATE_NETWORK="true")).issuer == f"http://{host}"
    assert "PRIVATE_NETWORK" in refusal(acme(ISSUER=f"http://{host}"))
    for elsewhere in ("http://10.0.0.1", "http://127.0.0.2", "http://id.acme.example", f"http://{host}.example"):
        assert f"{PREFIX}ACME_ISSUER" in refusal(acme(ISSUER=elsewhere, PRIVATE_NETWORK="true"))


@pytest.mark.standard("SO-07")
@pytest.mark.parametrize(
    "issuer", ["https://id.acme.example", "https://id.acme.example/realms/a", "https://a.example/"]
)
def test_the_address_of_the_discovery_document_means_its_issuer(issuer: str) -> None:
    assert one(acme(ISSUER=issuer)).issuer == issuer
    address = issuer.rstrip("/") + "/.well-known/openid-configuration"
    assert one(acme(ISSUER=address)).issuer == issuer.rstrip("/")


@pytest.mark.parametrize(
    ("word", "means"), [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False)]
)
def test_a_private_network_is_said_by_a_word(word: str, means: bool) -> None:
    assert one(acme(PRIVATE_NETWORK=word)).private_network is means


@pytest.mark.parametrize("word", ["", "yes", "on", "2", " true", "truely", "None"])
def test_no_other_word_opens_the_private_network(word: str) -> None:
    assert f"{PREFIX}ACME_PRIVATE_NETWORK" in refusal(acme(PRIVATE_NETWORK=word))


@pytest.mark.parametrize("name", ["x" * 41, "a\nb", "\u202eevil", "\x00", " ", "\t"])
def test_a_name_that_nobody_can_read_is_refused(name: str) -> None:
    assert f"{PREFIX}ACME_NAME" in refusal(acme(NAME=name))


def test_a_provider_without_a_name_is_called_by_its_id() -> None:
    assert one(acme(NAME="")).name == "acme"
    assert one(acme(NAME="x" * 40)).name == "x" * 40


@pytest.mark.parametrize("provider", ["", "9LIVES", "MY-IDP", "ACMÉ", "A" * 33])
def test_a_provider_has_a_short_plain_id(provider: str) -> None:
    assert f"{PREFIX}{provider}_" in refusal(given(**of(provider, ISSUER="https://x.example")))


@pytest.mark.standard("SO-04")
def test_scopes_hold_openid_at_least() -> None:
    for scopes in ("email", "email profile", "OPENID", "openid2"):
        assert f"{PREFIX}ACME_SCOPES" in refusal(acme(SCOPES=scopes))
    for scopes in ("openid", "openid,", " openid ", "openid, email"):
        assert "openid" in one(acme(SCOPES=scopes)).scopes
    assert one(acme(SCOPES="")).scopes == ("openid", "email", "profile")


@pytest.mark.parametrize("scopes", ['openid a"b', "openid a\\b", "openid é", "openid a\x01"])
def test_a_scope_that_no_provider_can_read_is_refused(scopes: str) -> None:
    """RFC 6749 section 3.3: visible ASCII without quotation mark and backslash."""
    assert f"{PREFIX}ACME_SCOPES" in refusal(acme(SCOPES=scopes))


@pytest.mark.parametrize("field", ["KIND", "RESPONSE_MODE"])
@pytest.mark.parametrize("word", ["saml", "", "fragment", "OPENID"])
def test_a_word_that_is_none_of_the_choices_is_refused(field: str, word: str) -> None:
    assert f"{PREFIX}ACME_{field}" in refusal(acme(**{field: word}))


FOREIGN_FIELDS = [
    ("ACME", "URL", "https://x.example"),
    ("ACME", "API_URL", "https://x.example"),
    ("GOOGLE", "URL", "https://x.example"),
    ("DISCORD", "ISSUER", "https://x.example"),
    ("DISCORD", "API_URL", "https://x.example"),
    ("DISCORD", "RESPONSE_MODE", "form_post"),
    ("GITHUB", "ISSUER", "https://x.example"),
    ("GITHUB", "RESPONSE_MODE", "form_post"),
]


@pytest.mark.parametrize(("provider", "field", "value"), FOREIGN_FIELDS)
def test_a_field_of_another_kind_is_refused(provider: str, field: str, value: str) -> None:
    variables = {**ACME, f"{PREFIX}ACME_{field}": value} if provider == "ACME" else of(provider, **{field: value})
    assert f"{PREFIX}{provider}_{field}" in refusal(given(**variables))


# One provider by two names


@pytest.mark.standard("SO-10")
def test_two_names_for_one_provider_are_refused() -> None:
    address = "https://id.acme.example/.well-known/openid-configuration"
    pairs: list[dict[str, str | None]] = [
        {**ACME, **of("OTHER", ISSUER="https://id.acme.example")},
        {**ACME, **of("OTHER", ISSUER=address)},
        {**of("GITHUB"), **of("FORGE", KIND="github", URL="https://github.com")},
        {**of("DISCORD"), **of("OTHER", KIND="discord", URL="https://discord.com")},
        {**of("DISCORD"), **of("OTHER", ISSUER="https://discord.com")},
        {**of("GOOGLE"), **of("OTHER", ISSUER="https://accounts.google.com")},
        {**of("GITHUB"), **of("FORGE", ISSUER="https://github.com/login/oauth")},
    ]
    for pair in pairs:
        assert "two providers" in refusal(given(**pair)), pair


@pytest.mark.standard("SO-10")
def test_no_two_providers_have_people_of_one_issuer() -> None:
    all_of_them = {**ACME, **of("DISCORD"), **of("GITHUB"), **of("GOOGLE"), **of("OTHER", ISSUER="https://id.example")}
    found = issuers(load(given(**all_of_them)))
    assert len(set(found)) == 5


# Files


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{CANARY}\n", encoding="utf-8")
    assert one(acme(CLIENT_SECRET=None, CLIENT_SECRET_FILE=str(file))).client_secret == CANARY


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"", b"\n"])
def test_a_file_that_cannot_be_read_or_is_empty_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    told = refusal(acme(CLIENT_SECRET=None, CLIENT_SECRET_FILE=str(file)))
    assert f"{PREFIX}ACME_CLIENT_SECRET" in told


def test_a_secret_that_is_given_twice_is_no_guess(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("another", encoding="utf-8")
    both = acme(CLIENT_SECRET_FILE=str(file))
    for environ in (both, dict(reversed(both.items()))):
        told = refusal(environ)
        assert f"{PREFIX}ACME_CLIENT_SECRET" in told
        assert "twice" in told


# Times of all providers


@pytest.mark.standard("SO-01")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("TRANSACTION_LIFE", value) for value in ("601", "PT11M", "0", "-1", "0.5", "ten", "")),
        *(("TIMEOUT", value) for value in ("0", "-1", "soon", "")),
    ],
)
def test_a_time_that_makes_no_sense_is_named(name: str, value: str) -> None:
    assert f"{PREFIX}{name}" in refusal(acme() | {f"{PREFIX}{name}": value})


@pytest.mark.standard("SO-01")
def test_somebody_may_take_ten_minutes_at_a_provider_and_a_call_five_seconds() -> None:
    settings = load(acme())
    assert settings.provider_transaction_life.total_seconds() == 600
    assert settings.provider_timeout.total_seconds() == 5
    assert load(acme() | {f"{PREFIX}TIMEOUT": "2.5"}).provider_timeout.total_seconds() == 2.5


def test_a_provider_may_be_called_like_a_setting() -> None:
    found = load(given(**of("TIMEOUT", ISSUER="https://x.example"), **{f"{PREFIX}TIMEOUT": "2"}))
    assert list(found.providers) == ["timeout"]
    assert found.provider_timeout.total_seconds() == 2


# Secrets


def test_no_secret_of_a_provider_shows_in_a_representation() -> None:
    settings = load(given(**ACME, **of("DISCORD"), **of("GITHUB")))
    shown = [repr(settings), f"{settings}", repr(settings.providers), repr(build(settings))]
    for provider in settings.providers.values():
        assert type(provider.client_secret) is Secret
        shown += [repr(provider), f"{provider}", repr(list(provider.__rich_repr__())), repr(provider.client_secret)]
    assert not [text for text in shown if CANARY in text]
