"""A certificate authority for one test."""

import ssl
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from service.clock import utc_now

HOUR = timedelta(hours=1)


class Authority:
    """Certifies whatever name it is asked for. `root` is the file to trust it by."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _called("an authority for one test")
        self.root = folder / "authority.pem"
        self.root.write_bytes(self._certified(self._name, self._key).public_bytes(Encoding.PEM))

    def serving(self, name: str) -> ssl.SSLContext:
        """What a server of that name needs."""
        key = ec.generate_private_key(ec.SECP256R1())
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = self._folder / "server.pem"
        file.write_bytes(plain + self._certified(_called(name), key, name).public_bytes(Encoding.PEM))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def _certified(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, name: str = "") -> x509.Certificate:
        """For a name; without one it is an authority."""
        now, own = utc_now(), self._key.public_key()
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - HOUR).not_valid_after(now + HOUR)
        for extension in (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(own),
            *([x509.SubjectAlternativeName([x509.DNSName(name)])] if name else []),
        ):
            builder = builder.add_extension(extension, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=not name, path_length=None), critical=True)
        if not name:
            builder = builder.add_extension(_may_certify(), critical=True)
        return builder.sign(self._key, SHA256())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _may_certify() -> x509.KeyUsage:
    """What strict verifiers want an authority to say."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
