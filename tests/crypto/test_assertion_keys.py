"""Public keys that clients register: whatever a JWK Set holds, it is read as a strong key or refused, never a crash."""

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto.assertions import LEAST_RSA_BITS, PRIVATE_MEMBERS, read_keys

PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
"""Of the field of P-256."""


def encoded(number: int, length: int | None = None) -> str:
    raw = number.to_bytes(length or max(1, (number.bit_length() + 7) // 8))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwk(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> dict[str, Any]:
    name = "ES256" if isinstance(private, ec.EllipticCurvePrivateKey) else "PS256"
    found: dict[str, Any] = json.loads(jwt.get_algorithm_by_name(name).to_jwk(private.public_key()))
    return {member: value for member, value in found.items() if member != "key_ops"}


ON_P256 = jwk(ec.generate_private_key(ec.SECP256R1()))
STRONG = jwk(rsa.generate_private_key(65537, LEAST_RSA_BITS))
X, Y = (int.from_bytes(base64.urlsafe_b64decode(ON_P256[name] + "=")) for name in ("x", "y"))
MODULUS = int.from_bytes(base64.urlsafe_b64decode(STRONG["n"] + "=="))


def is_refused(key: object) -> bool:
    try:
        read_keys({"keys": [key]})
    except ValueError:
        return True
    return False


@pytest.mark.standard("KY-28")
def test_a_point_that_is_not_on_the_curve_is_refused() -> None:
    """Only the curve's own points are keys: others would give away secrets, or be anybody's (RFC 8725 section 3.4)."""
    assert not is_refused(ON_P256)
    assert not is_refused({**ON_P256, "y": encoded(PRIME - Y, 32)})  # the other point of that x
    other = ec.derive_private_key(1, ec.SECP256K1()).public_key().public_numbers()
    for x, y in (
        (X, (Y + 1) % PRIME),
        ((X + 1) % PRIME, Y),
        (Y, X),
        (0, 0),
        (1, 1),
        (PRIME, PRIME),
        (2**256 - 1, 2**256 - 1),
        (other.x, other.y),
    ):
        assert is_refused({**ON_P256, "x": encoded(x, 32), "y": encoded(y, 32)}), (x, y)
    assert is_refused({**ON_P256, "x": encoded(X + PRIME, 33)})


@pytest.mark.standard("KY-28", "KY-24")
def test_a_coordinate_of_another_width_is_refused() -> None:
    for width in (31, 33, 64):
        raw = X.to_bytes(32).rjust(width, b"\x00")[-width:]
        assert is_refused({**ON_P256, "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}), width
    for other in ("P-384", "P-521", "secp256k1", "p-256", "", None, 256):
        assert is_refused({**ON_P256, "crv": other}), other


@pytest.mark.standard("KY-07", "KY-28")
def test_a_modulus_that_is_short_and_an_exponent_that_signs_nothing_are_refused() -> None:
    assert not is_refused(STRONG)
    assert is_refused(jwk(rsa.generate_private_key(65537, 2048)))
    assert is_refused({**STRONG, "n": encoded(MODULUS >> 1 | 1)})
    for exponent in (0, 1, 2, 65536, MODULUS):
        assert is_refused({**STRONG, "e": encoded(exponent)}), exponent
    for modulus in (0, 1, 2, 15):
        assert is_refused({**STRONG, "n": encoded(modulus)}), modulus


@pytest.mark.standard("KY-23")
def test_a_key_with_anything_private_in_it_is_refused() -> None:
    for name in PRIVATE_MEMBERS:
        for key in (ON_P256, STRONG):
            assert is_refused({**key, name: "AQAB"}), name
            assert is_refused({**key, name: None}), name


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=50),
    st.text("AQgw_-=+/ \n", max_size=50),
    st.just([]),
    st.just({"kty": "EC"}),
    st.lists(st.text(max_size=3), max_size=2),
)
MEMBERS = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "key_ops", "x5c", "k"])


@pytest.mark.standard("KY-28")
@settings(deadline=None, max_examples=300)
@given(base=st.sampled_from([ON_P256, STRONG, {}]), changed=st.dictionaries(MEMBERS, VALUES, min_size=1, max_size=4))
def test_no_value_of_any_member_is_more_than_refused(base: dict[str, Any], changed: dict[str, Any]) -> None:
    key = {**base, **changed}
    if not is_refused(key):
        (read,) = read_keys({"keys": [key]})
        assert (read.algorithm, type(read.public.public_numbers()).__name__) in {
            ("ES256", "EllipticCurvePublicNumbers"),
            ("PS256", "RSAPublicNumbers"),
        }


@settings(deadline=None)
@given(
    document=st.one_of(
        VALUES, st.fixed_dictionaries({"keys": VALUES}), st.fixed_dictionaries({"keys": st.lists(VALUES)})
    )
)
def test_what_is_no_key_set_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_keys(document)
