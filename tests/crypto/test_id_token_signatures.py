"""Who signed an ID token: the key that the provider publishes for the algorithm, or nobody (RFC 8725 3.1)."""

import hmac
from collections.abc import Callable
from hashlib import sha256, sha512
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.crypto.id_tokens import ALGORITHMS, IdTokenRefused, UnknownKey, read_jwks
from service.crypto.opaque import base64url
from tests.crypto.foreign_tokens import (
    CLAIMS,
    GOOD,
    KEYS,
    RSA,
    SIGNATORIES,
    STRANGER,
    USUAL,
    Signatory,
    believed,
    claims_with,
    expecting,
    header_of,
    objection,
    part,
)


def _keyed(alg: str, secret: bytes, digest: Callable[..., Any]) -> str:
    message = f"{part(header_of(alg=alg))}.{part(CLAIMS)}"
    return f"{message}.{base64url(hmac.new(secret, message.encode(), digest).digest() or b'x')}"


@pytest.mark.standard("SO-11")
@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "", "HS256", "es256", "ES256K", "RSA-OAEP", None, 5, ["ES256"]]
)
@pytest.mark.parametrize("tail", ["", "AA", GOOD.rsplit(".", 1)[1]])
def test_the_token_does_not_choose_how_it_is_verified(alg: Any, tail: str) -> None:
    message = f"{part({**header_of(), 'alg': alg})}.{part(CLAIMS)}"
    names = [*ALGORITHMS, alg] if isinstance(alg, str) else ALGORITHMS
    assert objection(f"{message}.{tail}") != ""
    assert objection(f"{message}.{tail}", expected=expecting(algorithms=names)) != ""


@pytest.mark.standard("SO-11")
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_public_key_is_no_shared_secret(encoding: Encoding) -> None:
    published = USUAL.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    symmetric = {"kty": "oct", "k": base64url(published), "kid": USUAL.kid}
    for alg, digest in (("HS256", sha256), ("HS512", sha512), ("ES256", sha256)):
        token = _keyed(alg, published, digest)
        asked = expecting(algorithms=[*ALGORITHMS, alg])
        assert [objection(token, keys, asked) != "" for keys in (KEYS, [symmetric], [*KEYS, symmetric])] == [True] * 3


@pytest.mark.standard("SO-11")
def test_a_signature_is_that_of_the_key_or_none() -> None:
    message, _, tail = GOOD.rpartition(".")
    header, payload, _ = GOOD.split(".")
    other_claims = part(claims_with(sub="eve-5"))
    raw = USUAL.private.sign(message.encode(), ec.ECDSA(SHA256()))
    zero = base64url(bytes(64))
    for token in (
        STRANGER.sign(header_of(), CLAIMS),
        f"{message}.",
        f"{message}.{zero}",
        f"{message}.{base64url(raw)}",  # DER instead of the two numbers
        f"{header}.{other_claims}.{tail}",
        f"{part(header_of(typ=None))}.{payload}.{tail}",
        f"{message}.{tail[:-2]}",
        f"{message}.{tail}AA",
        f"{message}.{tail}{tail}",
    ):
        assert objection(token) == "signature", token


@pytest.mark.standard("SO-11")
def test_a_key_is_for_the_algorithm_that_it_says_and_of_its_type() -> None:
    rs, ps, es = SIGNATORIES["RS256"], SIGNATORIES["PS256"], USUAL
    assert rs.private is ps.private
    with pytest.raises(UnknownKey):
        believed(ps.sign(header_of(ps, kid=rs.kid), CLAIMS))  # the right pair of numbers, in another role
    for jwk in (
        {**rs.jwk, "kid": es.kid, "alg": "ES256"},
        {name: value for name, value in rs.jwk.items() if name != "alg"} | {"kid": es.kid},
        {**SIGNATORIES["ES384"].jwk, "kid": es.kid, "alg": "ES256"},
    ):
        assert objection(GOOD, [jwk]) == "signature"


@pytest.mark.standard("SO-11")
@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()], ids=["P-384", "secp256k1"])
def test_a_curve_that_is_not_the_algorithms_is_refused(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    message, size = f"{part(header_of())}.{part(CLAIMS)}", (curve.key_size + 7) // 8
    numbers = decode_dss_signature(private.sign(message.encode(), ec.ECDSA(SHA256())))
    signature = b"".join(number.to_bytes(size) for number in numbers)
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": USUAL.kid}
    assert objection(f"{message}.{base64url(signature)}", [jwk]) == "signature"


@pytest.mark.standard("SO-11")
@pytest.mark.parametrize(("bits", "reason"), [(1024, "signature"), (2040, "signature"), (2048, "")])
def test_a_short_rsa_key_proves_nothing(bits: int, reason: str) -> None:
    private = RSA if bits == 2048 else rsa.generate_private_key(65537, bits)
    for alg in ("RS256", "PS256"):
        signatory = Signatory(alg, private, "short")
        assert objection(signatory.sign(header_of(signatory), CLAIMS), [signatory.jwk]) == reason


@pytest.mark.standard("SO-11")
def test_keys_that_are_broken_or_for_something_else_do_not_hide_the_good_one() -> None:
    rubbish: list[Any] = [
        *({"kty": kty} for kty in ("EC", "RSA", "OKP", "oct", "", 5, None, ["EC"])),
        {"kty": "EC", "crv": "P-256", "x": "!!", "y": None},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": ["P-256"], "x": [], "y": {}},
        {"kty": "RSA", "n": 5, "e": []},
        {"kty": "RSA", "n": "", "e": ""},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {**USUAL.jwk, "x": USUAL.jwk["y"]},
        {},
    ]
    named = [{**key, "kid": USUAL.kid} for key in rubbish]
    assert objection(GOOD, [*named, *rubbish, USUAL.jwk]) == ""
    assert objection(GOOD, [*named, *rubbish]) == "signature"
    document = {"keys": [*rubbish, {**STRANGER.jwk, "use": "enc"}, "text", 5, None, [], USUAL.jwk]}
    assert objection(GOOD, read_jwks(document)) == ""


@pytest.mark.standard("SO-11")
def test_a_key_for_encryption_signs_nothing() -> None:
    for use in ("enc", "", None, 5, ["sig"]):
        with pytest.raises(ValueError, match="no key for signatures"):
            read_jwks({"keys": [{**USUAL.jwk, "use": use}]})
        with pytest.raises(UnknownKey):
            believed(GOOD, read_jwks({"keys": [{**USUAL.jwk, "use": use}, {**STRANGER.jwk, "kid": "another"}]}))
    unmarked = {name: value for name, value in USUAL.jwk.items() if name != "use"}
    assert objection(GOOD, read_jwks({"keys": [unmarked]})) == ""


@pytest.mark.parametrize(
    "document",
    [None, [], "keys", 5, {}, {"keys": {}}, {"keys": []}, {"keys": "x"}, {"keys": [USUAL.jwk] * 51}, [USUAL.jwk]],
    ids=range(10),
)
def test_what_is_no_key_set_is_not_read_as_one(document: object) -> None:
    with pytest.raises(ValueError, match="JWK Set"):
        read_jwks(document)


@pytest.mark.standard("SO-25")
def test_other_keys_are_worth_looking_for_only_where_one_may_have_signed() -> None:
    fresh = Signatory("ES256", ec.generate_private_key(ec.SECP256R1()), "a key made this morning")
    with pytest.raises(UnknownKey):
        believed(fresh.sign(header_of(fresh), CLAIMS))
    with pytest.raises(UnknownKey):
        believed(GOOD, [])
    with pytest.raises(IdTokenRefused) as refusal:
        believed(STRANGER.sign(header_of(), CLAIMS))
    assert not isinstance(refusal.value, UnknownKey)


@pytest.mark.standard("SO-25")
def test_a_new_key_is_looked_for_also_where_a_provider_names_none_of_its_keys() -> None:
    anonymous = {name: value for name, value in USUAL.jwk.items() if name != "kid"}
    assert objection(USUAL.sign(header_of(kid=None), CLAIMS), [anonymous]) == ""
    with pytest.raises(UnknownKey):
        believed(STRANGER.sign(header_of(kid=None), CLAIMS), [anonymous])
