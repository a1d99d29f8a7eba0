"""Transport between hwbench and Dask: addresses, TLS from one folder, and the warning about unencrypted connections."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.errors import InputError

logger = logging.getLogger(__name__)

CA, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
_ADDRESS = re.compile(r"(tcp|tls)://(\[[^\]\s]+\]|[^\s:\[\]]+):(\d+)")


@dataclass(frozen=True)
class Address:
    """The parts of a scheduler's address.

    Attributes:
        scheme: ``"tcp"`` or ``"tls"``.
        host: A name or a number, without brackets.
        port: The port.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Raises:
            InputError: The text is not an address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise InputError(
                f"{text!r} is not a scheduler's address; it has the form tcp://HOST:PORT or tls://HOST:PORT"
            )
        return cls(match[1], match[2].strip("[]"), int(match[3]))

    @property
    def is_loopback(self) -> bool:
        """True if the host's name resolves to loopback addresses only."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)

    def local(self) -> str:
        """The address of this machine's interface on the route to the host.

        Raises:
            InputError: There is no route to it.
        """
        try:
            family, kind, protocol, _, remote = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, protocol) as route:
                route.connect(remote)  # UDP: the kernel picks a route, and nothing is sent
                return str(route.getsockname()[0])
        except OSError as error:
            raise InputError(f"the scheduler at {self.host}:{self.port} cannot be reached: {error}") from None


@dataclass(frozen=True)
class TlsFiles:
    """Files of one side of an encrypted connection.

    Attributes:
        ca: The authority that signed both sides' certificates.
        certificate: This machine's.
        key: Its private key.
    """

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> TlsFiles:
        """The files in a folder.

        Raises:
            InputError: One is missing.
        """
        files = [(folder / name).absolute() for name in (CA, CERTIFICATE, KEY)]
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: missing; TLS needs {CA}, {CERTIFICATE} and {KEY} in one folder")
        return cls(*files)

    def security(self) -> Any:
        """These files as Dask's settings for a client."""
        from distributed.security import Security

        files = {"tls_ca_file": self.ca, "tls_client_cert": self.certificate, "tls_client_key": self.key}
        return Security(require_encryption=True, **{name: str(file) for name, file in files.items()})

    def flags(self) -> list[str]:
        """These files as flags of Dask's programs."""
        return ["--tls-ca-file", str(self.ca), "--tls-cert", str(self.certificate), "--tls-key", str(self.key)]


def check_transport(scheduler: str, tls: str) -> tuple[Address, TlsFiles | None]:
    """Check the address and certificates of a scheduler; log a warning if the connection is open to others.

    Args:
        scheduler: Its address.
        tls: Folder of the certificates; empty for Dask's own configuration.

    Raises:
        InputError: The address or the folder cannot be used, or one contradicts the other.
    """
    address = Address.parse(scheduler)
    if tls and address.scheme != "tls":
        raise InputError(f"certificates in {tls}, but {scheduler} is not encrypted; its address must begin with tls://")
    if address.scheme == "tcp" and not address.is_loopback:
        logger.warning(
            "%s neither encrypts nor authenticates: whoever reaches this port can run code on every worker; "
            "on a shared network, use tls:// and --tls FOLDER (README, Several machines)",
            scheduler,
        )
    return address, TlsFiles.of(Path(tls)) if tls else None
