"""`ratls policy lint`: all that is wrong with a policy, left open in it, or unwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import ExpectLibpal, ExpectLibsysdb, Json, Libpal, Measuring

if TYPE_CHECKING:
    from policy.advice import Advice, PolicyUnwise
    from policy.document import Policy, PolicyProblems
    from verifier.parts import Announced
    from verifier.shell import Shell

PolicyToml = Annotated[Path, typer.Argument(metavar="FILE", help="A policy.toml.")]
Bundles = Annotated[
    list[Path] | None,
    typer.Option(
        help="Announce current levels in this bundle that the policy refuses for an advisory; "
        "may be repeated."
    ),
]
Manifest = Annotated[
    Path | None,
    typer.Option(metavar="SIGNED", help="It must name the enclave of this signed manifest."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse what is only advised against, too.")]


def lint(
    file: PolicyToml,
    collateral: Bundles = None,
    manifest: Manifest = None,
    libpal: Libpal = None,
    expect_libpal: ExpectLibpal = None,
    expect_libsysdb: ExpectLibsysdb = None,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """List every problem of a policy with its path, line and fix. If there is none, say for each
    computation what its result tells about persons, where the policy leaves something open, and
    what is legal and unwise.

    Intel attaches advisories to levels that are UpToDate, too; a policy accepts those that it lists
    in accepted_advisories, and refuses the others. With --collateral, such levels are announced.

    With --manifest the enclave is measured, and must be one that the policy names.

    Example: ratls policy lint policy.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.advice import advices
        from policy.agreement_file import read_policy
        from policy.document import PolicyProblems
        from policy.sql_check import require_statements

        try:
            read = read_policy(file)
            require_statements(read)
        except PolicyProblems as refusal:
            _answer_problems(shell, file, refusal)
            raise typer.Exit(int(refusal.exit_status)) from refusal
        unwise, ahead = advices(read), _announced(read, collateral or [])
        measuring = Measuring(libpal, expect_libpal, expect_libsysdb)
        named = [] if manifest is None else [_named(read, manifest, measuring)]
        ended = _too_unwise(file, unwise) if strict else None
        _answer_remarks(shell, file, read, named, unwise, ahead, ended)
        shell.end_with(ended)


def _answer_problems(shell: Shell, file: Path, refusal: PolicyProblems) -> None:
    """All at once; of a blank that was left, what belongs there."""
    from policy.draft import blank_fix, blank_lines
    from verifier.files import read_file

    problems = [replace(p, fix=blank_fix(p.found) or p.fix) for p in refusal.problems]
    blanks = blank_lines(read_file(file).decode("utf-8", "replace"))
    lines = [*map(str, problems)]
    if blanks:
        lines.append(f"blanks to fill in, in lines {', '.join(map(str, blanks))}")
    members = ("path", "line", "expected", "found", "fix")
    shell.answer(
        {
            "file": str(file),
            "problems": [{name: getattr(p, name) for name in members} for p in problems],
            "blank_lines": blanks,
            "error": refusal.as_json(),
        },
        "\n".join(f"{file}: {line}" for line in lines),
    )


def _answer_remarks(
    shell: Shell,
    file: Path,
    read: Policy,
    named: Sequence[str],
    unwise: tuple[Advice, ...],
    ahead: Sequence[tuple[str, Announced]],
    ended: PolicyUnwise | None,
) -> None:
    """Of a policy without problems: what results tell, what it leaves open, what is unwise."""
    from policy.computations import DECLARED
    from policy.document import digest_text
    from policy.sentences import together
    from policy.show import notes

    digest, noted, told = digest_text(read.digest), notes(read, file.parent), [*together(read)]
    for advice in unwise:
        noted.pop(advice.path, None)  # which says the same, and why
    says = {c.id: f"{c.run} says {DECLARED[c.run].says}" for c in read.computation}
    lines = [
        *named,
        *(f"{name}: {text}" for name, text in (says | noted).items()),
        *told,
        *(f"{place}: {level.text}" for place, level in ahead),
        *(f"unwise: {advice}" for advice in unwise),
    ]
    shell.answer(
        {
            "file": str(file),
            "problems": [],
            "digest": digest,
            "says": says,
            "notes": noted,
            "together": told,
            "announced": [{"collateral": place, **level.as_json()} for place, level in ahead],
            "advice": [advice.as_json() for advice in unwise],
            "error": ended and ended.as_json(),
        },
        "\n  ".join([f"{file}: no problems, {digest}", *lines]),
    )


def _named(policy: Policy, manifest: Path, measuring: Measuring) -> str:
    """Which enclave of the policy a signed manifest is. Raises: what measuring raises; another."""
    from policy.measured import require_agreed

    return f"{manifest} is the enclave {require_agreed(policy, *measuring.measure(manifest))}"


def _too_unwise(file: Path, unwise: tuple[Advice, ...]) -> PolicyUnwise | None:
    """The refusal of what is legal and unwise; None where nothing is."""
    from policy.advice import PolicyUnwise, require_wise

    try:
        require_wise(str(file), unwise)
    except PolicyUnwise as refusal:
        return refusal
    return None


def _announced(policy: Policy, files: Sequence[Path]) -> list[tuple[str, Announced]]:
    """Current levels in these bundles that the policy would refuse; by the bundle's name."""
    if not files:
        return []
    from verifier.anchors import RootName
    from verifier.bundles import read_collateral
    from verifier.contents import Contents
    from verifier.errors import placed
    from verifier.parts import announced, levels_of

    roots = RootName.parse(policy.platform.root).anchors
    found = []
    for file in files:
        bundle = read_collateral(file)
        with placed(str(file)):
            contents = Contents.authenticate(bundle, roots)
        levels = announced(levels_of(contents), policy.platform.accepted_advisories)
        found += [(str(file), level) for level in levels]
    return found
