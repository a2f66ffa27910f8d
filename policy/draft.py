"""A first policy.toml: known values are filled in, the rest are blanks: "<64 hex>".

Its text is `draft.toml`, where a word after `$` stands for a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from policy.errors import PolicyFormatError
from policy.fields import Strict
from policy.problems import PROBLEMS_CAP, Problem
from policy.sections import Computation, Dataset, Party
from policy.show_computations import block, named
from policy.statement import instant_text
from policy.syntax import TEXT_CAP, read_toml
from policy.trust_domain import REGISTERS
from verifier.files import read_file
from verifier.quote import EnclaveReport
from verifier.td import TdReport

PLACEHOLDER = "<64 hex>"
_BLANK = re.compile(r'"<[^"<>]*>"')


class Rows(Protocol):
    """What `--schema-from` finds out about a table."""

    @property
    def remarks(self) -> Sequence[str]:
        """What its owner should know."""

    def block(self, id_: str, owner: str) -> str:
        """A `[[dataset]]` with its columns."""


def draft_policy(
    *,
    study: str,
    party_blocks: Sequence[str],
    enclave: str,
    root: str,
    machines: Sequence[str],
    not_before: datetime,
    expires: datetime,
    datasets: str,
    computations: str,
) -> str:
    """The text of a draft. `lint` refuses blanks, `"<…>"`, that were not filled in."""
    template = Template(files("policy").joinpath("draft.toml").read_text("utf-8"))
    values = {
        "study": study,
        "not_before": instant_text(not_before),
        "expires": instant_text(expires),
        "parties": "\n".join(party_blocks),
        "enclave": enclave,
        "root": root,
        "machines": _list(machines or ["<ppid or piid of a machine>"]),
        "datasets": datasets,
        "computations": computations,
    }
    count = len(_BLANK.findall(template.substitute(values, blanks="")))
    said = f"\n# Fill in what stands in angle brackets ({count} blanks)." if count else ""
    return template.substitute(values, blanks=said)


def blank_lines(text: str) -> list[int]:
    """The lines with a blank that is still to be filled in, from 1 on."""
    return [
        number
        for number, line in enumerate(text.split("\n"), 1)
        if _BLANK.search(line.partition("#")[0])
    ]


def blank_fix(found: str) -> str:
    """What to do where a problem of `lint` is that a blank was not filled in."""
    return "fill in the blank" if "<" in found and ">" in found else ""


class BlockMalformed(PolicyFormatError):
    """A file that should hold blocks of one kind for a draft holds something else."""

    code = "block-malformed"
    default_fix = "give the file that `ratls provider describe` printed, or blocks written like it"


def blocks_in(path: Path, section: str) -> tuple[str, list[str]]:
    """The text of a file with `[[section]]` tables alone, and their ids.

    Their content is for `lint`.

    Raises: FileUnreadable, PolicySyntax, BlockMalformed.
    """
    raw = read_file(path, cap=TEXT_CAP)
    document = read_toml(raw, str(path))
    tables = document.get(section)
    tables = tables if isinstance(tables, list) else []
    ids = [t["id"] for t in tables if isinstance(t, dict) and isinstance(t.get("id"), str)]
    if set(document) != {section} or not ids or len(ids) != len(tables):
        raise BlockMalformed(
            str(path), expected=f"[[{section}]] tables with an id", found="something else"
        )
    return raw.decode("utf-8"), ids


def unfinished_dataset(
    raw: bytes, dataset: str, problems: Sequence[Problem]
) -> tuple[Dataset, dict[str, int]] | None:
    """A dataset of a draft that has problems elsewhere, and the persons that are asked of it.

    Rows can be held against it before the enclave is built. None where the problems are its own.

    Args:
        raw, problems: A draft that `Policy.parse` refused, and why.
    """
    if len(problems) >= PROBLEMS_CAP:  # those of this dataset may be among the others
        return None
    document = read_toml(raw)
    for i, table in _tables(document, "dataset"):
        own = any(_is_in(p.path, f"dataset[{i}]") for p in problems)
        if table.get("id") == dataset and not own:
            needed = {
                asked.id: asked.release.min_subjects_per_input
                for j, each in _tables(document, "computation")
                if not any(_is_in(p.path, f"computation[{j}]") for p in problems)
                and (asked := _whole(Computation, each)) is not None
                and dataset in asked.inputs
            }
            whole = _whole(Dataset, table)
            return None if whole is None else (whole, needed)
    return None


_Section = TypeVar("_Section", bound=Strict)


def _whole(section: type[_Section], table: Mapping[str, Any]) -> _Section | None:
    """A section of a draft; None where it is not finished.

    Its faults may be in no list: where a line before it is wrong, it was not looked at.
    """
    try:
        return section.model_validate(table)
    except ValidationError:
        return None


def _tables(document: Mapping[str, Any], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    tables = document.get(name)
    for i, table in enumerate(tables if isinstance(tables, list) else ()):
        if isinstance(table, dict):
            yield i, table


def _is_in(path: str, place: str) -> bool:
    """Is a problem one of this table, or of what holds it?"""
    return path.startswith(place) or place.startswith(path)


def dataset_blocks(parties: Sequence[Party], rows: Rows | None, subject: str | None) -> str:
    """One `[[dataset]]` for each provider, with the columns of `rows` or with blanks."""
    owners = [p.id for p in parties if "provider" in p.roles] or ["<party>"]
    if rows is not None:
        return "\n".join(rows.block(rows_id(owner), owner) for owner in owners)
    return "\n".join(
        f'[[dataset]]\nid = "{rows_id(owner)}"\nowner = "{owner}"\n'
        f'subject = "{subject or "<column>"}"  # names a person; counted, never released\n'
        "max_rows = 1_000_000\n"
        f'columns = {{ "{subject or "<column>"}" = "string", "<other column>" = "<type>" }}\n'
        for owner in owners
    )


def rows_id(owner: str) -> str:
    """What a provider's dataset is called, until somebody has a better name."""
    return f"{owner[:59]}_rows"


def computation_block(run: str, parties: Sequence[Party], datasets: Sequence[str]) -> str:
    """A `[[computation]]` over all datasets, with blanks for its columns.

    Raises: ComputationUnknown.
    """
    named(run)
    people = ""
    for role in ("submitter", "recipient"):
        ids = [p.id for p in parties if role in p.roles] or [f"<party with the role {role}>"]
        people += f"{role}s = {_list(ids)}\n"
    return block(run, id_=run, inputs=_list(datasets), people=people, fill=False)


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def enclave_block(mr_enclave: str = PLACEHOLDER, isv_prod_id: int = 1, min_isv_svn: int = 1) -> str:
    """An `[[enclave]]` for SGX."""
    return (
        f'[[enclave]]\nname = "joint-training"\ntee = "sgx"\nmr_enclave = "{mr_enclave}"\n'
        f"isv_prod_id = {isv_prod_id}\nmin_isv_svn = {min_isv_svn}\n"
    )


_MEANING = {
    "mr_td": "the firmware, and it alone",
    "rtmr0": "CPUs, memory and devices: another shape of machine is another [[enclave]]",
    "rtmr1": "the kernel",
    "rtmr2": "its command line, and the initrd",
    "rtmr3": 'or "extended at run time", and rtmr3_events = [..] with each event\'s digest',
}


def domain_block(report: TdReport | None = None) -> str:
    """An `[[enclave]]` for TDX, with the registers of a report or with placeholders."""
    blank = "<96 hex>"
    values = {n: getattr(report, n).hex() if report else blank for n in REGISTERS}
    seam = report.mr_seam.hex() if report else blank
    floor = min(report.svns).hex() if report else "<32 hex>"
    lines = ["[[enclave]]", 'name = "joint-training"', 'tee = "tdx"']
    for name, value in values.items():
        if name in _MEANING:
            lines.append(f"# {_MEANING[name]}")
        lines.append(f'{name} = "{value}"')
    lines += [
        "# SEPT_VE_DISABLE on, PKS and PERFMON free, debug, profiling, migration and all else off:",
        "# td_attributes, td_attributes_mask, xfam and xfam_mask say it otherwise, as in a quote",
        '# the TDX module; or the words "any TDX module by Intel"',
        f'mr_seam = ["{seam}"]',
        f'min_tee_tcb_svn = "{floor}"',
        '# service_tds = ["<96 hex>"]  # service domains that may act on it; by default none',
    ]
    return "\n".join(lines) + "\n"


def block_of(report: EnclaveReport | TdReport) -> str:
    """The `[[enclave]]` that lists what a quote says; whether to list it is for its author."""
    if isinstance(report, TdReport):
        return domain_block(report)
    return enclave_block(str(report.mr_enclave), report.isv_prod_id, report.isv_svn)
