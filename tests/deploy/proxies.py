"""The examples of `deploy/reverse-proxy`, run: a real proxy between a real Vestibule and an application that notes."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.clock import utc_now
from service.server import options
from service.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "deploy" / "reverse-proxy"
CERTIFICATE, KEY = "/etc/ssl/example.com.pem", "/etc/ssl/private/example.com.key"
"""Where the examples look for them."""
VESTIBULE, APPLICATION = "127.0.0.1:8000", "127.0.0.1:9000"
NGINX_MAIN = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
"""In the foreground, as whoever may write to the folders of the tests."""
STARTS = 60
"""Seconds, on a busy machine."""
_kept: list[socket.socket] = []


def free_port(wanted: int = 0) -> int:
    """A port, any unless one is wanted, that the kernel gives to nobody else while the tests run. Servers may bind it,
    since they say SO_REUSEADDR as we do; until one listens, connecting is refused. Raises OSError for one in use."""
    with ExitStack() as tried:
        kept = tried.enter_context(socket.socket())
        kept.bind(("127.0.0.1", wanted))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.pop_all()
    _kept.append(kept)
    port: int = kept.getsockname()[1]
    return port


@dataclass
class Application:
    """Notes what reaches it, and shows each request its headers."""

    reached: int = 0
    status: int = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.reached += 1
        told = json.dumps([[name.decode(), value.decode()] for name, value in scope["headers"]]).encode()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": told})


@dataclass
class Answering:
    """In the place of Vestibule: one answer to everything."""

    status: int = 200
    body: bytes = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass
class Listener:
    """Stands around an application and keeps what it saw: the address of the client, the scheme, the path."""

    app: Any
    saw: list[tuple[str, str, str]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.saw.append((scope["client"][0], scope["scheme"], scope["raw_path"].decode()))
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class Identity:
    """A certificate for every name of the examples, signed by itself."""

    certificate: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def identity(folder: Path) -> Identity:
    """Makes the certificate and its key in the folder."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.com")])
    names = x509.SubjectAlternativeName([x509.DNSName("*.example.com"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    day = timedelta(days=1)
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(utc_now() - day)
        .not_valid_after(utc_now() + day)
        .add_extension(names, critical=False)
        .sign(private, hashes.SHA256())
    )
    made = Identity(folder / "certificate.pem", folder / "key.pem")
    made.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.key.write_bytes(private.private_bytes(*form))
    return made


@contextmanager
def listening(app: Any, settings: Settings, tls: Identity | None = None) -> Iterator[str]:
    """The address of an ASGI application under uvicorn, run as in production."""
    files: dict[str, Any] = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key} if tls else {}
    taken = socket.create_server(("127.0.0.1", 0))
    port: int = taken.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, **options(settings, "127.0.0.1", port), **files))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: running.started)
        yield f"127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(STARTS)
    assert not thread.is_alive()


def example(name: str, folder: Path, elsewhere: Mapping[str, str]) -> Path:
    """An example as it is, with the places of this machine in it. Every one of them must stand in the file."""
    text = (EXAMPLES / name).read_text()
    for place, other in elsewhere.items():
        assert place in text, f"{name} no longer says {place}"
        text = text.replace(place, other)
    written = folder / name
    written.write_text(text)
    return written


@contextmanager
def running(
    command: list[str], port: int, log: Path, environ: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A proxy in the foreground, from when its port answers until it and its workers are gone."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: process.poll() is not None or accepts(port))
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(STARTS)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + STARTS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def client(port: int, host: str, certificate: Identity) -> httpx.AsyncClient:
    """Somebody who asks a proxy on this machine for a name."""
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", headers={"Host": host}, verify=certificate.trust(), timeout=20
    )


def binary(name: str) -> str | None:
    """The path of a server, also where ordinary users do not look for one."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
