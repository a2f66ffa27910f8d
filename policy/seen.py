"""Refuses collateral older than this party has seen (T09).

An attacker shows a machine with a revoked certificate, and an older bundle that has not expired.
Fetches note what they saw in the marks; releases and collections note it in the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from policy.journal_chain import JournalRecord
from policy.journal_entries import NotedEntry
from policy.statement import instant_text
from verifier.anchors import TrustAnchors
from verifier.collateral import Collateral
from verifier.marks import Marks, Subject


def require_newest(
    folder: Path, records: Iterable[JournalRecord], collateral: Collateral, roots: TrustAnchors
) -> NotedEntry | None:
    """The entry to add to the journal before this bundle is used; None where it has it.

    Also for a list that then revokes the platform.

    Args:
        folder: The state folder, where the marks are.
        records: Of its journal; none where there is no journal.

    Raises:
        CollateralRolledBack: Something newer was seen (5).
        CollateralMarksCorrupt: The marks cannot be read (3).
        RatlsError: What `Contents.authenticate` says.
    """
    contents = Marks(folder).require(collateral, roots)
    periods = contents.periods()
    noted = NotedEntry(
        collateral=Subject(roots, contents.kind, early=False).name,
        root_list=instant_text(periods["root CRL"].starts),
        platform_list=instant_text(periods["PCK CRL"].starts),
    )
    seen = [r.entry for r in records if isinstance(r.entry, NotedEntry)]
    newest = next((n for n in reversed(seen) if n.collateral == noted.collateral), None)
    if newest is not None:
        newest.require_reached_by(noted)
    return None if newest == noted else noted
