"""What commands take from the profile, what an option changes of that, and what it never gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ratls.cli import build, main
from ratls.profile import Profile
from ratls.profile_file import NAME, VARIABLE
from ratls.profile_options import FLAGS, TAKES
from tests.support.refusal import count_refusal
from tests.support.typed import typed

PROFILE = """\
study = "my-study"
party = "keys"
passphrase_file = "passphrase"
state = "state"
agreement = "policy.agreement.json"
[collateral]
sources = ["https://api.example"]
[scheduler]
address = "mailbox.example:7444"
certificate = "scheduler.crt"
[[enclave]]
name = "training"
address = "enclave.example:7443"
collateral = "collateral.json"
[[dataset]]
id = "train"
source = { kind = "csv", path = "rows.csv" }
[serve.enclave]
listen = "127.0.0.1:7443"
attester = "simulation:platform"
[serve.scheduler]
listen = "127.0.0.1:7444"
state = "mailbox"
"""
SECOND = """
[[enclave]]
name = "testing"
address = "other.example:7443"
collateral = "other.json"
[[dataset]]
id = "test"
source = { kind = "csv", path = "test.csv" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    write(tmp_path, PROFILE)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / NAME).write_text(text)
    (folder / NAME).chmod(0o600)


def parsed(*words: str) -> dict[str, Any]:
    """The values with which a command would be called."""
    context: Any = typer.main.get_command(build()).make_context("ratls", list(words))
    while hasattr(context.command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    params: dict[str, Any] = context.params
    return params


def refused_to_parse(*words: str) -> str:
    count_refusal()
    with pytest.raises(typer.BadParameter) as seen:
        parsed(*words)
    return seen.value.format_message()


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_the_table_names_commands_and_their_options() -> None:
    """A name that was changed there would silently take nothing."""
    known = dict(commands(typer.main.get_command(build())))
    for command, options in TAKES.items():
        assert set(options) <= {p.name for p in known[command].params}, command


def test_no_command_takes_permission_or_consent() -> None:
    """X02: both are typed each time, whatever stands in a file."""
    taken = {option for options in TAKES.values() for option in options}
    assert not taken & {"allow_simulation", "yes", "passphrase", "digest", "head", "root", "force"}


def test_a_release_with_three_words(folder: Path) -> None:
    params = parsed("provider", "push", "--task", "task.json")
    assert params["dataset"] == "train"
    assert params["source"] == Path(NAME)
    assert params["enclave"] == "enclave.example:7443"
    assert params["collateral"] == Path("collateral.json")
    assert params["scheduler"] == "mailbox.example:7444"
    assert params["scheduler_certificate"] == Path("scheduler.crt")
    assert (params["party"], params["state"]) == (Path("keys"), Path("state"))
    assert params["passphrase_file"] == Path("passphrase")
    assert params.get("allow_simulation", False) is False


def test_a_provider_describes_and_checks_its_rows(folder: Path) -> None:
    (folder / "passphrase").write_text("a long passphrase\n")
    words = ["party", "new", "alice-clinic", "--dir", "keys", "--passphrase-file", "passphrase"]
    typed(build(), words)
    params = parsed("provider", "describe", "--subject", "patient")
    assert (params["dataset"], params["owner"]) == ("train", "alice-clinic")
    assert params["source"] == Path(NAME)
    assert parsed("provider", "check")["named"] == ["train"]
    assert parsed("provider", "check", "../policy.toml")["named"] == ["../policy.toml", "train"]
    params = parsed("provider", "check", "policy.toml", "train")
    assert (params["named"], params["source"]) == (["policy.toml", "train"], Path(NAME))


def test_a_policy_is_checked_against_a_dataset_that_is_known(folder: Path) -> None:
    """The profile's, where it has one; of several, or of none, one is named."""
    (folder / NAME).write_text(f"{PROFILE}\n[[dataset]]\nid = 'b'\nsource = {{}}\n")
    assert "b" in refused_to_parse("provider", "check", "policy.toml")
    (folder / NAME).unlink()
    assert "DATASET" in refused_to_parse("provider", "check", "policy.toml", "--source", "a.csv")
    words = ("provider", "check", "policy.toml", "train", "--source", "a.csv")
    assert parsed(*words)["named"] == ["policy.toml", "train"]


def test_from_a_folder_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert parsed("task", "list")["party"] == Path("../keys")


def test_what_operators_type(folder: Path) -> None:
    enclave = parsed("enclave", "serve")
    assert enclave["agreement"] == Path("policy.agreement.json")
    assert (enclave["listen"], enclave["attester"]) == ("127.0.0.1:7443", "simulation:platform")
    scheduler = parsed("scheduler", "serve")
    assert scheduler["agreement"] == [Path("policy.agreement.json")]
    assert (scheduler["listen"], scheduler["state"]) == ("127.0.0.1:7444", Path("mailbox"))


def test_collateral_is_fetched_to_its_place(folder: Path) -> None:
    params = parsed("collateral", "fetch")
    assert params["enclaves"] == ["enclave.example:7443"]
    assert params["output"] == Path("collateral.json")
    assert params["sources"] == ["https://api.example"]


def test_collateral_of_a_quote_does_not_go_to_the_enclaves_place(folder: Path) -> None:
    """It may be of another machine, and would replace what releases are judged with."""
    for words in (["quote.bin"], ["--offline", "quote.bin"], ["--max-age", "14d", "-"]):
        assert "--output" in refused_to_parse("collateral", "fetch", *words)
    params = parsed("collateral", "fetch", "quote.bin", "-o", "other.json")
    assert not params["enclaves"]
    assert parsed("collateral", "fetch", "--max-age", "14d")["output"] == Path("collateral.json")
    words = ("--fmspc", "00606a000000", "--tee", "sgx")
    assert "--output" in refused_to_parse("collateral", "fetch", *words)


def test_a_server_elsewhere_has_other_collateral(folder: Path) -> None:
    words = ("verify", "server")
    assert parsed(*words)["address"] == "enclave.example:7443"
    assert parsed(*words)["collateral"] == Path("collateral.json")
    assert parsed(*words, "elsewhere.example:7443", "--timeout", "5")["collateral"] is None
    write(folder, PROFILE + SECOND)
    assert parsed(*words, "other.example:7443")["collateral"] == Path("other.json")
    assert "training or testing" in refused_to_parse(*words)


NAMED: dict[str, tuple[list[str], str, Any]] = {
    "verify server": (["verify", "server", "NAME"], "address", "other.example:7443"),
    "tunnel client": (["tunnel", "client", "NAME"], "to", "other.example:7443"),
    "collateral": (
        ["collateral", "fetch", "--enclave", "NAME"],
        "enclaves",
        ["other.example:7443"],
    ),
    "provider push": (
        ["provider", "push", "--task", "t", "--dataset", "train", "--enclave", "NAME"],
        "enclave",
        "other.example:7443",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_an_enclave_by_its_name_in_the_profile(folder: Path, case: str) -> None:
    """And no other name: it is told which there are."""
    words, option, address = NAMED[case]
    write(folder, PROFILE + SECOND)
    params = parsed(*(word.replace("NAME", "testing") for word in words))
    assert params[option] == address
    if case != "collateral":
        assert params["collateral"] == Path("other.json")
    told = refused_to_parse(*(word.replace("NAME", "tests") for word in words))
    assert "training or testing" in told


def test_rows_of_a_dataset_that_the_profile_does_not_have(folder: Path) -> None:
    """They are looked for in the profile, which says which it has."""
    params = parsed("provider", "push", "--task", "t", "--dataset", "other")
    assert params["source"] == Path(NAME)


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_flags_are_known_where_what_follows_them_counts(command: str) -> None:
    known = dict(commands(typer.main.get_command(build())))[command]
    flags = {o for p in known.params if getattr(p, "is_flag", False) for o in p.opts}
    assert flags - {"--help"} == FLAGS[command]


def test_an_option_overrides(folder: Path) -> None:
    assert parsed("task", "sign", "--computation", "c", "-o", "t", "--study", "o")["study"] == "o"
    assert parsed("provider", "journal", "show", "--state=s")["state"] == Path("s")


def test_another_party_brings_its_own_passphrase_and_state(folder: Path) -> None:
    """The state of one party must not record what another one accepted."""
    for words in (["--party", "bob"], ["--party=bob"]):
        params = parsed("policy", "accept", *words)
        assert (params["party"], params["state"]) == (Path("bob"), None)
        params = parsed("policy", "sign", "policy.toml", *words)
        assert params["passphrase_file"] is None


def test_another_scheduler_has_another_certificate(folder: Path) -> None:
    message = refused_to_parse("task", "list", "--scheduler", "other.example:7444")
    assert "--scheduler-certificate" in message
    params = parsed("task", "list", "--scheduler", "mailbox.example:7444")
    assert params["scheduler_certificate"] == Path("scheduler.crt")


def test_another_enclave_has_other_collateral(folder: Path) -> None:
    words = ("provider", "push", "--task", "t", "--enclave")
    assert "--collateral" in refused_to_parse(*words, "elsewhere.example:7443")
    write(folder, PROFILE + SECOND)
    params = parsed(*words, "other.example:7443", "--dataset", "test")
    assert params["collateral"] == Path("other.json")
    params = parsed(*words, "testing", "--dataset", "test")
    assert params["enclave"] == "other.example:7443"
    assert params["collateral"] == Path("other.json")
    assert "training or testing" in refused_to_parse(*words, "tasting", "--dataset", "test")


def test_which_of_two_is_not_guessed(folder: Path) -> None:
    write(folder, PROFILE + SECOND)
    assert "train or test" in refused_to_parse("provider", "push", "--task", "t")
    message = refused_to_parse("provider", "push", "--task", "t", "--dataset", "test")
    assert "training or testing" in message


def test_a_digest_is_compared_alone(folder: Path) -> None:
    """An auditor names it; a party of another study must not be asked, too."""
    assert parsed("policy", "verify", "a.json")["party"] == Path("keys")
    params = parsed("policy", "verify", "a.json", "--digest", "sha256:" + "0" * 64)
    assert params["party"] is None
    words = ("verify", "server", "--agreement", "a", "--digest", "sha256:" + "0" * 64)
    assert parsed(*words)["party"] is None


def test_quotes_are_judged_without_a_profile(folder: Path) -> None:
    """Neither their verdict nor their time depends on what stands around."""
    write(folder, "no TOML")
    params = parsed("verify", "quote", "quote.bin", "--collateral", "bundle.json")
    assert params["party"] is None
    assert not any(command.startswith(("verify quote", "verify forecast")) for command in TAKES)


def test_a_missing_option_could_stand_in_the_profile(folder: Path) -> None:
    (folder / NAME).unlink()
    count_refusal()
    said = CliRunner().invoke(build(), ["task", "list"])
    assert said.exit_code == 2
    assert "ratls.toml" in said.stderr
    assert "ratls config show task list" in said.stderr


@pytest.mark.parametrize("words", [["task", "list"], ["task", "list", "--json"]])
def test_a_profile_that_is_wrong(
    folder: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count_refusal()
    write(folder, PROFILE.replace("party = ", "partie = "))
    monkeypatch.setattr(sys, "argv", ["ratls", *words])
    with pytest.raises(SystemExit) as seen:
        main()
    assert seen.value.code == 3
    said = capsys.readouterr()
    if "--json" in words:
        assert json.loads(said.out)["error"]["code"] == "profile-malformed"
    else:
        assert "[profile-malformed]" in said.err
        assert "line 2" in said.err


def test_profile_is_named_before_the_command(folder: Path) -> None:
    (folder / "named.toml").write_text('party = "named"\n')
    params = parsed("--profile", "named.toml", "policy", "verify", "a.json")
    assert params["party"] == Path("named")


# The commands about it


def test_config_show_says_value_and_line(folder: Path) -> None:
    said = json.loads(typed(build(), ["config", "show", "--json"]).stdout)
    assert said["profile"] == NAME
    values = {row["name"]: row for row in said["values"]}
    assert values["scheduler.address"]["value"] == "mailbox.example:7444"
    assert values["scheduler.address"]["line"] == 9
    write(folder, PROFILE.replace('state = "state"\n', ""))
    text = typed(build(), ["config", "show"]).stdout
    assert "(default)" in next(line for line in text.splitlines() if " state " in line)


def test_config_show_of_one_command(folder: Path) -> None:
    text = typed(build(), ["config", "show", "provider", "push"]).stdout
    assert "enclave.example:7443" in text
    typed(build(), ["config", "show", "provider", "psh"], 2)


def test_config_show_without_a_profile(folder: Path) -> None:
    (folder / NAME).unlink()
    said = json.loads(typed(build(), ["config", "show", "--json"]).stdout)
    assert said["profile"] is None


@pytest.mark.parametrize("role", ["provider", "recipient", "operator"])
def test_init_makes_keys_and_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    folder = tmp_path / "bob-hospital"
    folder.mkdir(mode=0o700)
    (folder / "passphrase").write_text("a long passphrase\n")
    monkeypatch.chdir(folder)
    words = ["init", role, "--study", "s", "--passphrase-file", "passphrase"]
    made = json.loads(typed(build(), [*words, "--json"]).stdout)
    assert made["party"] == "bob-hospital"
    profile = Profile.read(Path(NAME))
    assert profile.passphrase_file == Path("passphrase")
    assert "a long passphrase" not in (folder / NAME).read_text()
    assert parsed("policy", "sign", "p.toml")["party"] == Path("keys")
    before = (folder / NAME).read_bytes()
    said = json.loads(typed(build(), [*words, "--json"], 3).stdout)
    assert said["error"]["code"] == "file-not-written"
    assert (folder / NAME).read_bytes() == before


def test_init_beside_keys_that_are_there(folder: Path) -> None:
    """They stay, and no profile is left that would refuse the next try."""
    (folder / "passphrase").write_text("a long passphrase\n")
    words = ["init", "provider", "--study", "s", "--passphrase-file", "passphrase", "--dir", "new"]
    theirs = folder / "new" / "keys" / "party.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    typed(build(), words, 3)
    assert theirs.read_text() == "theirs"
    assert not (folder / "new" / NAME).exists()
    theirs.unlink()
    typed(build(), words)
    typed(build(), [*words[:-1], "made-for-it"])
    assert (folder / "made-for-it" / NAME).exists()


def test_init_makes_nothing_for_a_study_without_a_name(folder: Path) -> None:
    (folder / "passphrase").write_text("a long passphrase\n")
    words = ["init", "provider", "--study", "My Study", "--dir", "new"]
    typed(build(), [*words, "--passphrase-file", "passphrase"], 3)
    assert not (folder / "new").exists()


def test_explain_knows_the_enclaves_codes() -> None:
    """A party sees them, and may not have the enclave's packages."""
    said = typed(build(), ["explain", "[batches-exceeded]"]).stdout
    assert "enclave" in said
    assert "to do" in said
    wrong = typed(build(), ["explain", "batches-exceded", "--json"], 3).stdout
    assert "batches-exceeded" in json.loads(wrong)["error"]["message"]


def test_the_help_is_in_sections() -> None:
    text = typed(build(), ["--help"]).stdout
    places = [text.index(f"\n{title}:\n") for title in ("Begin", "Agree", "Verify", "Operate")]
    assert places == sorted(places)
    assert "More:" not in text, "a command stands in no section of ratls.cli"
    assert "--install-completion" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("ratls pol", "policy"), ("ratls task s", "submit"), ("ratls ex", "explain")],
)
def test_a_shell_completes_commands(folder: Path, words: str, wanted: str) -> None:
    write(folder, "no TOML")  # nothing is read for it
    asked = {"_RATLS_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(words.count(" "))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['ratls']; from ratls.cli import main; main()",
        ],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert wanted in done.stdout.split()
