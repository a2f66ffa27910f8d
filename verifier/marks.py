"""The dates of the newest collateral ever seen, noted durably for each kind of platform.

    Marks(user_folder("state")).advance(subject, contents)

The marks are no cache: without them an old, unexpired bundle would pass for a new one (T09,
docs/dcap.md 3.7). Each root has marks of its own, so that simulated collateral never counts for
Intel's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from verifier.anchors import TrustAnchors
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.document import parse_object
from verifier.errors import CollateralRolledBack, ConfigError, RatlsError
from verifier.files import (
    MEBIBYTE,
    FileUnreadable,
    locked,
    own_folder,
    parse_file,
    write_atomically,
)
from verifier.kind import PlatformKind
from verifier.text import instant_text


@dataclass(frozen=True, slots=True)
class Subject:
    """What a bundle is about, and under which root."""

    roots: TrustAnchors
    kind: PlatformKind
    # Early and standard collateral have an order each: the one precedes the other by months.
    early: bool
    number: int | None = None  # an edition that was asked for by its evaluation data number

    @property
    def place(self) -> Path:
        """Relative; made of digits and fixed words."""
        edition = "early" if self.early else "standard"
        if self.number is not None:
            edition = f"evaluation-{self.number}"
        return Path("collateral", f"{self.name}-{edition}")

    @property
    def name(self) -> str:
        """Root and platforms, without the edition: what one pair of revocation lists is about."""
        root, kind = self.roots.root_spki_sha256.hex(), self.kind
        return f"{root}/{kind.tee}-{kind.fmspc.hex()}-{kind.ca}"

    def require_about(self, contents: Contents) -> None:
        """The contents are of this kind of platform.

        Raises: as `Contents.require_about`.
        """
        contents.require_about(self.kind)


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest that was seen of each part. CRL numbers do not help: Intel's stay 1."""

    issued: Mapping[str, datetime]  # by the names of `Contents.periods`
    evaluations: Mapping[str, int]  # of the two that have an evaluation data number

    @classmethod
    def of(cls, contents: Contents) -> Self:
        info, identity = contents.tcb_info, contents.qe_identity
        numbers = (info.evaluation_data_number, identity.evaluation_data_number)
        return cls(
            {name: period.starts for name, period in contents.periods().items()},
            dict(zip(_NUMBERED, numbers, strict=True)),
        )

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read what `encode` wrote.

        Raises:
            CollateralMalformed: Something else.
        """
        fields = parse_object(raw.decode("utf-8", "replace"), "marks")
        fields.require_only({"issued", "evaluation_data_number"})
        issued, numbers = fields.object("issued"), fields.object("evaluation_data_number")
        issued.require_only(set(_DATED))
        numbers.require_only(set(_NUMBERED))
        return cls(
            {name: issued.instant(name) for name in _DATED},
            {name: numbers.integer(name, high=2**31) for name in _NUMBERED},
        )

    def encode(self) -> bytes:
        issued = {name: instant_text(instant) for name, instant in self.issued.items()}
        document = {"issued": issued, "evaluation_data_number": dict(self.evaluations)}
        return json.dumps(document, indent=1).encode() + b"\n"

    def require_reached_by(
        self, other: Mark, fix: str, *, accept_evaluation: int | None = None
    ) -> None:
        """No part of `other` is older.

        Args:
            accept_evaluation: A part of exactly this evaluation number may be of an older edition,
                with dates of its own.

        Raises:
            CollateralRolledBack: One is.
        """
        lower = {n for n in _NUMBERED if other.evaluations[n] < self.evaluations[n]}
        accepted = {n for n in lower if other.evaluations[n] == accept_evaluation}
        self.require_dates(other, [n for n in _DATED if n not in accepted], fix)
        for name in _NUMBERED:
            if name in lower - accepted:
                raise CollateralRolledBack(
                    f"{name} evaluation data number",
                    expected=f"at least {self.evaluations[name]}",
                    found=str(other.evaluations[name]),
                    fix=fix,
                )

    def require_edition_reached_by(self, other: Mark, fix: str) -> None:
        """As `require_reached_by`; a higher evaluation number is an edition with dates of its own.

        Raises: CollateralRolledBack.
        """
        higher = {n for n in _NUMBERED if other.evaluations[n] > self.evaluations[n]}
        Mark(
            {n: other.issued[n] if n in higher else at for n, at in self.issued.items()},
            self.evaluations,
        ).require_reached_by(other, fix)

    def require_dates(self, other: Mark, names: Iterable[str], fix: str | None = None) -> None:
        """None of these parts of `other` was issued earlier. Raises: CollateralRolledBack."""
        for name in names:
            if other.issued[name] < self.issued[name]:
                raise CollateralRolledBack(
                    name,
                    expected=f"one issued {instant_text(self.issued[name])} or later",
                    found=f"one of {instant_text(other.issued[name])}",
                    fix=fix,
                )


_NUMBERED = ("TCB info", "QE identity")
_LISTS = ("root CRL", "PCK CRL")  # the same for both editions
_DATED = (*_NUMBERED, *_LISTS)


class Marks:
    """A mark for each subject, durable, in `folder`/collateral; `folder` is that of `--state`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def advance(
        self, subject: Subject, contents: Contents, *, accept_evaluation: int | None = None
    ) -> None:
        """Note what was verified, unless something newer was seen before.

        A service that answers a question for the standard edition with genuine early documents
        raises the mark above every honest standard answer for months (T09). Nothing signed tells
        the editions apart, and a lower number may hide a recovery: so a person decides, by number.

        Args:
            accept_evaluation: TCB info and QE identity of exactly this evaluation number are taken
                though a higher one was seen. Revocation lists may be no older even then.

        Raises:
            CollateralRolledBack: It was (5).
            CollateralMarksCorrupt, FileNotWritten: The note cannot be read, or taken (3).
        """
        path = self._path(subject)
        found = Mark.of(contents)
        # Read and written by one process at a time: of two fetches the older must not win.
        inside = path.parent.relative_to(self.folder).parts
        with own_folder(self.folder, *inside), locked(path.parent / ".lock"):
            if subject.number is not None:
                # An edition of one's choice has dates of its own; the lists are everybody's.
                for early in (False, True):
                    self._require_lists(subject, early, found)
            seen = _read_mark(path)
            if seen is not None:
                seen.require_reached_by(
                    found,
                    "ask a service that is up to date, or try again when this one is; where an "
                    "early edition once came for the standard one, say --accept-evaluation and the "
                    f"number to go back to; to forget all that was seen, remove {path}",
                    accept_evaluation=accept_evaluation,
                )
            if seen != found:
                write_atomically(path, found.encode(), mode=0o600)

    def require(self, collateral: Collateral, roots: TrustAnchors) -> Contents:
        """A bundle that is about to be used is no older than what was seen; notes nothing.

        T09: a machine whose certificate was seen revoked is shown with an older bundle. A bundle
        does not name its edition: so its lists are compared with the marks of both, the rest with
        that of the standard edition, which comes last.

        Raises:
            CollateralRolledBack: Something newer was seen (5).
            CollateralMarksCorrupt: The note cannot be read (3).
            RatlsError: What `Contents.authenticate` says.
        """
        contents = Contents.authenticate(collateral, roots)
        found = Mark.of(contents)
        for early in (False, True):
            path = self._path(Subject(roots, contents.kind, early))
            seen = _read_mark(path)
            fix = f"fetch the collateral again; what was seen is noted in {path}"
            if seen is not None:
                seen.require_dates(found, _LISTS, fix)
                if not early:
                    seen.require_edition_reached_by(found, fix)
        return contents

    def _require_lists(self, subject: Subject, early: bool, found: Mark) -> None:
        path = self._path(replace(subject, early=early, number=None))
        seen = _read_mark(path)
        if seen is not None:
            fix = f"ask a service that is up to date; what was seen is noted in {path}"
            seen.require_dates(found, _LISTS, fix)

    def _path(self, subject: Subject) -> Path:
        return self.folder / f"{subject.place}.json"


class CollateralMarksCorrupt(ConfigError):
    """The note of the newest collateral ever seen cannot be read."""

    code = "collateral-marks-corrupt"
    default_fix = "restore the file; to start over deliberately, remove it"


def _read_mark(path: Path) -> Mark | None:
    if not path.exists():
        return None
    try:
        return parse_file(path, Mark.parse, cap=MEBIBYTE)
    except FileUnreadable:
        raise
    except RatlsError as refusal:
        raise CollateralMarksCorrupt(
            str(path), expected="what was noted of the newest collateral", found=refusal.found
        ) from refusal
