"""Collateral that was verified once, kept on disk; it may be deleted at any time.

    cache, marks = Cache(user_folder("cache")), Marks(user_folder("state"))
    now = {"trust": trust, "clock": clock}
    fetched = obtain(quotes, service, roots=roots, marks=marks, cache=cache, **now)
    fetched.source  # the service that gave it, or `cache`

Each root has a folder of its own, so that simulated collateral is never found for Intel's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from verifier.anchors import TrustAnchors
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.errors import (
    CollateralFetchError,
    CollateralRollbackError,
    RatlsError,
)
from verifier.files import (
    MEBIBYTE,
    FileNotWritten,
    FileUnreadable,
    locked,
    own_folder,
    read_file,
    write_atomically,
)
from verifier.kind import PlatformKind
from verifier.marks import Mark, Marks, Subject
from verifier.pcs import (
    TOTAL_SECONDS,
    Fetched,
    fetch_collateral,
    kind_of_all,
    require_age,
    require_not_older,
    verify_all,
)
from verifier.pcs_requests import Retries, Service, Trust
from verifier.received import ReceivedQuote

MAX_BUNDLES = 64  #         in one cache, of all roots together
MAX_SIZE = 4 * MEBIBYTE  # of each: what `Collateral.parse` takes, in UTF-8
CACHE = "cache"  #          where a bundle came from that no service gave
_NAME = re.compile(r"([0-9a-f]{64})\.json", re.ASCII)
_OURS = re.compile(r"[0-9a-f]{64}\.json|\.[0-9a-f]{64}\.json\.\w+", re.ASCII)  # and half-written


class Cache:
    """Verified bundles in `folder`/collateral, each named by its own digest.

    Args:
        folder: Made where it is missing.
        tell: Called with one line for each entry that is unusable or was not written.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self._tell = folder, tell

    def keep(
        self, subject: Subject, collateral: Collateral, *, accept_evaluation: int | None = None
    ) -> None:
        """Write what was just verified; it replaces what was there before.

        A cache that cannot be written is reported, and is no reason to refuse.

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
                    # A process that was killed while it wrote left some too. Files with other
                    # names are not from this cache, and stay.
                    if other != name and _OURS.fullmatch(other):
                        os.unlink(other, dir_fd=handle)
                self._evict(place / name)
        except (RatlsError, OSError) as error:
            self._tell(f"{place}: not cached: {error}")

    def _require_not_older(
        self, subject: Subject, collateral: Collateral, accept_evaluation: int | None
    ) -> None:
        """No newer bundle is here: of two fetches at once, the slower may have the older one.

        Raises:
            CollateralRolledBack: A newer one, that holds, is here.
        """
        offered = Mark.of(Contents.authenticate(collateral, subject.roots))
        for path in self._entries(self.folder / subject.place):
            try:
                held = Contents.authenticate(_read(path), subject.roots)
                subject.require_about(held)
            except RatlsError:
                continue  # not authentic, so it keeps nothing out
            Mark.of(held).require_reached_by(
                offered, "nothing: the newer one stays", accept_evaluation=accept_evaluation
            )

    def _evict(self, newest: Path) -> None:
        """Where there are too many, delete those that were written first."""
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
        quotes: Mapping[str, ReceivedQuote],
        *,
        at: datetime,
        require: Callable[[Contents], None] = lambda contents: None,
    ) -> Fetched | None:
        """A bundle that covers `at`, verified as if it had just come; or None.

        Raises:
            RatlsError: What `verify_all` says of these quotes with a bundle that holds, and what
                `require` says but for a rollback.
        """
        for path in self._entries(self.folder / subject.place):
            try:
                collateral = _read(path)
                contents = Contents.authenticate(collateral, subject.roots)
                subject.require_about(contents)
                contents.require_current(at)
            except RatlsError as refusal:
                self._tell(f"{path}: not used: [{refusal.code}] {refusal}")
                continue
            try:
                require(contents)
            except (CollateralRollbackError, CollateralFetchError) as refusal:
                self._tell(f"{path}: not used: [{refusal.code}] {refusal}")
                continue
            found = verify_all(
                quotes, collateral, kind=subject.kind, source=CACHE, roots=subject.roots, at=at
            )
            return found.from_source(CACHE)
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


class CollateralNotCached(CollateralFetchError):
    """No service was asked, and no bundle in the cache is for these quotes at this instant."""

    code = "collateral-not-cached"
    default_fix = "fetch once without --offline, with the same --cache, --root and --early"


def obtain(
    quotes: Mapping[str, ReceivedQuote],
    *services: Service,
    roots: TrustAnchors,
    trust: Trust,
    clock: Callable[[], datetime],
    marks: Marks,
    cache: Cache | None,
    kept: Collateral | None = None,
    early: bool = False,
    number: int | None = None,
    proxy: str | None = None,
    kind: PlatformKind | None = None,
    max_age: timedelta | None = None,
    accept_evaluation: int | None = None,
    seconds: float = TOTAL_SECONDS,
    retries: Retries | None = None,
) -> Fetched:
    """Collateral from the first service that gives it, or else from the cache.

    Args:
        services: The services to ask; none for the cache alone.
        cache: None: neither read nor written.
        kept: The bundle that the result would replace, and which may be no newer.
        accept_evaluation: As for `Marks.advance`.
        max_age: Of TCB info and QE identity; None: their own dates alone decide.
        quotes: This and the others: as for `fetch_collateral`.

    Raises:
        CollateralNotCached: No service was named, and the cache has nothing usable (5).
        CollateralMarksCorrupt, FileNotWritten: See `Marks.advance` (3).
        RatlsError: What `fetch_collateral` says.
    """
    subject = Subject(roots, kind_of_all(quotes, roots, kind), early, number)

    def require(contents: Contents) -> None:
        require_age(contents, max_age, clock())
        require_not_older(contents, kept, roots)
        marks.advance(subject, contents, accept_evaluation=accept_evaluation)

    def cached() -> Fetched | None:
        if cache is None:
            return None
        return cache.find(subject, quotes, at=clock(), require=require)

    if not services:
        found = cached()
        if found is None:
            raise CollateralNotCached(
                f"cached collateral for {subject.kind}",
                expected="a bundle that is valid now",
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
        number=number,
        proxy=proxy,
        kind=kind,
        retries=retries,
        require=require,
        otherwise=cached,
    )
    if cache is not None and found.source != CACHE:
        cache.keep(subject, found.collateral, accept_evaluation=accept_evaluation)
    return found
