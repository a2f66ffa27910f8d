"""Bundles of collateral from disk, and which of several is for a quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Self

from verifier import ecdsa
from verifier.anchors import TrustAnchors
from verifier.certificate import read_chain
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.errors import (
    CollateralFetchError,
    CollateralStaleError,
    ConfigError,
    RatlsError,
    placed,
)
from verifier.files import FileUnreadable, parse_file, read_file
from verifier.kind import PlatformKind
from verifier.platform_collaterals import is_platform_collaterals, read_platform_collaterals
from verifier.quote import ENCRYPTED_PPID
from verifier.received import ReceivedQuote
from verifier.responses import MAX_ANSWER, MAX_FILES, read_folder
from verifier.text import cause


def read_bundles(path: Path) -> tuple[Collateral, ...]:
    """The bundles in a file, or in a folder of a service's answers; at least one.

    Several are in Intel's `platform_collaterals.json`; a folder is as in `verifier.responses`.

    Raises:
        FileUnreadable: Missing, not permitted, too large or too many.
        CollateralFormatError, CertChainError, RevocationError: None of these.
    """
    if not path.is_dir():
        return parse_file(path, _parse)
    try:
        names = [file.name for file in islice(path.iterdir(), MAX_FILES + 1)]
    except OSError as error:
        raise FileUnreadable(str(path), expected="a readable folder", found=cause(error)) from error
    if len(names) > MAX_FILES:
        raise FileUnreadable(str(path), expected=f"at most {MAX_FILES} answers", found="more files")
    with placed(str(path)):
        return (read_folder({name: read_file(path / name, cap=MAX_ANSWER) for name in names}),)


def _parse(content: bytes) -> tuple[Collateral, ...]:
    if is_platform_collaterals(content):
        return read_platform_collaterals(content)
    return (Collateral.parse(content),)


class SeveralBundles(ConfigError):
    """A file holds the collateral of several kinds of platforms where one is needed."""

    code = "several-bundles"
    default_fix = "take them apart, and name one: ratls collateral show FILE --split DIR"


def read_collateral(path: Path) -> Collateral:
    """The one bundle in a file, or in a folder of a service's answers.

    Raises: as `read_bundles`, and
        SeveralBundles: There are several.
    """
    found = read_bundles(path)
    if len(found) != 1:
        fix = f"take them apart, and name one: ratls collateral show {path} --split DIR"
        raise SeveralBundles(str(path), expected="one bundle", found=str(len(found)), fix=fix)
    return found[0]


@dataclass(frozen=True, slots=True)
class Bundles:
    """The bundles that were given; each quote is judged with the one for its platform."""

    bundles: tuple[tuple[Collateral, Contents | None], ...]  # at least one; several: authentic
    roots: TrustAnchors
    at: datetime

    @classmethod
    def read(cls, paths: Sequence[Path], roots: TrustAnchors, at: datetime) -> Self:
        """Bundle files, or folders of a service's answers.

        Several must be authentic, since their signed contents decide which quotes each is for. A
        single one is for every quote, so what is wrong with it becomes the verdict on each.

        Raises:
            FileUnreadable, CollateralFormatError, CertChainError, RevocationError: As
                `read_collateral`.
            CollateralSignatureError, TcbInfoVersionOutdated: One of several is not authentic.
        """
        found = [(path, collateral) for path in paths for collateral in read_bundles(path)]
        if len(found) == 1:
            return cls(((found[0][1], None),), roots, at)
        bundles = []
        for path, collateral in found:
            with placed(str(path)):
                bundles.append((collateral, Contents.authenticate(collateral, roots)))
        return cls(tuple(bundles), roots, at)

    def collateral_for(self, received: ReceivedQuote) -> Collateral:
        """The newest bundle for this kind of platform, of those that cover the instant if any does.

        The quote is not verified here: one that lies about its platform is judged with the
        collateral of another platform, and then does not match it.

        Raises:
            CollateralOfOtherPlatforms: There is none.
        """
        first = self.bundles[0][0]
        if len(self.bundles) == 1:
            return first
        fitting: list[tuple[Collateral, Contents]] = []
        kind = None
        for collateral, contents in self.bundles:
            try:
                pck = received.pck(self.roots, collateral.pck_certificate_chain)
            except RatlsError:
                continue  # `verify_quote` refuses this quote with this bundle
            kind = PlatformKind.of(received.quote.tee, pck.extension.platform.fmspc, pck.authority)
            # The key too: an authority of the same name that was replaced has another.
            if contents and (contents.kind, contents.authority.spki) == (kind, pck.authority.spki):
                fitting.append((collateral, contents))
        if kind is None:
            return first
        if not fitting:
            raise _nothing_for(kind, len(self.bundles))
        # Of two that cover the instant, the older one may lack what was revoked since. One that
        # came with another quote is for that quote alone.
        best = max(
            fitting,
            key=lambda one: (
                _is_for(one[0], received),
                _covers(one[1], self.at),
                one[1].tcb_info.issued,
            ),
        )
        return best[0]


def _is_for(collateral: Collateral, received: ReceivedQuote) -> bool:
    """The PCK chain in the bundle, if there is one, is that of this quote."""
    supplied, auth = collateral.pck_certificate_chain, received.quote.auth
    if supplied is None:
        return True
    if auth.certification_type == ENCRYPTED_PPID:
        leaf, *_ = read_chain(supplied.rstrip(b"\0"), 3, "PCK chain")
        return ecdsa.signed_raw(leaf.key, auth.qe_report_signature, auth.qe_report.raw)
    return auth.pck_chain(supplied) == supplied.rstrip(b"\0")


def _covers(contents: Contents, at: datetime) -> bool:
    try:
        contents.require_current(at)
    except CollateralStaleError:
        return False
    return True


class CollateralOfOtherPlatforms(CollateralFetchError):
    """None of several collateral bundles is for the kind of platform that made the quote."""

    code = "collateral-of-other-platforms"
    default_fix = "fetch the collateral for this quote's own FMSPC and PCK authority"
    says = "none of {found} is for {expected}"


def _nothing_for(kind: PlatformKind, given: int) -> RatlsError:
    fmspc = kind.fmspc.hex()
    return CollateralOfOtherPlatforms(
        "collateral",
        expected=f"{kind.tee.name}, FMSPC {fmspc}, PCK {kind.ca} CA",
        found=f"the {given} bundles given",
        fix=f"fetch it for FMSPC {fmspc} (`ratls collateral fetch`) and name it with --collateral",
    )
