"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cnap_runner.testing.packet_filter import remove_dead_rules


def pytest_configure() -> None:
    """Hear Ctrl-C: whoever starts the tests in the background lets them inherit that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything runs on asyncio: SQLAlchemy's async engine needs it."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _no_rules_left() -> Iterator[None]:
    """Installs that tests remove by hand leave no rules in the host's packet filter."""
    yield
    remove_dead_rules()


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    """The real OpenCode server, of the pinned version, fetched and verified once."""
    from cnap_runner.image.packages import opencode_binary

    return opencode_binary()


@dataclass(frozen=True)
class Authority:
    """A company's own certificate authority, and a server that it certified."""

    ca_file: Path
    """The authority's certificate, as PEM."""
    chain: Path
    """The certificate and key of a server named `name`, which is what a container calls its host."""
    name: str = "host.docker.internal"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts unless it is told to."""
    folder = tmp_path_factory.mktemp("authority")
    made = Authority(ca_file=folder / "ca.pem", chain=folder / "server.pem")
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _certificate("A company of the tests", ca_key, issuer="A company of the tests", issuer_key=ca_key, names=None)
    server = _certificate(made.name, server_key, issuer="A company of the tests", issuer_key=ca_key, names=[made.name])
    pem = serialization.Encoding.PEM
    made.ca_file.write_bytes(ca.public_bytes(pem))
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.chain.write_bytes(server.public_bytes(pem) + key)
    return made


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    names: list[str] | None,
) -> x509.Certificate:
    """Certify a server of these names, or, without any, an authority."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())
