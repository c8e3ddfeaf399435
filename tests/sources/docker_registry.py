"""Debian's docker-registry on a free port of loopback, with or without a password and TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

USER, PASSWORD = "ada", "sesame"
START_S = 20.0

# bcrypt, as the registry wants it, of PASSWORD.
_HTPASSWD = f"{USER}:$2b$04$MwwX8Gc6hKXdglBoPZfdbeQbA7eLesgcY1aLoMQ/BM9KjZaADdRWm\n"


@dataclass(frozen=True)
class DockerRegistry:
    host: str
    data: Path


@dataclass(frozen=True)
class Certificate:
    """A server's, signed by an authority of its own."""

    authority: Path
    certificate: Path
    key: Path


@contextmanager
def docker_registry(
    folder: Path, *, with_password: bool = False, tls: Certificate | None = None
) -> Iterator[DockerRegistry]:
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not installed: make setup"
    folder.mkdir()
    host = f"127.0.0.1:{_free_port()}"
    config = _config(folder, host, with_password, tls)
    (folder / "config.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=log, stderr=log
        ) as process,
    ):
        try:
            _wait(host, process)
            yield DockerRegistry(host, folder / "data")
        finally:
            process.terminate()


def make_certificate(folder: Path) -> Certificate:
    """For 127.0.0.1 and localhost."""
    folder.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign("test authority", authority_key, None, authority_key)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign("localhost", key, authority, authority_key)
    made = Certificate(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return made


def _config(
    folder: Path, host: str, with_password: bool, tls: Certificate | None
) -> dict[str, object]:
    http: dict[str, object] = {"addr": host, "secret": "of no use to anyone"}
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": http,
    }
    if with_password:
        (folder / "htpasswd").write_text(_HTPASSWD, encoding="utf-8")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if tls:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    return config


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
        )
    )
    if authority:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), address])
        builder = builder.add_extension(names, False)
    return builder.sign(authority_key, hashes.SHA256())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(host: str, process: subprocess.Popen[bytes]) -> None:
    address, port = host.split(":")
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            assert process.poll() is None, "docker-registry ended"
            assert time.monotonic() < deadline, "docker-registry does not listen"
            time.sleep(0.05)
        else:
            return
