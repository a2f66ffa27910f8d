"""`ratls collateral`: what it writes, what it leaves alone, and how it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import Result

from ratls.cli_collateral import collateral
from simulation.intel import Intel
from tests.support.refusal import count_refusal
from tests.support.typed import piped, typed
from tests.verifier.pcs_peer import (
    PUBLISHED,
    QE,
    ROOTS,
    TCB,
    Alter,
    body,
    peer,
    proxy,
    says,
)
from tests.verifier.test_collateral_of_others import W as WORLD
from tests.verifier.test_collateral_of_others import platform_collaterals
from tests.verifier.test_responses import FOLDER
from tests.verifier.world import World, put
from verifier.collateral import Collateral
from verifier.errors import Exit
from verifier.pcs import kept_bundle

ROOT = ["--root", WORLD.intel.anchors().name, "--allow-simulation"]
SIMULATION = ["--root", ROOTS.name, "--allow-simulation"]


def run(*arguments: object, status: Exit = Exit.YES) -> Result:
    return typed(collateral, arguments, status)


@pytest.fixture(scope="module")
def today() -> World:
    """A world around the machine's own clock, which the command asks."""
    intel = Intel.create(datetime.now(UTC) - timedelta(hours=1))
    return World(intel, intel.platform(), intel.at)


def run_fetch(
    w: World,
    folder: Path,
    altered: dict[str, Alter] | None = None,
    *options: object,
    status: Exit = Exit.YES,
    published: Collateral | None = None,
    quote: bytes | None = None,
) -> Result:
    """Fetch `b.json` for this quote, or the world's, from a service that publishes this."""
    quoted = folder / "q.bin"
    quoted.write_bytes((quote or w.quote()) + bytes(100))  # as drivers hand it out
    with peer(folder, published or w.collateral(), altered) as place:
        return run(
            "fetch", quoted, "-o", folder / "b.json", "--from", place.origin,
            "--ca", place.certificate, *of(w, folder), *options, status=status,
        )  # fmt: skip


def of(w: World, folder: Path) -> list[object]:
    """The root of a world, and folders of the test's own."""
    root: list[object] = ["--root", w.intel.anchors().name, "--allow-simulation"]
    return [*root, "--cache", folder / "cache", "--state", folder / "state"]


def test_fetch_writes_a_bundle_and_says_what_it_is(today: World, tmp_path: Path) -> None:
    result = run_fetch(today, tmp_path, None, "--json", "--early")
    facts = json.loads(result.stdout)
    assert (facts["mode"], facts["update"], facts["quotes"]) == ("simulation", "early", 1)
    assert (facts["tee"], facts["passed_over"]) == ("sgx", [])
    assert facts["from"].startswith("https://127.0.0.1:")
    assert facts["fetched"] == json.loads((tmp_path / "b.json").read_text("utf-8"))["fetched"]
    assert facts["fmspc"] == today.platform.tcb.fmspc.hex()
    assert kept_bundle(tmp_path / "b.json") == today.collateral()
    assert "SIMULATION" in result.stderr
    run_fetch(today, tmp_path)


POISONED = body(lambda raw: raw.replace(b"OutOfDate", b"UpToDate"))


@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
def test_a_poisoned_answer_is_never_kept(today: World, tmp_path: Path, before: bool) -> None:
    """T22: refused each time, and what was or was not there stays so (CVE-2020-15163)."""
    file = tmp_path / "b.json"
    if before:
        run_fetch(today, tmp_path)
    kept = file.read_bytes() if before else None
    for _ in range(2):
        result = run_fetch(today, tmp_path, {TCB: POISONED}, "--json", status=Exit.NOT_GENUINE)
        assert json.loads(result.stdout)["error"]["code"] == "tcb-info-signature-invalid"
        assert (file.read_bytes() if file.exists() else None) == kept
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("altered", "status"),
    [
        pytest.param({TCB: says(404)}, Exit.UNDECIDED, id="unknown"),
        pytest.param({TCB: says(302, Location="https://x")}, Exit.UNDECIDED, id="elsewhere"),
        pytest.param({QE: body(lambda _: b"{}")}, Exit.UNDECIDED, id="unreadable"),
    ],
)
def test_fetch_ends_with_the_status_of_its_refusal(
    today: World, tmp_path: Path, altered: dict[str, Alter], status: Exit
) -> None:
    run_fetch(today, tmp_path, altered, status=status)
    assert not (tmp_path / "b.json").exists()


def test_fetch_leaves_another_file_alone(today: World, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("notes", "utf-8")
    run_fetch(today, tmp_path, status=Exit.UNUSABLE)
    assert (tmp_path / "b.json").read_text("utf-8") == "notes"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        pytest.param([], Exit.USAGE, id="nothing"),
        pytest.param(["q.bin", "--from", "https://x"], Exit.USAGE, id="no-output"),
        pytest.param(["q.bin", "-o", "b"], Exit.USAGE, id="no-address"),
        pytest.param(["q.bin", "-o", "b", "--offline", "--no-cache"], Exit.USAGE, id="nowhere"),
        pytest.param(
            ["q.bin", "-o", "b", "--from", "https://x", "--ca", "a", "--ca", "b"],
            Exit.USAGE,
            id="two-authorities-of-one",
        ),
        pytest.param(
            ["q.bin", "-o", "b", "--from", "https://x", "--ca", "none.pem"],
            Exit.UNUSABLE,
            id="no-authority",
        ),
        pytest.param(
            ["q.bin", "-o", "b", "--from", "https://x", "--from", "http://y"],
            Exit.UNUSABLE,
            id="second-plain",
        ),
        pytest.param(["q.bin", "-o", "b", "--from", "http://x"], Exit.UNUSABLE, id="plain"),
        pytest.param(["q.bin", "-o", "b", "--from", "https://x"], Exit.UNUSABLE, id="no-quote"),
        pytest.param(
            ["q.bin", "-o", "b", "--from", "https://x", "--root", ROOTS.name],
            Exit.NOT_ADMITTED,
            id="simulation-not-allowed",
        ),
    ],
)
def test_fetch_is_called_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], status: Exit
) -> None:
    monkeypatch.chdir(tmp_path)
    run("fetch", *options, status=status)
    assert list(tmp_path.iterdir()) == []


# Several sources, and the cache


def test_fetch_from_the_second_source(today: World, tmp_path: Path) -> None:
    """What became of the first is said, to people and to machines."""
    quoted, others = tmp_path / "q.bin", tmp_path / "second"
    quoted.write_bytes(today.quote())
    others.mkdir()
    with (
        peer(tmp_path, today.collateral(), {TCB: says(461)}) as one,
        peer(others, today.collateral()) as other,
    ):
        result = run(
            "fetch", quoted, "-o", tmp_path / "b.json", "--json",
            "--from", one.origin, "--ca", one.certificate,
            "--from", other.origin, "--ca", other.certificate,
            *of(today, tmp_path),
        )  # fmt: skip
    facts = json.loads(result.stdout)
    assert facts["from"] == other.origin
    assert [(p["from"], p["code"]) for p in facts["passed_over"]] == [(one.origin, "pcs-refused")]
    assert one.origin in result.stderr


def test_fetch_with_the_public_authorities_for_one_of_two(today: World, tmp_path: Path) -> None:
    """T21: the first is not believed by them, however its neighbour is believed."""
    count_refusal()
    quoted = tmp_path / "q.bin"
    quoted.write_bytes(today.quote())
    with peer(tmp_path, today.collateral()) as place:
        result = run(
            "fetch", quoted, "-o", tmp_path / "b.json", "--json",
            "--from", place.origin, "--ca", "public",
            "--from", place.origin, "--ca", place.certificate,
            *of(today, tmp_path),
        )  # fmt: skip
    (passed_over,) = json.loads(result.stdout)["passed_over"]
    assert passed_over["code"] == "pcs-certificate-untrusted"


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["people", "json"])
def test_fetch_falls_back_on_the_cache_and_says_so(
    today: World, tmp_path: Path, options: list[str]
) -> None:
    run_fetch(today, tmp_path)
    before = kept_bundle(tmp_path / "b.json")
    (tmp_path / "b.json").unlink()
    result = run_fetch(today, tmp_path, {TCB: says(404)}, *options)
    assert kept_bundle(tmp_path / "b.json") == before
    assert "cache" in result.stderr
    assert "pcs-refused" in result.stderr
    if options:
        assert json.loads(result.stdout)["from"] == "cache"


def test_fetch_offline_asks_nobody(today: World, tmp_path: Path) -> None:
    quoted = tmp_path / "q.bin"
    run_fetch(today, tmp_path)
    with peer(tmp_path, today.collateral()) as place:
        result = run(
            "fetch", quoted, "-o", tmp_path / "again.json", "--offline", "--json",
            "--from", place.origin, *of(today, tmp_path),
        )  # fmt: skip
    assert json.loads(result.stdout)["from"] == "cache"
    assert place.seen == []
    assert kept_bundle(tmp_path / "again.json") == today.collateral()


def test_fetch_offline_without_anything_cached(today: World, tmp_path: Path) -> None:
    run_fetch(today, tmp_path, None, "--no-cache")
    (tmp_path / "b.json").unlink()
    result = run_fetch(today, tmp_path, None, "--offline", "--json", status=Exit.UNDECIDED)
    assert json.loads(result.stdout)["error"]["code"] == "collateral-not-cached"
    assert not (tmp_path / "b.json").exists()


def test_a_damaged_cache_is_said_aloud(today: World, tmp_path: Path) -> None:
    run_fetch(today, tmp_path)
    (entry,) = (tmp_path / "cache").rglob("*.json")
    entry.write_bytes(b"{}")
    result = run_fetch(today, tmp_path, {TCB: says(404)}, "--json", status=Exit.UNDECIDED)
    assert json.loads(result.stdout)["error"]["code"] == "pcs-refused"
    assert entry.name in result.stderr


def test_fetch_of_what_is_older_than_was_seen(today: World, tmp_path: Path) -> None:
    """T09: though neither bundle nor cache is left; and the file to remove is named."""
    options = ["--no-cache", "--json"]
    run_fetch(today, tmp_path, None, *options)
    (tmp_path / "b.json").unlink()
    older = today.collateral(at=today.at - timedelta(days=1))
    told = run_fetch(today, tmp_path, None, *options, published=older, status=Exit.UNDECIDED).stdout
    error = json.loads(told)["error"]
    (note,) = (tmp_path / "state").rglob("*.json")
    assert (error["code"], str(note) in error["fix"]) == ("collateral-rolled-back", True)
    note.unlink()
    run_fetch(today, tmp_path, None, *options, published=older)


def test_fetch_goes_back_to_the_number_that_is_named(today: World, tmp_path: Path) -> None:
    """A service gave early documents for the standard edition, once."""
    higher, options = put(tcbEvaluationDataNumber=22), ["--no-cache", "--json"]
    early = today.collateral(tcb_info=higher, qe_identity=higher)
    run_fetch(today, tmp_path, None, *options, published=early)
    refusal = run_fetch(today, tmp_path, None, *options, status=Exit.UNDECIDED)
    assert "--accept-evaluation" in json.loads(refusal.stdout)["error"]["fix"]
    run_fetch(today, tmp_path, None, *options, "--accept-evaluation", "21")
    run_fetch(today, tmp_path, None, *options)


def fmspc_of(w: World) -> str:
    return w.platform.tcb.fmspc.hex()


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_fetch_without_a_quote(today: World, tmp_path: Path, tee: str) -> None:
    file, tdx = tmp_path / "b.json", today.collateral(tdx=True)
    with peer(tmp_path, today.collateral(), tdx=tdx) as place:
        result = run(
            "fetch", "--fmspc", fmspc_of(today).upper(), "--tee", tee, "-o", file, "--json",
            "--from", place.origin, "--ca", place.certificate, *of(today, tmp_path),
        )  # fmt: skip
    facts = json.loads(result.stdout)
    assert (facts["tee"], facts["quotes"], facts["fmspc"]) == (tee, 0, fmspc_of(today))
    assert kept_bundle(file) == (tdx if tee == "tdx" else today.collateral())


@pytest.mark.parametrize(
    "options",
    [
        ["--fmspc", "00606a000000"],
        ["--tee", "sgx"],
        ["--fmspc", "00606a00000", "--tee", "sgx"],
        ["--fmspc", "00606a00000g", "--tee", "sgx"],
        ["--fmspc", "00606a000000", "--tee", "SGX"],
        ["--fmspc", "00606a000000", "--tee", "sgx", "--pck-ca", "root"],
        ["q.bin", "--fmspc", "00606a000000", "--tee", "sgx"],
        ["q.bin", "--evaluation-data-number", "0"],
        ["q.bin", "--evaluation-data-number", "20", "--early"],
        ["q.bin", "--evaluation-data-number", "20", "--accept-evaluation", "20"],
        ["q.bin", "--max-age", "7"],
        ["q.bin", "--json-path", "a["],
    ],
)
def test_fetch_is_asked_for_what_cannot_be(tmp_path: Path, options: list[str]) -> None:
    words = ["fetch", *options, "-o", tmp_path / "b.json", "--from", "https://x"]
    run(*words, status=Exit.USAGE)


def test_fetch_of_an_edition_by_its_number(today: World, tmp_path: Path) -> None:
    """Beside what is the newest: it neither raises nor is held against that mark."""
    higher, options = put(tcbEvaluationDataNumber=22), ["--no-cache", "--json"]
    newest = today.collateral(tcb_info=higher, qe_identity=higher)
    run_fetch(today, tmp_path, None, *options, published=newest)
    (tmp_path / "b.json").unlink()
    refusal = run_fetch(today, tmp_path, None, *options, status=Exit.UNDECIDED)
    assert json.loads(refusal.stdout)["error"]["code"] == "collateral-rolled-back"
    named = ["--evaluation-data-number", "21"]
    facts = json.loads(run_fetch(today, tmp_path, None, *options, *named).stdout)
    assert (facts["update"], facts["tcb_info_evaluation_data_number"]) == ("evaluation 21", 21)
    refusal = run_fetch(
        today, tmp_path, None, *options, "--evaluation-data-number", "20", status=Exit.UNDECIDED
    )
    assert json.loads(refusal.stdout)["error"]["message"].endswith("found 410")


def test_an_edition_by_its_number_brings_no_older_revocation_lists(
    today: World, tmp_path: Path
) -> None:
    """T09: an edition of one's choice has dates of its own; the lists are everybody's."""
    options = ["--no-cache", "--json"]
    run_fetch(today, tmp_path, None, *options)
    (tmp_path / "b.json").unlink()
    older = today.collateral(at=today.at - timedelta(days=1))
    named = ["--evaluation-data-number", "21"]
    refusal = run_fetch(
        today, tmp_path, None, *options, *named, published=older, status=Exit.UNDECIDED
    )
    assert json.loads(refusal.stdout)["error"]["code"] == "collateral-rolled-back"
    run_fetch(today, tmp_path, None, *options, *named)


def test_fetch_of_what_is_older_than_was_asked_for(today: World, tmp_path: Path) -> None:
    """Valid, and served by a cache that nobody renews."""
    week = today.collateral(at=today.at - timedelta(days=7))
    options = ["--no-cache", "--json"]
    told = run_fetch(
        today, tmp_path, None, *options, "--max-age", "6d", published=week, status=Exit.UNDECIDED
    )
    assert json.loads(told.stdout)["error"]["code"] == "collateral-too-old"
    assert not (tmp_path / "b.json").exists()
    run_fetch(today, tmp_path, None, *options, "--max-age", "8d", published=week)


def test_the_cache_gives_nothing_that_is_older_than_was_asked_for(
    today: World, tmp_path: Path
) -> None:
    run_fetch(today, tmp_path, None, published=today.collateral(at=today.at - timedelta(days=7)))
    (tmp_path / "b.json").unlink()
    run_fetch(today, tmp_path, None, "--offline", "--max-age", "6d", status=Exit.UNDECIDED)
    run_fetch(today, tmp_path, None, "--offline", "--max-age", "8d")


def test_fetch_through_a_proxy_that_is_named(today: World, tmp_path: Path) -> None:
    with proxy() as (address, seen):
        run_fetch(today, tmp_path, None, "--proxy", address)
        run_fetch(today, tmp_path, None, "--proxy", "socks5://x", status=Exit.UNUSABLE)
    assert seen


def test_fetch_of_a_quote_on_standard_input(today: World, tmp_path: Path) -> None:
    with peer(tmp_path, today.collateral()) as place, piped(today.quote().hex().encode()):
        run(
            "fetch", "-", "-o", tmp_path / "b.json", "--from", place.origin,
            "--ca", place.certificate, *of(today, tmp_path),
        )  # fmt: skip
    assert kept_bundle(tmp_path / "b.json") == today.collateral()


@pytest.mark.parametrize("version", [4, 5])
def test_fetch_for_a_trust_domain_and_show_it(today: World, tmp_path: Path, version: int) -> None:
    quoted, file = tmp_path / "td.bin", tmp_path / "td.json"
    quoted.write_bytes(today.platform.td_quote(version=version) + bytes(100))
    with peer(tmp_path, today.collateral(), tdx=today.collateral(tdx=True)) as place:
        result = run(
            "fetch", quoted, "-o", file, "--from", place.origin, "--ca", place.certificate,
            "--json", *of(today, tmp_path),
        )  # fmt: skip
    assert json.loads(result.stdout)["tee"] == "tdx"
    root = of(today, tmp_path)[:3]
    facts = json.loads(run("show", file, "--json", *root).stdout)
    assert [i["id"] for i in facts["tdx_module_identities"]] == ["TDX_03", "TDX_01"]
    assert [i["levels"][0]["isv_svn"] for i in facts["tdx_module_identities"]] == [3, 5]
    assert facts["tdx_module"]["mr_signer"] == "00" * 48
    assert facts["tcb_levels"][0]["tdx_components"] == [5, 0, 2, *[0] * 13]
    people = run("show", file, *root).stdout
    assert "TDX_01" in people
    assert "INTEL-SA-99996" in people
    assert "5 0 2 0" in people


def test_fetch_of_a_newer_quote_of_an_enclave(today: World, tmp_path: Path) -> None:
    quote = today.platform.quote(version=5)
    run_fetch(today, tmp_path, quote=quote, status=Exit.UNUSABLE)
    run_fetch(today, tmp_path, None, "--newer-sgx", quote=quote)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    file = tmp_path / "bundle.json"
    file.write_bytes(PUBLISHED.raw)
    return file


def test_show_says_what_is_in_a_bundle(bundle: Path) -> None:
    result = run("show", bundle, "--at", "2026-12-01T00:00:00Z", "--json", *SIMULATION)
    facts = json.loads(result.stdout)
    assert (facts["mode"], facts["fmspc"]) == ("simulation", "00606a000000")
    assert facts["pce_id"] == "0000"
    assert facts["earliest_expiration"] == "2026-12-25T12:00:00Z"
    assert [level["status"] for level in facts["tcb_levels"]] == ["UpToDate", "OutOfDate"]
    assert [level["isv_svn"] for level in facts["qe_levels"]] == [8, 6]
    assert facts["tcb_info_evaluation_data_number"] == 21
    assert facts["error"] is None
    people = run("show", bundle, "--at", "2026-12-01T00:00:00Z", *SIMULATION)
    assert "mode=simulation" in people.stdout
    assert "INTEL-SA-99998" in people.stdout


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["people", "json"])
def test_show_of_a_bundle_that_ended(bundle: Path, options: list[str]) -> None:
    """Everything is said all the same; what it is good for is nothing."""
    words = ["show", bundle, "--at", "2027-06-01T00:00:00Z", *SIMULATION, *options]
    result = run(*words, status=Exit.UNDECIDED)
    assert "00606a000000" in result.stdout
    if options:
        assert json.loads(result.stdout)["error"]["code"] == "collateral-not-current"


@pytest.mark.parametrize(
    ("content", "options", "status"),
    [
        pytest.param(b"{}", SIMULATION, Exit.UNUSABLE, id="unreadable"),
        pytest.param(None, SIMULATION, Exit.UNUSABLE, id="missing"),
        pytest.param(PUBLISHED.raw, [], Exit.NOT_GENUINE, id="X01-production"),
        pytest.param(PUBLISHED.raw, SIMULATION[:2], Exit.NOT_ADMITTED, id="not-allowed"),
        pytest.param(PUBLISHED.raw, ["--root", "simulation:sha256:00"], Exit.UNUSABLE, id="root"),
        pytest.param(
            PUBLISHED.raw.replace(b"OutOfDate", b"UpToDate"),
            SIMULATION,
            Exit.NOT_GENUINE,
            id="T01-altered",
        ),
    ],
)
def test_show_refuses(
    tmp_path: Path, content: bytes | None, options: list[str], status: Exit
) -> None:
    file = tmp_path / "bundle.json"
    if content is not None:
        file.write_bytes(content)
    assert "UpToDate" not in run("show", file, *options, status=status).stdout


def test_show_of_a_folder_of_answers(tmp_path: Path) -> None:
    folder = tmp_path / "pcs"
    folder.mkdir()
    for name, raw in FOLDER.items():
        (folder / name).write_bytes(raw)
    at = ["--at", "2026-12-01T00:00:00Z", "--json"]
    facts = json.loads(run("show", folder, *at, *SIMULATION).stdout)
    assert (facts["tee"], facts["fmspc"], facts["fetched"]) == ("sgx", "00606a000000", None)
    assert (facts["tdx_module"], facts["tdx_module_identities"]) == (None, [])


@pytest.mark.parametrize("extra", ["notes.txt", "tcb.json"])
def test_show_of_a_folder_that_is_none(tmp_path: Path, extra: str) -> None:
    folder = tmp_path / "pcs"
    folder.mkdir()
    for name, raw in {**FOLDER, extra: b"x"}.items():
        if name != "rootcacrl.headers":
            (folder / name).write_bytes(raw)
    result = run("show", folder, "--json", *SIMULATION, status=Exit.UNUSABLE)
    error = json.loads(result.stdout)["error"]
    assert (error["code"], extra in error["message"]) == ("response-file-unexpected", True)


def test_show_takes_a_file_of_several_bundles_apart(tmp_path: Path) -> None:
    """Each is then a bundle like any other; none is written over another file."""
    file, folder = tmp_path / "platform_collaterals.json", tmp_path / "apart"
    file.write_text(json.dumps(platform_collaterals(WORLD)), "utf-8")
    words = ["show", file, "--split", folder, "--at", "2026-12-01T00:00:00Z", "--json", *ROOT]
    lines = [json.loads(line) for line in run(*words).stdout.splitlines()]
    assert [Path(line["written"]).name for line in lines] == [
        "sgx-00606a000000-platform.json",
        "tdx-00606a000000-platform.json",
    ]
    assert kept_bundle(folder / "sgx-00606a000000-platform.json") == WORLD.collateral()
    run(*words, status=Exit.UNUSABLE)


def test_show_does_not_let_a_remark_colour_the_terminal(tmp_path: Path) -> None:
    """Nobody signed when a bundle was fetched: it is text of whoever wrote the file."""
    members = json.loads(PUBLISHED.raw) | {"fetched": "\x1b[2J[red]never[/]"}
    file = tmp_path / "b.json"
    file.write_text(json.dumps(members), "utf-8")
    result = run("show", file, "--at", "2026-12-01T00:00:00Z", *SIMULATION)
    assert "\x1b[2J" not in result.stdout
    assert "[red]never[/]" in result.stdout


@pytest.mark.parametrize("command", ["fetch", "show"])
def test_help_has_an_example(command: str) -> None:
    assert f"ratls collateral {command}" in run(command, "--help").stdout
