"""What every test shares: the count of refusing tests, and where the real vectors are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import browser, postgresql, refusal, tokens
from tests.support.message_page import Recorder

# On a busy machine anything may be slow, and nothing fails for it.
settings.register_profile("ratls", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ratls")

RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--messages", type=Path, help="Folder to note what refusals say, for a page.")


def pytest_configure(config: pytest.Config) -> None:
    """Commands that tests start inherit this: in the background a shell has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = config.getoption("--messages")
    if folder is not None:
        recorder = Recorder(folder, os.environ.get("PYTEST_XDIST_WORKER", "main"))
        recorder.install()
        config.stash[RECORDER] = recorder
        config.add_cleanup(recorder.write)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    refusal.current.append(item)
    try:
        return (yield)
    finally:
        refusal.current.pop()
        if RECORDER in item.config.stash:
            item.config.stash[RECORDER].settle(item)


def vectors_folder() -> Path | None:
    """The folder of real vectors, or None where this machine has none."""
    named = os.environ.get("RATLS_VECTORS")
    return Path(named) if named and (Path(named) / "index.json").is_file() else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [r for r in terminalreporter.stats.get("passed", []) if r.when == "call"]
    refusing = sum(1 for r in passed if ("refuses", True) in r.user_properties)
    terminalreporter.write_line(f"refusing tests: {refusing} of {len(passed)} passed")
    if postgresql.binaries() is None:
        terminalreporter.write_line("POSTGRESQL ABSENT: tests on a real server did not run")
    if shutil.which("systemd-analyze") is None:
        terminalreporter.write_line("SYSTEMD ABSENT: units were not judged by systemd")
    if any(("chroot", False) in r.user_properties for r in passed):
        terminalreporter.write_line("CHROOT NOT PERMITTED: images ran beside the machine's files")
    if any("IMAGE ABSENT" in str(r.longrepr) for r in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line("IMAGE ABSENT: tests on a real image did not run")
    if any("FLOWER ABSENT" in str(r.longrepr) for r in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line("FLOWER ABSENT: its example did not run through the tunnel")
    if tokens.library() is None:
        terminalreporter.write_line("SOFTHSM ABSENT: tests with a PKCS#11 token did not run")
    if browser.program() is None:
        terminalreporter.write_line("CHROMIUM ABSENT: pages were not opened in a browser")
    if any("GRAMINE ABSENT" in str(r.longrepr) for r in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line("GRAMINE ABSENT: the job did not run under gramine-direct")
    folder = vectors_folder()
    if folder is None:
        terminalreporter.write_line("REAL VECTORS ABSENT: tests on genuine quotes did not run")
    else:
        count = len(list(folder.glob("**/quotes/*.bin")))
        terminalreporter.write_line(f"real vectors: {count} quotes")


@pytest.fixture(scope="session")
def nowhere() -> Iterator[tuple[str, int]]:
    """An address at which nobody listens, nor ever will: it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of real vectors. Absent: skipped, or failed under RATLS_REQUIRE_VECTORS=1."""
    folder = vectors_folder()
    if folder is None:
        if os.environ.get("RATLS_REQUIRE_VECTORS") == "1":
            pytest.fail("RATLS_REQUIRE_VECTORS=1 and RATLS_VECTORS names no folder of vectors")
        pytest.skip("REAL VECTORS ABSENT: set RATLS_VECTORS")
    return folder
