"""The service behind a real uvicorn on a loopback port, with a database and an issuer of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from service.app import create_app
from service.server import options
from service.settings import Settings, load
from service.wiring import Services
from tests.conftest import Outbox, TestClock, root_key, worker

STARTS = 60


@dataclass(frozen=True)
class Running:
    """A service that answers at its issuer's address."""

    services: Services
    metadata: dict[str, Any]

    @property
    def issuer(self) -> str:
        return self.services.settings.issuer

    def at(self, endpoint: str) -> str:
        """The address of an endpoint, from the metadata alone."""
        address: str = self.metadata[endpoint]
        return address


class Quiet(uvicorn.Server):
    """A server within the process of the tests, whose signals are not its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(
    environ: dict[str, str], database_url: str, clock: TestClock, outbox: Outbox, **changed: str
) -> AsyncIterator[Running]:
    """The service on a port and over a database of its own: keys and APIs of other tests stay as they are."""
    # The protocol is named so that asyncio sends small packets at once, as uvloop does: 40 ms an answer otherwise.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    own = {
        "DATABASE_URL": database_url,
        "VESTIBULE_KEYS": root_key(),
        "VESTIBULE_ISSUER": f"http://127.0.0.1:{listening.getsockname()[1]}",
    }
    settings = load({**environ, **own, **changed})
    async with worker(settings, clock, outbox) as services:
        await services.signing_keys.ensure()
        await services.client_administration.ensure_front_end()
        async with _listening(services, settings, listening), httpx.AsyncClient(base_url=settings.issuer) as http:
            answer = await http.get("/.well-known/oauth-authorization-server")
            assert answer.status_code == 200, answer.text
            yield Running(services, answer.json())


@asynccontextmanager
async def _listening(services: Services, settings: Settings, taken: socket.socket) -> AsyncIterator[None]:
    # The worker runs already: the lifespan of the application would start it once more.
    config = uvicorn.Config(create_app(services), **options(settings, *taken.getsockname()), lifespan="off")
    server = Quiet(config)
    serving = asyncio.create_task(server.serve(sockets=[taken]))
    try:
        async with asyncio.timeout(STARTS):
            while not server.started:  # noqa: ASYNC110  uvicorn tells nobody
                await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await serving


@dataclass(frozen=True)
class KeyPair:
    """A client's own key: what it registers, and what it signs with."""

    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @classmethod
    def new(cls, kind: str = "EC") -> "KeyPair":
        """For ES256, or with the kind `RSA` for PS256."""
        return cls(rsa.generate_private_key(65537, 3072) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwks(self) -> dict[str, Any]:
        """The JWK Set to register."""
        return {"keys": [_jwk(self.private.public_key())]}

    @property
    def secret(self) -> dict[str, Any]:
        """The whole key as a JWK, for whoever signs."""
        return _jwk(self.private)

    @property
    def pem(self) -> str:
        """The same as PKCS #8."""
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.private.private_bytes(*form).decode()


def _jwk(key: Any) -> dict[str, Any]:
    of = RSAAlgorithm if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey) else ECAlgorithm
    made = {name: value for name, value in of.to_jwk(key, as_dict=True).items() if name != "key_ops"}
    return {**made, "kid": "1"}
