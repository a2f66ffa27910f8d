"""The TDX module, between processor and trust domain: is it Intel's, how current?

Its major version is byte 1 of a domain's TEE_TCB_SVN. From version 1 on, an identity of its own
describes it; before that, one entry of TCB info does. Source: `tdxModule` and
`tdxModuleIdentities` of Intel's PCS API v4, `/tdx/certification/v4/tcb`; docs/dcap.md 4.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Self

from verifier.document import CollateralMalformed, Fields
from verifier.errors import BelowEveryLevelError, CollateralMismatchError
from verifier.status import SvnLevel
from verifier.td import TdReport

_ID = re.compile(r"TDX_([0-9A-Fa-f]{2})", re.ASCII | re.IGNORECASE)


class TdxModuleMismatch(CollateralMismatchError):
    """The TDX module beneath a trust domain is not one that Intel lists."""

    code = "tdx-module-mismatch"
    default_fix = "do not use it: something other than Intel's TDX module may have answered"


@dataclass(frozen=True, slots=True)
class TdxModule:
    """How a TDX module identifies itself."""

    mr_signer: bytes  #        48
    attributes: int  #         64 bits
    attributes_mask: int

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            mr_signer=fields.hex("mrsigner", 48),
            attributes=int.from_bytes(fields.hex("attributes", 8), "little"),
            attributes_mask=int.from_bytes(fields.hex("attributesMask", 8), "little"),
        )

    def require_described(self, report: TdReport) -> None:
        """The module beneath this trust domain is the one described.

        Raises:
            TdxModuleMismatch: Another signer; an attribute that differs, or any at all.
        """
        found = int.from_bytes(report.seam_attributes, "little")
        if report.mr_signer_seam != self.mr_signer:
            raise TdxModuleMismatch(
                "TDX module's MRSIGNERSEAM",
                expected=self.mr_signer.hex(),
                found=report.mr_signer_seam.hex(),
            )
        # Intel's verifier wants zero, another compares under the mask: both must hold.
        if found or self.attributes & self.attributes_mask:
            raise TdxModuleMismatch(
                "TDX module's SEAMATTRIBUTES",
                expected="zero, in the quote and in TCB info",
                found=f"{found:#x} and {self.attributes:#x}",
            )


class TdxModuleLevelUnmatched(BelowEveryLevelError):
    """The TDX module is genuine, and older than every level that Intel lists for its version."""

    code = "tdx-module-level-unmatched"
    default_fix = "update the TDX module, then make a new quote; no option accepts this one"


@dataclass(frozen=True, slots=True)
class TdxModuleIdentity:
    """One major version of the module, with the levels of its SVN."""

    version: int  #  1 to 255, byte 1 of TEE_TCB_SVN
    module: TdxModule
    levels: tuple[SvnLevel, ...]  # highest first

    def level_of(self, svn: int) -> SvnLevel:
        """The highest level that a module of this SVN reaches.

        Raises:
            TdxModuleLevelUnmatched: It is below all of them.
        """
        thing = f"SVN of the TDX module, version {self.version}"
        return SvnLevel.reached(self.levels, svn, thing, TdxModuleLevelUnmatched)


def read_identities(fields: Fields) -> tuple[TdxModuleIdentity, ...]:
    """The optional `tdxModuleIdentities` of TCB info; there, it must not be empty."""
    if "tdxModuleIdentities" not in fields.members:
        return ()
    table = fields.table("tdxModuleIdentities")
    columns = zip(
        table.each("id", _version, "TDX_ and two hexadecimal digits"),
        map(TdxModule.read, table.objects()),
        SvnLevel.of_modules(table),
        strict=True,
    )
    found = tuple(starmap(TdxModuleIdentity, columns))
    if len({identity.version for identity in found}) != len(found):
        raise CollateralMalformed(table.where, expected="distinct ids", found="equal ones")
    return found


def _version(text: str) -> int:
    match = _ID.fullmatch(text)
    if match is None:
        raise ValueError("not a module's id")
    return int(match[1], 16)


def identity_for(
    identities: Sequence[TdxModuleIdentity], tee_tcb_svn: bytes
) -> TdxModuleIdentity | None:
    """The identity of the module that this TEE_TCB_SVN names; None for version 0, which has none.

    Raises:
        TdxModuleMismatch: Intel lists no module of that version.
    """
    version = tee_tcb_svn[1]
    if version == 0:
        return None
    for identity in identities:
        if identity.version == version:
            return identity
    # Falling back to `tdxModule` would skip the levels, and with them a revoked module.
    raise TdxModuleMismatch(
        "TDX module",
        expected=f"an identity TDX_{version:02X} in TCB info",
        found=", ".join(f"TDX_{i.version:02X}" for i in identities) or "none",
    )
