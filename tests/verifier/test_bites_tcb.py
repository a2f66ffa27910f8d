"""What separates a platform from the newest level: exactly that, and nothing that is equal."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from simulation.documents import tcb_level
from tests.support.refusal import count_refusal
from tests.verifier.world import AT, DATE, put, world
from verifier.pck import PlatformTcb
from verifier.tcb import TcbLevel, TcbStatus

W = world()
HAS = W.platform.tcb


def behind(components: Sequence[int], pce_svn: int) -> tuple[str, ...]:
    """What the platform lacks where the newest level asks for this."""
    newest = tcb_level(components, pce_svn, date=DATE)
    own = tcb_level(HAS.components, HAS.pce_svn, date=DATE, status="OutOfDate")
    levels = [newest] if (tuple(components), pce_svn) == (HAS.components, HAS.pce_svn) else []
    info = put(tcbLevels=levels or [newest, own])
    return W.verify(collateral=W.collateral(tcb_info=info)).tcb.behind_newest


def raised(place: int) -> tuple[int, ...]:
    return tuple(c + (n == place) for n, c in enumerate(HAS.components))


def test_platform_at_the_newest_level_lacks_nothing() -> None:
    assert behind(HAS.components, HAS.pce_svn) == ()


@pytest.mark.parametrize("place", [0, 3, 15])
def test_one_component_is_behind(place: int) -> None:
    assert len(behind(raised(place), HAS.pce_svn)) == 1


def test_only_the_pce_is_behind() -> None:
    assert len(behind(HAS.components, HAS.pce_svn + 1)) == 1


def test_both_are_behind() -> None:
    assert len(behind(raised(2), HAS.pce_svn + 1)) == 2


@pytest.mark.parametrize(("sgx", "tdx"), [(15, 16), (17, 16), (16, 0), (16, 15)])
def test_lists_of_different_lengths_never_pass(sgx: int, tdx: int) -> None:
    """The readers make all of them 16; where one were shorter, nothing must pass unseen."""
    count_refusal()

    def reached(components: int, tdx_components: int) -> bool:
        lists = (5,) * components, (5,) * tdx_components
        level = TcbLevel(lists[0], 5, TcbStatus.UP_TO_DATE, AT, (), lists[1])
        try:
            return level.reached_by(PlatformTcb((5,) * 16, 5, bytes(16)), bytes([5] * 16))
        except ValueError:
            return False

    assert reached(16, 16)
    assert not reached(sgx, tdx)
