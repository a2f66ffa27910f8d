"""Many parties ask one enclave at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from ratls.claims import ChallengeClaims
from ratls.evidence import Evidence
from ratls.identity import EnclaveIdentity
from tests.support.flight_peers import NOW, PlatformAttester, Study


class OneFile(PlatformAttester):
    """Like Gramine's: report data is written to one place, and the quote read from another."""

    def quote(self, report_data: bytes) -> bytes:
        self.instead = report_data
        self.turn.wait(0.002)
        return super().quote(bytes(64))

    turn = threading.Event()


def test_answers_are_never_mixed_up(study: Study) -> None:
    """B19: without a lock, some of these would carry the nonce of another caller."""
    identity = EnclaveIdentity.create(OneFile(study.world.platform), bytes(32), at=NOW)
    nonces = [bytes([n]) * 32 for n in range(40)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: identity.answer_challenge(n, n, n), nonces))
    for nonce, answer in zip(nonces, answers, strict=True):
        evidence = Evidence.parse(answer)
        evidence.require_bound()
        assert ChallengeClaims.parse(evidence.claims).nonce == nonce
