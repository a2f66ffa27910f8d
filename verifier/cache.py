"""Collateral on disk that was verified once, and how new the newest was that was ever seen.

    cache, marks = Cache(user_cache_path("ratls")), Marks(user_state_path("ratls"))
    now = {"trust": trust, "clock": clock}
    fetched = obtain(quotes, service, roots=roots, marks=marks, cache=cache, **now)
    fetched.source  # whose it is: `cache` where no service gave

The cache may be deleted at any time. The marks are no cache: without them an old, unexpired bundle
would pass for a new one (T09, docs/dcap.md 3.7). Both have a place of their own for each root, so
that what a simulation signed never stands where Intel's word is looked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from verifier.anchors import TrustAnchors
from verifier.certificate import PLATFORM_CA
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.document import parse_object
from verifier.errors import (
    CollateralFetchError,
    CollateralRollbackError,
    CollateralRolledBack,
    ConfigError,
    RatlsError,
)
from verifier.files import (
    MEBIBYTE,
    FileNotWritten,
    FileUnreadable,
    locked,
    own_folder,
    parse_file,
    read_file,
    write_atomically,
)
from verifier.pcs import (
    TOTAL_SECONDS,
    Fetched,
    Retries,
    Service,
    Trust,
    Wanted,
    fetch_collateral,
    judge,
    require_not_older,
)
from verifier.tcb import TcbInfoMismatch
from verifier.validity import rfc3339

MAX_BUNDLES = 64  #         in one cache, whatever their roots
MAX_SIZE = 4 * MEBIBYTE  # of each: what `Collateral.parse` takes, in UTF-8
CACHE = "cache"  #          where a bundle came from that no service gave
_NAME = re.compile(r"([0-9a-f]{64})\.json", re.ASCII)
_OURS = re.compile(r"[0-9a-f]{64}\.json|\.[0-9a-f]{64}\.json\.\w+", re.ASCII)  # and half-written


@dataclass(frozen=True, slots=True)
class Subject:
    """What a bundle is about, and under which root."""

    roots: TrustAnchors
    wanted: Wanted
    # Early and standard collateral have an order each: the one precedes the other by months.
    early: bool

    @property
    def place(self) -> Path:
        """Relative; made of digits and of words of ours."""
        edition = "early" if self.early else "standard"
        return Path("collateral", f"{self.name}-{edition}")

    @property
    def name(self) -> str:
        """Root and platforms, without the edition: what one pair of revocation lists is about."""
        root, wanted = self.roots.root_spki_sha256.hex(), self.wanted
        return f"{root}/{wanted.tee}-{wanted.fmspc.hex()}-{wanted.ca}"

    @classmethod
    def of(cls, contents: Contents, roots: TrustAnchors, *, early: bool) -> Self:
        """The subject of a bundle that is authentic under these roots."""
        ca = "platform" if contents.authority.common_name == PLATFORM_CA else "processor"
        return cls(roots, Wanted(contents.tcb_info.tee, contents.tcb_info.fmspc, ca), early)

    def require_about(self, contents: Contents) -> None:
        """Raises: CollateralMismatchError, where this is another platform's."""
        found = Subject.of(contents, self.roots, early=self.early).wanted
        if found != self.wanted:
            raise TcbInfoMismatch("bundle", expected=str(self.wanted), found=str(found))


class Cache:
    """Verified bundles in `folder`/collateral, each named by its own digest.

    Args:
        folder: Made where it is missing.
        tell: Hears, in one line each, of entries that do not hold and of what was not written.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self._tell = folder, tell

    def keep(
        self, subject: Subject, collateral: Collateral, *, accept_evaluation: int | None = None
    ) -> None:
        """Write what was just verified, in the place of what was there before.

        A cache that cannot be written is told of, and no reason to refuse.

        Args:
            accept_evaluation: As for `Marks.advance`.
        """
        place = self.folder / subject.place
        name = f"{hashlib.sha256(collateral.raw).hexdigest()}.json"
        try:
            with (
                own_folder(self.folder, *subject.place.parts) as handle,
                locked(self.folder / "collateral" / ".lock"),
            ):
                self._require_not_older(subject, collateral, accept_evaluation)
                write_atomically(place / name, collateral.raw, mode=0o600)
                for other in os.listdir(handle):
                    # One that broke off while it wrote left some too. What is not named as we
                    # name files is somebody else's, wherever this folder is.
                    if other != name and _OURS.fullmatch(other):
                        os.unlink(other, dir_fd=handle)
                self._evict(place / name)
        except (RatlsError, OSError) as error:
            self._tell(f"{place}: not cached: {error}")

    def _require_not_older(
        self, subject: Subject, collateral: Collateral, accept_evaluation: int | None
    ) -> None:
        """Of two that fetch at once, the one that is slower may have the older bundle.

        Raises:
            CollateralRolledBack: A newer one, that holds, is here.
        """
        offered = Mark.of(Contents.authenticate(collateral, subject.roots))
        for path in self._entries(self.folder / subject.place):
            try:
                held = Contents.authenticate(_read(path), subject.roots)
                subject.require_about(held)
            except RatlsError:
                continue  # not believed, so it keeps nothing out
            Mark.of(held).require_reached_by(
                offered, "nothing: the newer one stays", accept_evaluation=accept_evaluation
            )

    def _evict(self, newest: Path) -> None:
        """Of too many, those that were written first go."""
        found = [
            file
            for file in self.folder.glob("collateral/*/*/*.json")
            if file != newest and _NAME.fullmatch(file.name)
        ]
        found.sort(key=lambda file: file.lstat().st_mtime)
        for file in found[: max(0, len(found) + 1 - MAX_BUNDLES)]:
            inside = file.parent.relative_to(self.folder).parts
            with suppress(FileNotWritten), own_folder(self.folder, *inside) as handle:
                os.unlink(file.name, dir_fd=handle)  # not through a link in a folder's place

    def find(
        self,
        subject: Subject,
        quotes: Mapping[str, bytes],
        *,
        at: datetime,
        newer_sgx: bool = False,
        require: Callable[[Contents], None] = lambda contents: None,
    ) -> Fetched | None:
        """A bundle that holds and covers `at`, verified as if it had just come; or None.

        Raises:
            RatlsError: What `judge` says of these quotes with a bundle that holds, and what
                `require` says but for a rollback.
        """
        for path in self._entries(self.folder / subject.place):
            try:
                collateral = _read(path)
                contents = Contents.authenticate(collateral, subject.roots)
                subject.require_about(contents)
                contents.window(at)
            except RatlsError as refusal:
                self._tell(f"{path}: not used: [{refusal.code}] {refusal}")
                continue
            try:
                require(contents)
            except CollateralRollbackError as refusal:
                self._tell(f"{path}: not used: [{refusal.code}] {refusal}")
                continue
            found = judge(quotes, collateral, roots=subject.roots, at=at, newer_sgx=newer_sgx)
            return replace(found, source=CACHE)
        return None

    def _entries(self, place: Path) -> list[Path]:
        """The newest first."""
        try:
            found = [file for file in place.iterdir() if _NAME.fullmatch(file.name)]
            return sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._tell(f"{place}: not read: {error}")
            return []


def _read(path: Path) -> Collateral:
    raw = read_file(path, cap=MAX_SIZE)
    digest = hashlib.sha256(raw).hexdigest()
    if path.name != f"{digest}.json":
        raise FileUnreadable(str(path), expected="what was written", found=f"SHA-256 {digest}")
    return Collateral.parse(raw)


# How new the newest was


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest of each part, ever seen of one subject. CRL numbers say nothing: they stay 1."""

    issued: Mapping[str, datetime]  # by the names of `Contents.periods`
    evaluations: Mapping[str, int]  # of the two that have an evaluation data number

    @classmethod
    def of(cls, contents: Contents) -> Self:
        numbers = (
            contents.tcb_info.evaluation_data_number,
            contents.qe_identity.evaluation_data_number,
        )
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
        issued = {name: rfc3339(instant) for name, instant in self.issued.items()}
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
        self._require_dates(other, tuple(n for n in _DATED if n not in accepted), fix)
        for name in _NUMBERED:
            if name in lower - accepted:
                raise CollateralRolledBack(
                    f"{name} evaluation data number",
                    expected=f"at least {self.evaluations[name]}",
                    found=str(other.evaluations[name]),
                    fix=fix,
                )

    def require_lists_reached_by(self, other: Mark, fix: str) -> None:
        """The revocation lists alone, which are the same for both editions.

        Raises: CollateralRolledBack.
        """
        self._require_dates(other, _LISTS, fix)

    def require_edition_reached_by(self, other: Mark, fix: str) -> None:
        """As `require_reached_by`; a higher evaluation number is an edition with dates of its own.

        Raises: CollateralRolledBack.
        """
        higher = {n for n in _NUMBERED if other.evaluations[n] > self.evaluations[n]}
        Mark(
            {n: other.issued[n] if n in higher else at for n, at in self.issued.items()},
            self.evaluations,
        ).require_reached_by(other, fix)

    def _require_dates(self, other: Mark, names: tuple[str, ...], fix: str) -> None:
        for name in names:
            if other.issued[name] < self.issued[name]:
                raise CollateralRolledBack(
                    name,
                    expected=f"none issued before {rfc3339(self.issued[name])}",
                    found=f"one of {rfc3339(other.issued[name])}",
                    fix=fix,
                )


_LISTS = ("root CRL", "PCK CRL")
_DATED = ("TCB info", "QE identity", "root CRL", "PCK CRL")
_NUMBERED = ("TCB info", "QE identity")


class Marks:
    """A mark for each subject, durable, in `folder`/collateral; `folder` is that of `--state`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def advance(
        self, subject: Subject, contents: Contents, *, accept_evaluation: int | None = None
    ) -> None:
        """Take note of what was verified, unless something newer was seen before.

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
        """Hold a bundle that is about to be relied on against all that was seen; notes nothing.

        T09: a machine whose certificate was seen revoked is shown with an older bundle. Which
        edition a bundle is of, nothing in it says: so its lists are held against the marks of
        both, the rest against that of the standard edition, which comes last.

        Raises:
            CollateralRolledBack: Something newer was seen (5).
            CollateralMarksCorrupt: The note cannot be read (3).
            RatlsError: What `Contents.authenticate` says.
        """
        contents = Contents.authenticate(collateral, roots)
        found = Mark.of(contents)
        for early in (False, True):
            path = self._path(Subject.of(contents, roots, early=early))
            seen, fix = _read_mark(path), f"fetch collateral anew; what was seen stands in {path}"
            if seen is not None:
                seen.require_lists_reached_by(found, fix)
                if not early:
                    seen.require_edition_reached_by(found, fix)
        return contents

    def _path(self, subject: Subject) -> Path:
        place = self.folder / subject.place
        return place.with_name(f"{place.name}.json")


class CollateralMarksCorrupt(ConfigError):
    """What was noted about the newest collateral ever seen cannot be read."""

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
            str(path), expected="what was noted of the newest collateral", found=str(refusal)
        ) from refusal


# Both together


class CollateralNotCached(CollateralFetchError):
    """No service was asked, and nothing in the cache serves these quotes at this instant."""

    code = "collateral-not-cached"
    default_fix = "fetch once without --offline, with the same --cache, --root and --early"


def obtain(
    quotes: Mapping[str, bytes],
    *services: Service,
    roots: TrustAnchors,
    trust: Trust,
    clock: Callable[[], datetime],
    marks: Marks,
    cache: Cache | None,
    kept: Collateral | None = None,
    early: bool = False,
    accept_evaluation: int | None = None,
    newer_sgx: bool = False,
    seconds: float = TOTAL_SECONDS,
    retries: Retries | None = None,
) -> Fetched:
    """What a service gives or, where none gives or none is to be asked, what is cached.

    Args:
        services: Whom to ask; none for the cache alone.
        cache: None: neither read nor written.
        kept: The bundle that the result would replace, and which may be no newer.
        accept_evaluation: As for `Marks.advance`.
        quotes: This and the others: as for `fetch_collateral`.

    Raises:
        CollateralNotCached: Nobody was asked, and the cache has nothing that holds (5).
        CollateralMarksCorrupt, FileNotWritten: See `Marks.advance` (3).
        RatlsError: What `fetch_collateral` says.
    """
    subject = Subject(roots, Wanted.by_all(quotes, roots, newer_sgx=newer_sgx), early)

    def require(contents: Contents) -> None:
        require_not_older(contents, kept, roots)
        marks.advance(subject, contents, accept_evaluation=accept_evaluation)

    def cached() -> Fetched | None:
        if cache is None:
            return None
        return cache.find(subject, quotes, at=clock(), newer_sgx=newer_sgx, require=require)

    if not services:
        found = cached()
        if found is None:
            raise CollateralNotCached(
                f"cached collateral for {subject.wanted}",
                expected="a bundle that holds now",
                found="none",
            )
        return found
    found = fetch_collateral(
        quotes,
        *services,
        roots=roots,
        trust=trust,
        clock=clock,
        seconds=seconds,
        early=early,
        newer_sgx=newer_sgx,
        retries=retries,
        require=require,
        otherwise=cached,
    )
    if cache is not None and found.source != CACHE:
        cache.keep(subject, found.collateral, accept_evaluation=accept_evaluation)
    return found
