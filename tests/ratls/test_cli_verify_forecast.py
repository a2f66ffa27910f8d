"""`ratls verify forecast`, as an operator of many platforms and a monitoring job type it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from policy.document import digest_text
from ratls.cli_verify import app
from ratls.options import parse_span
from simulation.documents import instant, tcb_level
from simulation.intel import root_name
from tests.support.intel import AT, World
from tests.support.parties import Consortium, known_digest
from tests.support.refusal import count_refusal
from tests.support.typed import Folder, typed
from verifier.quote import Quote

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
HOUR = timedelta(hours=1)
W = World.create()
OTHER = W.with_platform()  # a second machine of the same kind


@dataclass
class Desk(Folder):
    """A folder with what an operator has there, and the command."""

    parties: Consortium

    @classmethod
    def create(cls, folder: Path) -> Desk:
        parties = Consortium.create(
            AT,
            root=root_name(W.intel.root),
            mr_enclave=str(Quote.parse(W.quote()).report.mr_enclave),
            machines=[f"ppid:{W.platform.tcb.ppid.hex()}"],
        )
        return cls(folder, parties)

    def quote(self, name: str = "q.bin", w: World = W, **altered: Any) -> str:
        return self.file(name, w.quote(**({"isv_prod_id": 0} | altered)))

    def bundle(self, name: str = "collateral.json", w: World = W, **altered: Any) -> str:
        return self.file(name, w.collateral(**altered).raw)

    def agreed(self, texts: Sequence[str]) -> str:
        """An agreement file of these versions, each signed by everybody."""
        agreement = None
        for text in texts:
            agreement = self.parties.complete(text, before=agreement)
        assert agreement is not None
        return self.file("agreed.json", agreement.agreement.encode())

    def run(self, *arguments: str, exit_status: int = 0, at: datetime = AT) -> Any:
        common = ["forecast", *arguments, "--at", instant(at), "--allow-simulation"]
        if "--collateral" not in arguments:
            common += ["--collateral", self.bundle()]
        if "--root" not in arguments and "--policy" not in arguments:
            common += ["--root", root_name(W.intel.root)]
        if "--policy" in arguments:
            file = Path(arguments[arguments.index("--policy") + 1])
            common += ["--digest", known_digest(file)] if file.exists() else []
        return typed(app, common, exit_status)

    def lines(self, *arguments: str, **options: Any) -> list[dict[str, Any]]:
        result = self.run(*arguments, "--json", **options)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def json(self, *arguments: str, **options: Any) -> dict[str, Any]:
        (told,) = self.lines(*arguments, **options)
        return told


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.create(tmp_path)


def kinds(told: dict[str, Any]) -> list[str]:
    return [reason["kind"] for reason in told["reasons"]]


# What is said


def test_line_for_a_program_names_dates_platform_and_fix(desk: Desk) -> None:
    told = desk.json(desk.quote())
    assert (told["verdict"], told["mode"]) == ("accepted", "simulation")
    assert (told["at"], told["stops"], told["days_left"]) == (
        instant(AT),
        instant(AT + 30 * DAY),
        30,
    )
    assert told["stops_even_if_renewed"] == instant(AT + 7 * 365 * DAY + SECOND)
    assert told["platform"]["ppid"] == W.platform.tcb.ppid.hex()
    assert told["platform"]["pck_serial"] == f"{W.platform.pck.serial:040x}"
    assert kinds(told)[0] == "tcb-info-ends"
    assert all(reason["fix"] for reason in told["reasons"])
    assert told["error"]["code"] == "collateral-not-current"


def test_quotes_are_sorted_by_the_day_on_which_they_stop(desk: Desk) -> None:
    """What fails today first, then what ends first; equal dates by what no fetch renews."""
    aging = W.with_platform(pck=lambda c: replace(c, not_after=AT + 9 * DAY))
    last = desk.quote("a-last.bin")
    first = desk.quote("z-first.bin", aging)
    debug = desk.quote("debug.bin", OTHER, flags=0x7)
    short = desk.file("short.bin", b"\3\0")
    absent = str(desk.folder / "absent.bin")
    told = desk.lines(last, first, debug, short, absent, exit_status=6)
    assert [Path(line["file"]).name for line in told] == [
        "absent.bin",
        "debug.bin",
        "short.bin",
        "z-first.bin",
        "a-last.bin",
    ]
    assert {line["verdict"] for line in told[:3]} == {"refused"}
    assert {kinds(line)[0] for line in told[:3]} == {"already-refused"}
    assert kinds(told[3])[0] == "certificate-ends"
    assert told[3]["stops"] == told[3]["stops_even_if_renewed"] == instant(AT + 9 * DAY + SECOND)


def test_table_for_people_has_one_line_for_each_platform(desk: Desk) -> None:
    quotes = [desk.quote("one.bin"), desk.quote("two.bin", report_data=bytes(64))]
    other = desk.quote("other.bin", OTHER)
    debug = desk.quote("debug.bin", flags=0x7)
    output = desk.run(*quotes, other, debug, "--within", "1d", exit_status=6).output
    lines = [line for line in output.splitlines() if "SIMULATION" not in line]
    assert len(lines) == 1 + 3 + 1
    assert lines[0].split()[0] == "STOPS"
    assert "refused" in lines[1]
    assert "to do: build, sign and start the enclave without debug" in lines[1]
    assert sum("and 1 more" in line for line in lines) == 1
    assert all(W.platform.tcb.fmspc.hex() in line for line in lines[1:4])
    assert "quotes: 4 of 2 platforms; fail today: 1; may stop within 1d: 0" in lines[4]


def test_files_of_which_nothing_is_known_have_nothing_in_common(desk: Desk) -> None:
    """One line for two damaged files would name one of them, and the other would stay damaged."""
    files = [desk.file(name, b"\3\0") for name in ("a.bin", "b.bin")]
    output = desk.run(*files, exit_status=3).stdout
    assert len(output.splitlines()) == 4
    assert "more" not in output


def test_file_name_that_would_forge_a_line(desk: Desk) -> None:
    name = desk.quote("q\n2099-01-01T00:00:00Z  all is well.bin")
    lines = desk.run(name).stdout.splitlines()
    assert len(lines) == 3
    assert "\\n2099" in lines[1]


@pytest.mark.parametrize(
    ("end", "left"), [(3 * DAY, "3d"), (DAY, "24h"), (HOUR, "60m"), (SECOND, "0m")]
)
def test_time_left_in_the_unit_that_fits(desk: Desk, end: timedelta, left: str) -> None:
    bundle = desk.bundle(pck_crl=lambda c: replace(c, next_update=AT + end))
    lines = desk.run(desk.quote(), "--collateral", bundle).stdout.splitlines()
    assert lines[1].split()[1] == left


# What a monitoring job reads


@pytest.mark.parametrize(
    ("within", "status"), [("29d", 0), ("30d", 6), ("719h", 0), ("720h", 6), ("43200m", 6)]
)
def test_exit_status_says_whether_one_stops_in_time(desk: Desk, within: str, status: int) -> None:
    desk.json(desk.quote(), "--within", within, exit_status=status)
    desk.run(desk.quote(), "--within", within, exit_status=status)


def test_without_a_limit_all_that_passes_today_is_well(desk: Desk) -> None:
    desk.json(desk.quote(), at=AT + 30 * DAY - SECOND)
    told = desk.json(desk.quote(), at=AT + 30 * DAY, exit_status=5)
    assert (told["verdict"], told["stops"]) == ("undecided", instant(AT + 30 * DAY))


def test_worst_of_several_quotes_is_the_status(desk: Desk) -> None:
    good, debug = desk.quote(), desk.quote("debug.bin", flags=0x7)
    genuine = W.quote()
    forged = desk.file("forged.bin", genuine[:100] + b"\x99" + genuine[101:])
    short = desk.file("short.bin", b"\3\0")
    desk.lines(good, short, exit_status=3)
    desk.lines(good, short, "--within", "99d", exit_status=6)
    desk.lines(debug, short, exit_status=6)
    aged = desk.quote("aged.bin", W.with_platform(pck=lambda c: replace(c, not_after=AT - DAY)))
    desk.lines(aged, short, good, exit_status=5)
    desk.lines(aged, debug, short, good, exit_status=6)
    desk.lines(debug, good, forged, short, "--within", "99d", exit_status=4)


@pytest.mark.parametrize(
    "text",
    ["14", "d", "-1d", "0d", "014d", "1.5d", "14 d", "14D", "2w", "100000d", "1d\n", "\u0661d", ""],
)
def test_limit_that_means_nothing_is_a_usage_error(desk: Desk, text: str) -> None:
    """`14` could be days or hours: a job that guesses wakes nobody up."""
    desk.run(desk.quote(), "--within", text, exit_status=2)
    with pytest.raises(typer.BadParameter):
        parse_span(text, "--within")


@pytest.mark.parametrize(
    ("text", "limit"), [("14d", 14 * DAY), ("36h", 1.5 * DAY), ("90m", 1.5 * HOUR)]
)
def test_limit_with_its_unit(text: str, limit: timedelta) -> None:
    assert parse_span(text, "--within") == limit


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--accept-status", "Perfect"], 2),
        (["--policy", "p", "--accept-status", "OutOfDate"], 2),
        (["--accept-status", "Revoked"], 3),
        (["--collateral", "/nowhere"], 3),
        (["--early", "/nowhere"], 3),
    ],
)
def test_options_that_mean_nothing(desk: Desk, arguments: list[str], status: int) -> None:
    desk.run(desk.quote(), *arguments, exit_status=status)


def test_newer_quotes_are_read_where_that_is_asked_for(desk: Desk) -> None:
    quote = desk.quote(version=4)
    told = desk.json(quote, exit_status=3)
    assert told["error"]["code"] == "quote-unsupported"
    assert desk.json(quote, "--newer-sgx")["verdict"] == "accepted"


# The early collateral


def early(desk: Desk, status: str = "OutOfDate", number: int = 22) -> str:
    tcb = W.platform.tcb
    level = tcb_level(tcb.components, tcb.pce_svn, date=AT, status=status)
    members = {"tcbLevels": [level], "tcbEvaluationDataNumber": number}
    return desk.bundle("early.json", tcb_info=lambda document: document | members)


def test_status_that_is_announced_and_options_that_accept_it(desk: Desk) -> None:
    quote = desk.quote()
    told = desk.json(quote, "--early", early(desk), "--within", "1m", exit_status=6)
    assert kinds(told)[0] == "early-status"
    assert told["stops_even_if_renewed"] == told["stops"] == instant(AT + 30 * DAY)
    assert told["early"]["tcb_status"] == "OutOfDate"
    assert told["early"]["error"]["code"] == "tcb-status-unaccepted"
    told = desk.json(quote, "--early", early(desk), "--accept-status", "OutOfDate")
    assert kinds(told)[0] == "tcb-info-ends"
    assert told["early"] == {
        "accepted": True,
        "tcb_status": "OutOfDate",
        "tcb_evaluation_data_number": 21,
        "advisory_ids": [],
        "error": None,
    }


def test_out_of_date_since_a_day(desk: Desk) -> None:
    """The level is of the instant: a day later, nothing as old is accepted any more."""
    tcb = W.platform.tcb
    day = AT - 90 * DAY  # older than the level of the quoting enclave
    level = tcb_level(tcb.components, tcb.pce_svn, date=day, status="OutOfDate")
    bundle = desk.bundle("old.json", tcb_info=lambda d: d | {"tcbLevels": [level]})
    words = [desk.quote(), "--collateral", bundle, "--accept-out-of-date-since"]
    assert desk.json(*words, f"{day:%Y-%m-%d}")["verdict"] == "accepted"
    told = desk.json(*words, f"{day + DAY:%Y-%m-%d}", exit_status=6)
    assert told["error"]["code"] == "tcb-out-of-date-too-long"


def test_what_is_behind_is_told_by_platform(desk: Desk) -> None:
    count_refusal()
    tcb = W.platform.tcb
    newest = tcb_level((99, *tcb.components[1:]), tcb.pce_svn, date=AT)
    level = tcb_level(tcb.components, tcb.pce_svn, date=AT, status="OutOfDate")
    bundle = desk.bundle("old.json", tcb_info=lambda d: d | {"tcbLevels": [newest, level]})
    words = [desk.quote("a.bin"), desk.quote("b.bin"), "--collateral", bundle]
    text = desk.run(*words, exit_status=6).stdout
    assert text.count("Early Microcode Update (SGX component 1): SVN 15, needs 99") == 1
    assert text.count(f"PPID {tcb.ppid.hex()}") == 2
    for told in desk.lines(*words, exit_status=6):
        platform, enclave = told["parts"]
        assert [short["needs"] for short in platform["short"]] == [99]
        assert (enclave["status"], enclave["short"]) == ("UpToDate", [])


def test_folder_of_quotes(desk: Desk) -> None:
    """As `verify quote`: the files in it; an empty folder is no good news."""
    quotes = desk.folder / "quotes"
    quotes.mkdir()
    told = desk.json(str(quotes), exit_status=3)
    assert told["error"]["code"] == "file-unreadable"
    for name in ("b.bin", "a.bin"):
        (quotes / name).write_bytes(W.quote(isv_prod_id=0))
    assert [Path(line["file"]).name for line in desk.lines(str(quotes))] == ["a.bin", "b.bin"]


def test_early_file_of_an_older_day_is_refused(desk: Desk) -> None:
    told = desk.json(desk.quote(), "--early", early(desk, "UpToDate", 20), exit_status=3)
    assert told["error"]["code"] == "early-collateral-unfit"
    desk.json(desk.quote(), "--early", early(desk, "UpToDate", 21))


# A policy


def test_policy_that_will_refuse_the_newest_level_says_so_ahead(desk: Desk) -> None:
    """Policies accept an advisory by listing it, also beside `UpToDate`."""
    count_refusal()
    tcb = W.platform.tcb
    newest = tcb_level(
        (99, *tcb.components[1:]), tcb.pce_svn, date=AT, advisories=["INTEL-SA-00009"]
    )
    own = tcb_level(tcb.components, tcb.pce_svn, date=AT)
    bundle = desk.bundle("ahead.json", tcb_info=lambda d: d | {"tcbLevels": [newest, own]})
    words = [desk.quote(), "--collateral", bundle]
    policy = ["--policy", desk.agreed([desk.parties.policy_text()])]
    (level,) = desk.json(*words, *policy)["announced"]
    assert (level["thing"], level["advisory_ids"]) == (
        "the newest level of the platform",
        ["INTEL-SA-00009"],
    )
    assert "INTEL-SA-00009, not among the advisories" in desk.run(*words, *policy).stdout
    listed = desk.parties.policy_text().replace(
        "accepted_advisories = []", 'accepted_advisories = ["INTEL-SA-00009"]'
    )
    assert desk.json(*words, "--policy", desk.agreed([listed]))["announced"] == []
    assert desk.json(*words)["announced"] == []  # without a policy it informs


def test_dates_that_a_policy_adds(desk: Desk) -> None:
    """Its own end, and its patience; a draft and an agreement answer alike."""
    text = desk.parties.policy_text(
        expires=instant(AT + 20 * DAY),
        replace=[("max_collateral_age_days = 30", "max_collateral_age_days = 10")],
    )
    for policy in (desk.agreed([text]), desk.file("draft.toml", text.encode())):
        told = desk.json(desk.quote(), "--policy", policy)
        assert kinds(told)[:3] == ["collateral-age", "collateral-age", "policy-ends"]
        assert told["stops"] == instant(AT + 10 * DAY + SECOND)
        assert told["stops_even_if_renewed"] == instant(AT + 20 * DAY)
        assert told["error"]["code"] == "policy-collateral-age"


@pytest.mark.parametrize(
    ("days", "patience", "stop"),
    [
        (7, 30, AT + 7 * DAY),
        (20, 3, AT + 3 * DAY + SECOND),
        (60, 30, AT + 30 * DAY),
        (60, 29, AT + 29 * DAY + SECOND),
    ],
)
def test_the_second_before_is_admitted_and_the_next_is_not(
    desk: Desk, days: int, patience: int, stop: datetime
) -> None:
    text = desk.parties.policy_text(
        expires=instant(AT + days * DAY),
        replace=[("max_collateral_age_days = 30", f"max_collateral_age_days = {patience}")],
    )
    policy, quote = desk.agreed([text]), desk.quote()
    told = desk.json(quote, "--policy", policy)
    assert told["stops"] == instant(stop)
    base = ["quote", quote, "--collateral", desk.bundle(), "--policy", policy, "--allow-simulation"]
    base += ["--digest", known_digest(policy)]
    count_refusal()
    for at, passes in ((stop - SECOND, True), (stop, False)):
        result = CliRunner().invoke(app, [*base, "--at", instant(at)])
        assert (result.exit_code == 0) is passes, result.output


def two_versions(desk: Desk, begins: datetime, *changes: tuple[str, str]) -> str:
    """The policy of today until AT + 30 days, and one with changes from `begins` on."""
    first = desk.parties.policy_text()
    second = desk.parties.policy_text(
        version="2",
        previous=f'"{digest_text(desk.parties.policy().digest)}"',
        not_before=instant(begins),
        expires=instant(AT + 90 * DAY),
        replace=changes,
    )
    return desk.agreed([first, second])


def test_next_version_of_the_policy_asks_for_more(desk: Desk) -> None:
    """The version in force today admits the platform for weeks, the one after it never will."""
    begins = AT + 4 * DAY
    floor = ("evaluation_data_number = 1\n", "evaluation_data_number = 22\n")
    policy = two_versions(desk, begins, floor)
    told = desk.json(desk.quote(), "--policy", policy, "--within", "4d", exit_status=6)
    assert kinds(told)[0] == "policy-changes"
    assert told["stops"] == told["stops_even_if_renewed"] == instant(begins)
    assert told["error"]["code"] == "policy-evaluation-number"
    desk.json(desk.quote(), "--policy", policy, "--within", "3d")


def test_next_version_of_the_policy_has_less_patience(desk: Desk) -> None:
    begins = AT + 4 * DAY
    patience = ("max_collateral_age_days = 30", "max_collateral_age_days = 2")
    policy = two_versions(desk, begins, patience)
    told = desk.json(desk.quote(), "--policy", policy)
    assert (kinds(told)[0], told["stops"]) == ("policy-changes", instant(begins))
    assert told["error"]["code"] == "policy-collateral-age"
    assert told["stops_even_if_renewed"] == instant(AT + 90 * DAY)


def test_next_version_of_the_policy_that_admits_the_platform_too(desk: Desk) -> None:
    """The end of the version in force is not the end, once another one follows it in time."""
    begins = AT + 4 * DAY
    policy = two_versions(desk, begins)
    told = desk.json(desk.quote(), "--policy", policy)
    assert told["stops"] == instant(AT + 30 * DAY)
    assert kinds(told)[0] == "tcb-info-ends"
    assert told["stops_even_if_renewed"] == instant(AT + 90 * DAY)
    assert "policy-changes" not in kinds(told)


def test_gap_between_two_versions_of_the_policy(desk: Desk) -> None:
    """Nor does the patience of the second count while the first is in force."""
    begins = AT + 40 * DAY
    patience = ("max_collateral_age_days = 30", "max_collateral_age_days = 35")
    told = desk.json(desk.quote(), "--policy", two_versions(desk, begins, patience))
    ages = {r["date"] for r in told["reasons"] if r["kind"] == "collateral-age"}
    assert ages == {instant(AT + 30 * DAY + SECOND)}
    assert told["stops_even_if_renewed"] == instant(AT + 30 * DAY)
    assert kinds(told)[0] == "policy-ends"


def test_machine_that_the_policy_does_not_list(desk: Desk) -> None:
    policy = desk.agreed([desk.parties.policy_text()])
    files = [desk.quote("listed.bin"), desk.quote("other.bin", OTHER)]
    told = desk.lines(*files, "--policy", policy, exit_status=6)
    assert [line["verdict"] for line in told] == ["refused", "accepted"]
    assert told[0]["error"]["code"] == "machine-not-listed"


def test_policy_that_has_not_begun(desk: Desk) -> None:
    policy = desk.agreed([desk.parties.policy_text(not_before=instant(AT + DAY))])
    told = desk.json(desk.quote(), "--policy", policy, exit_status=6)
    assert told["error"]["code"] == "policy-not-yet-valid"
    desk.json(desk.quote(), "--policy", policy, at=AT + DAY)


def test_policy_that_has_ended(desk: Desk) -> None:
    policy = desk.agreed([desk.parties.policy_text(expires=instant(AT))])
    told = desk.json(desk.quote(), "--policy", policy, exit_status=6)
    assert told["error"]["code"] == "policy-expired"
