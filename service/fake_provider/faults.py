"""What can go wrong at a provider, each with a sentence for people."""

from dataclasses import dataclass

OPENID = ("openid",)
DISCORD = ("discord",)
WITH_ISSUER = ("openid", "github")
WITH_REFRESH = ("openid", "discord")
EVERYWHERE = ("openid", "discord", "github")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong in one sign-in, at those providers where it can."""

    name: str
    sentence: str
    sites: tuple[str, ...] = EVERYWHERE


@dataclass(frozen=True, slots=True)
class Group:
    """Faults of one step."""

    title: str
    faults: tuple[Fault, ...]


GROUPS = (
    Group(
        "On the way back",
        (
            Fault("cancelled", "The person says no, and the description of the error holds a script."),
            Fault("server_error", "The provider fails and says so: error=server_error."),
            Fault("wrong_state", "The state is another one than was sent."),
            Fault("no_state", "The state is missing."),
            Fault("wrong_iss", "The answer names another issuer."),
            Fault("no_iss", "The answer names no issuer.", WITH_ISSUER),
        ),
    ),
    Group(
        "At the token endpoint",
        (
            Fault("token_refused", "The code is refused: invalid_grant."),
            Fault("token_500", "It answers with status 500."),
            Fault("token_slow", "It answers well, but only after a long time."),
            Fault("token_rubbish", "It answers 200 with a web page."),
            Fault("token_list", "It answers 200 with a list."),
            Fault("token_without_token", "It answers 200 with an empty object."),
            Fault("token_huge", "It answers well, in more than 4 MB."),
            Fault("token_redirect", "It sends the client elsewhere, where the right answer is."),
            Fault("token_gzip_bomb", "It answers well, packed, and unfolds to 50 MB."),
        ),
    ),
    Group(
        "In the ID token",
        (
            Fault("wrong_nonce", "The nonce is another one than was sent.", OPENID),
            Fault("no_nonce", "The nonce is missing.", OPENID),
            Fault("wrong_audience", "It is meant for another client.", OPENID),
            Fault("extra_audience", "It is meant for this client and another one.", OPENID),
            Fault("wrong_issuer", "Another issuer made it.", OPENID),
            Fault("expired", "It ended an hour ago.", OPENID),
            Fault("issued_in_future", "It was issued an hour from now.", OPENID),
            Fault("bad_signature", "It is signed with another key than its key id says.", OPENID),
            Fault("unsigned", "It is not signed: alg is none.", OPENID),
            Fault("hs256_with_public_key", "It is signed with the public key as a shared secret: HS256.", OPENID),
            Fault("unknown_key", "It is signed with a key that is not in the key set.", OPENID),
            Fault("wrong_at_hash", "It belongs to another access token.", OPENID),
            Fault("no_id_token", "There is none.", OPENID),
            Fault("no_subject", "It does not say who it is about; at Discord and GitHub, the profile does not."),
        ),
    ),
    Group(
        "In the profile",
        (
            Fault("profile_500", "It answers with status 500."),
            Fault("profile_slow", "It answers well, but only after a long time."),
            Fault("profile_rubbish", "It answers 200 with a web page."),
            Fault("profile_redirect", "It sends the client elsewhere, where the right answer is."),
            Fault("profile_other_subject", "It is about somebody else."),
            Fault("profile_only", "The e-mail address stands here alone, not in the ID token.", OPENID),
            Fault("profile_unauthorized", "It answers 401, although the token is good."),
        ),
    ),
    Group(
        "Later",
        (
            Fault("guilds_500", "The list of guilds answers with status 500.", DISCORD),
            Fault("guilds_unauthorized", "The list of guilds answers 401, although the token is good.", DISCORD),
            Fault("guilds_limited", "The list of guilds answers 429: try again in 7 seconds.", DISCORD),
            Fault("refresh_refused", "The refresh token is refused: invalid_grant.", WITH_REFRESH),
            Fault("refresh_500", "Refreshing answers with status 500.", WITH_REFRESH),
        ),
    ),
)
FAULTS = {fault.name for group in GROUPS for fault in group.faults}

DISCOVERY_FAULTS = {
    "wrong_issuer": "The issuer has a slash at its end.",
    "other_issuer": "The issuer is somebody else.",
    "down": "The document answers with status 500.",
    "rubbish": "The document is a web page.",
    "slow": "The document takes a long time.",
    "jwks_down": "The key set answers with status 500.",
    "jwks_rubbish": "The key set is a web page.",
    "internal_endpoints": "Token endpoint and key set are said to be in the network of the client's machine.",
    "http_redirect": "The document is elsewhere.",
    "no_iss_support": "Answers are said to name no issuer.",
}
"""What can be wrong with the discovery document of the OpenID provider or its key set, for everybody."""


def groups_at(site: str) -> list[Group]:
    """The groups with what can go wrong at one provider."""
    groups = [Group(group.title, tuple(f for f in group.faults if site in f.sites)) for group in GROUPS]
    return [group for group in groups if group.faults]
