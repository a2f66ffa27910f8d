"""What `import ratls` gives: a quote judged, a connection that proved itself, and the client.

    verified = verify_quote(raw, bundle, report_data=mine)
    verified.quote.report.mr_enclave      # genuine; is it the enclave you want?

Nothing has a default that would let something pass: what a quote is about, whose agreement counts,
which party one is, are said by the caller. A refusal is a `RatlsError` with `code`, `fix`, and the
record of every check.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ratls.errors import BindingError
from verifier.acceptance import accept
from verifier.anchors import TrustAnchors
from verifier.bundles import read_collateral
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.modes import anchors_for, own_entry_points
from verifier.tcb import TcbStatus
from verifier.verify import VerifiedQuote
from verifier.verify import verify_quote as verify_against

if TYPE_CHECKING:
    from policy.document import Policy
    from ratls.identity import EnclaveIdentity
    from ratls.pin import ChannelIdentity
    from ratls.session import Verifier
    from ratls.sockets import AttestedSocket

_GROUP = "ratls.api"
_HOMES = {
    "Address": "ratls.address",
    "AttestedSocket": "ratls.sockets",
    "Exit": "verifier.errors",
    "HttpTransport": "ratls.http",
    "Listener": "ratls.sockets",
}
__all__ = [
    "Collateral",
    "EnclaveEnd",
    "RatlsError",
    "ReportDataDiffers",
    "TrustAnchors",
    "VerifiedQuote",
    "connect",
    "enclave_end",
    "own_end",
    "verify_quote",
]


class ReportDataDiffers(BindingError):
    """The quote is genuine, and was made over other report data than the caller expects."""

    code = "report-data-differs"
    default_fix = "do not use it: the quote was made for something else"


def verify_quote(
    raw: bytes,
    bundle: Collateral | bytes | str | PathLike[str],
    *,
    report_data: bytes | None,
    at: datetime | None = None,
    roots: TrustAnchors | None = None,
    statuses: Collection[str] = ("UpToDate",),
    advisories: Collection[str] | None = None,
) -> VerifiedQuote:
    """Is this quote genuine, up to date, without debug, and about what I expect?

        verified = verify_quote(raw, "collateral.json", report_data=mine)

    Args:
        raw: One SGX or TDX quote, as bytes.
        bundle: Collateral of its platform: a bundle, its bytes, or its file.
        report_data: The 64 bytes that it must be about. None, said aloud: anything.
        at: Moment of judgement, aware; now, if left out.
        roots: Intel's, if left out.
        statuses, advisories: What of the platform to accept, as for `verifier.accept`.

    Raises:
        RatlsError: The leaf of the first check that failed, with the record of all.
        ReportDataDiffers: All passed, and the quote is about something else.
    """
    collateral = bundle if isinstance(bundle, Collateral) else _collateral(bundle)
    known = TrustAnchors.intel() if roots is None else roots
    verified = verify_against(
        raw, collateral, roots=known, at=datetime.now(UTC) if at is None else at
    )
    listed = None if advisories is None else frozenset(advisories)
    accept(verified, statuses=frozenset(TcbStatus(name) for name in statuses), advisories=listed)
    found = verified.quote.report.report_data
    if report_data is not None and not hmac.compare_digest(found, report_data):
        raise ReportDataDiffers(
            "report data of the quote", expected=report_data.hex(), found=found.hex()
        )
    return verified


def _collateral(bundle: bytes | str | PathLike[str]) -> Collateral:
    return Collateral.parse(bundle) if isinstance(bundle, bytes) else read_collateral(Path(bundle))


def connect(
    address: str,
    *,
    policy: str | PathLike[str],
    party: str | PathLike[str],
    collateral: str | PathLike[str],
    passphrase_file: str | PathLike[str] | None = None,
    state: str | PathLike[str] | None = None,
    enclave: str | None = None,
    timeout: float = 10.0,
    allow_simulation: bool = False,
) -> AttestedSocket:
    """A connection to an agreed enclave that has just proved itself, for any protocol.

        with connect("enclave.example:7443", policy="policy.agreement.json", party="alice",
                     collateral="collateral.json") as connection:
            connection.sendall(b"question")

    Args:
        address: HOST:PORT, from local configuration.
        policy, party, collateral, passphrase_file, state, enclave, allow_simulation: As for
            `own_end`.
        timeout: Seconds until the enclave has proved itself.

    Raises:
        TransportError: Nothing listens there, or it is late, or it refuses this party.
        RatlsError: The agreement is not this party's, or the enclave is not the agreed one.
    """
    own, verifier = own_end(
        policy=policy,
        party=party,
        collateral=collateral,
        passphrase_file=passphrase_file,
        state=state,
        enclave=enclave,
        allow_simulation=allow_simulation,
    )
    from ratls.address import Address
    from ratls.sockets import connect as connect_socket

    return connect_socket(Address.parse(address), own, verifier, timeout=timeout)


def own_end(
    *,
    policy: str | PathLike[str],
    party: str | PathLike[str],
    collateral: str | PathLike[str],
    passphrase_file: str | PathLike[str] | None = None,
    state: str | PathLike[str] | None = None,
    enclave: str | None = None,
    allow_simulation: bool = False,
) -> tuple[ChannelIdentity, Verifier]:
    """What a party shows on attested connections, and with what it judges the enclave.

        own, verifier = own_end(policy="policy.agreement.json", party="alice",
                                collateral="collateral.json")

    Args:
        policy: The agreement's file; this party must have signed it.
        party: This party's folder.
        collateral: A bundle. It, the agreement and the state are read again for each proof while a
            connection lasts.
        passphrase_file: Of the party's keys; the terminal is asked, if left out.
        state: This party's state folder, which knows of withdrawals and of distrusted keys; the
            user's own, if left out.
        enclave: One enclave of the agreement, by its name; any of them, if left out.
        allow_simulation: Take a simulated root, where the agreement names one.

    Raises:
        RatlsError: A file cannot be read, or the agreement is not this party's.
    """
    from ratls.environment import prepare_process

    prepare_process()  # before anything loads gRPC, which reads the environment once
    from policy.options import own_party
    from ratls.own_expectation import own_expectation
    from ratls.pin import ChannelIdentity
    from ratls.session import Verifier

    expect = partial(
        own_expectation,
        Path(policy),
        Path(party),
        Path(collateral),
        partial(anchors_for, allow_simulation=allow_simulation),
        state=None if state is None else Path(state),
        enclave=enclave,
    )
    expect()  # refused before anybody is connected to
    passphrase = None if passphrase_file is None else Path(passphrase_file)
    return ChannelIdentity.of(own_party(Path(party), passphrase)), Verifier(expect)


@dataclass(frozen=True, slots=True)
class EnclaveEnd:
    """What an enclave shows on attested connections, and what it obeys. Made by `enclave_end`."""

    identity: EnclaveIdentity
    policy: Callable[[], Policy]
    judge: Verifier | None = field(default=None, repr=False)

    @property
    def verifier(self) -> Verifier:
        """With what it judges other enclaves. Raises: TypeError, where no collateral was named."""
        if self.judge is None:
            raise TypeError("to judge other enclaves: enclave_end(collateral=…)")
        return self.judge


def enclave_end(
    *,
    policy: str | PathLike[str],
    attester: str,
    collateral: str | PathLike[str] | None = None,
    client: bool = False,
    allow_simulation: bool = False,
) -> EnclaveEnd:
    """In a TDX guest: have the hardware prove what it is, to the parties of an agreement.

        mine = enclave_end(policy="policy.agreement.json", attester="tdx")
        with Listener(Address("127.0.0.1", 0), mine.identity, mine.policy) as listener:
            listener.address

    Args:
        policy: The agreement's file, read once: it is obeyed until the process ends.
        attester: `tdx`, `tdx:FILE` with the events of RTMR3, or `simulation:FOLDER`.
        collateral: A bundle of the platforms of other enclaves, which is read at each proof.
        client: This end connects, and does not listen. What proves the one never proves the other.
        allow_simulation: Take a simulated attester, and a simulated root.

    Raises:
        RatlsError: The agreement is not complete or not in force, or no quote could be had.
    """
    from ratls.environment import prepare_process

    prepare_process()
    from policy.agreement_file import read_agreement
    from ratls.appraise import Expectation
    from ratls.attester_option import resolve_attester
    from ratls.claims import ROLE_CLIENT, ROLE_SERVER
    from ratls.identity import EnclaveIdentity
    from ratls.session import Verifier

    source, at = resolve_attester(attester, allow_simulation=allow_simulation), datetime.now(UTC)
    agreed = read_agreement(Path(policy)).require_complete().in_force(at).policy
    role = ROLE_CLIENT if client else ROLE_SERVER
    identity = EnclaveIdentity.create(source, agreed.digest, at=at, role=role)
    if collateral is None:
        return EnclaveEnd(identity, lambda: agreed)
    roots = anchors_for(agreed.platform.root, allow_simulation=allow_simulation)
    bundle = Path(collateral)
    verifier = Verifier(lambda: Expectation(agreed, read_collateral(bundle), roots))
    verifier.expect()  # a bundle that cannot be read is told now
    return EnclaveEnd(identity, lambda: agreed, verifier)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    for entry in own_entry_points(_GROUP):
        if entry.name == name:
            return entry.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
