"""Where a peer listens: `HOST:PORT` from local configuration, resolved once.

    places = Address.parse("enclave.example:7443").resolve_all(seconds=10)

Probe and pinned channel go to the same numeric address; what DNS says in between, or what a
peer suggests, plays no part.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Self

from ratls.call_thread import CallThread
from ratls.errors import DeadlineExceeded, TransportError
from verifier.errors import ConfigError

_FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})", re.ASCII)


class AddressMalformed(ConfigError):
    """An address is not HOST:PORT."""

    code = "address-malformed"
    default_fix = "write HOST:PORT, for example 127.0.0.1:7443 or [::1]:7443"


class PeerUnreachable(TransportError):
    """No connection to the address could be made."""

    code = "peer-unreachable"
    default_fix = "check that the enclave runs, and that the address is right"
    says = "no connection to {thing}: {found}"


@dataclass(frozen=True, slots=True)
class Address:
    """A host, by name or number, and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT` or `[IPv6]:PORT` (RFC 3986, section 3.2.2); nothing before or after it.

        Raises:
            AddressMalformed: Another form, or no such port.
        """
        match = _FORM.fullmatch(text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise AddressMalformed("address", expected="HOST:PORT", found=ascii(text[:80]))
        return cls(match[1] or match[2], int(match[3]))

    def resolve_all(self, seconds: float) -> tuple[Address, ...]:
        """The same place by number: each address that the name has, in the system's order.

        Args:
            seconds: For the look-up. The system's resolver has limits of its own, and handles
                no signal until then.

        Raises:
            PeerUnreachable: The name has no address.
            DeadlineExceeded: Nothing was found out in time.
        """
        if self.is_numeric:
            return (self,)
        with CallThread() as thread:
            try:
                found = thread.run(
                    lambda: socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM),
                    seconds,
                )
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"the look-up of {self.host}", expected="an answer in time", found="none"
                ) from error
            except (OSError, UnicodeError) as error:
                raise PeerUnreachable(
                    str(self), expected="a known host", found="no such host"
                ) from error
        return tuple(dict.fromkeys(Address(str(one[4][0]), self.port) for one in found))

    @property
    def is_numeric(self) -> bool:
        """Whether the host is an IP address, so that nothing has to be looked up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
