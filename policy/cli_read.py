"""`ratls policy show`, `diff` and `status`: what is agreed, what changes, and who signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import AgreementFile, Json, KnownState, known_state

if TYPE_CHECKING:
    from rich.console import Console

    from verifier.shell import Shell

PolicyOrAgreement = Annotated[
    Path, typer.Argument(metavar="FILE", help="A policy.toml or an agreement.")
]


def show(
    file: PolicyOrAgreement,
    fields: Annotated[
        bool, typer.Option("--fields", help="Every value of the document, as tables.")
    ] = False,
    json: Json = False,
) -> None:
    """Say in plain sentences what each party gives, receives and may do.

    They are made from the policy as it was read, and not from its text: comments say nothing.

    Example: ratls policy show study.agreement.json
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_policy
        from policy.sentences import markdown, sections
        from policy.show import as_json, tables

        shown = read_policy(file)
        shell.warn_simulation(shown.platform.simulated)
        parts = sections(shown)
        if json:
            said = [{"heading": p.heading, "sentences": list(p.sentences)} for p in parts]
            shell.answer(as_json(shown) | {"says": said}, "")
        elif fields:
            for table in tables(shown):
                shell.out.print(table)
        else:
            _print(shell, markdown(parts))


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A policy.toml or an agreement.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another one.")],
    json: Json = False,
) -> None:
    """Say what NEW allows that OLD did not, for whom, and what it no longer allows.

    New permissions come first. The answer is Markdown, to be pasted into a review.

    Example: ratls policy diff study.agreement.json study-2.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement_file import read_policy
        from policy.difference import differences, markdown
        from policy.document import digest_text

        before, after = read_policy(old), read_policy(new)
        shell.warn_simulation(before.platform.simulated or after.platform.simulated)
        found = differences(before, after)
        if json:
            facts = {"old": digest_text(before.digest), "new": digest_text(after.digest)}
            shell.answer(facts | {"differences": [d.as_json() for d in found]}, "")
        else:
            _print(shell, markdown(before, after, found))


def status(
    file: AgreementFile,
    party_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="A party.toml as that party gave it to you: are its keys those in the policy? "
            "May be repeated."
        ),
    ] = None,
    state: KnownState = None,
    json: Json = False,
) -> None:
    """Say who signed, who is missing, and whose signature or key does not match.

    A signature that is wrong is shown and refused (exit status 6). Whether the keys belong to the
    parties is known only for those whose own file is given with --party-file.

    Example: ratls policy status study.agreement.json --party-file bob/party.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.agreement import FILE_CAP
        from policy.agreement_file import read_agreement
        from policy.merging import KeysDiffer, compare_keys, signatures_in
        from policy.party import read_party_file
        from policy.show import agreement_facts, signatures_table, signatures_text, signers_table
        from policy.state import StudyState
        from verifier.errors import RatlsError, placed
        from verifier.files import read_file
        from verifier.modes import known_roots

        given = [read_party_file(path) for path in party_file or ()]
        content = read_file(file, cap=FILE_CAP)
        with placed(str(file)):
            policy, signatures = signatures_in(content, known_roots())
        shell.warn_simulation(policy.platform.simulated)
        compared = compare_keys(policy, given)
        refusal: RatlsError | None = None
        facts: dict[str, object] = {"signatures": [s.as_json() for s in signatures]}
        facts["keys"] = [c.as_json() for c in compared]
        lines = [c.text for c in compared]
        try:
            agreement = read_agreement(file)
        except RatlsError as wrong:
            refusal = wrong
            if not json:
                shell.out.print(signatures_table(signatures))
        else:
            facts |= agreement_facts(agreement)
            lines.insert(0, signatures_text(agreement))
            if not json:
                shell.out.print(signers_table(agreement))
        if refusal is None and any(not c.same for c in compared):
            refusal = KeysDiffer(
                str(file),
                expected="the keys that the parties gave",
                found="others for " + ", ".join(c.party for c in compared if not c.same),
            )
        if refusal is None and (folder := known_state(state)) is not None:
            try:
                StudyState(folder).standing().require_trusted(policy)
            except RatlsError as distrusted:
                refusal = distrusted
        facts["error"] = refusal.as_json() if refusal else None
        shell.answer(facts, "\n".join(lines))
        shell.end_with(refusal)


def wrapped(console: Console, text: str) -> str:
    """At the width of a terminal; whole lines in a pipe or file, where programs look for them."""
    import textwrap

    if not console.is_terminal:
        return text
    return "\n".join(
        textwrap.fill(
            line,
            max(40, console.width),
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def _print(shell: Shell, text: str) -> None:
    shell.out.print(wrapped(shell.out, text), markup=False)
