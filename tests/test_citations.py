"""What code, tests and pages cite is explained in `docs/`, and what is explained there is cited.

A citation is one of two things:

- an id: `B09`, `N047`, `S12` (the letters and digits of `IDS`), alone, in the name of a test
  (`test_m02_…`), or as a range (`Q01 to Q06`);
- a page with sections: `dcap.md 4.9`, `dcap.md 3.4 and 3.5`, `flight.md section 1`.

Public sources (an RFC with its section, a document of Intel's with its section or structure, a
CVE, a NIST publication with its section) are counted in the packages that implement them.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.pages import NAMES, Page

ROOT = Path(__file__).parent.parent
PACKAGES = ("verifier", "policy", "ratls", "scheduler", "provider", "enclave_app", "simulation")
CITING = (*PACKAGES, "tests", "benchmarks", "manifests", "docs/decisions")
# The reference pages explain each other: what they cite must exist, and counts as no use.
PAGES = [f"docs/{name}.md" for name in NAMES]
UNCITED = "Attacks that nothing cites"

_ID = r"(?:[BDFILMPQRTUX]\d{2}|N\d{3}|S\d{1,2})"
IDS = re.compile(rf"(?<![\w.]){_ID}(?!\w|\.\w)")
_RANGE = re.compile(rf"(?<!\w)({_ID}) to ({_ID})(?!\w)")
_TEST_NAME = re.compile(r"\btest_([a-z]\d{2,3})_")
_NUMBER = r"\d+(?:\.\d+)*"
_SECTIONS = re.compile(
    rf"\b({'|'.join(NAMES)})\.md`?(?:,? sections?)? ({_NUMBER}(?:(?:, | and | to ){_NUMBER})*)"
)
_PAGE = re.compile(r"(?<![\w/.-])((?:docs/|\.\./)*(?:[\w-]+/)*[\w-]+\.md)\b")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Rules of the linter look like ids.
_LINTER = re.compile(r"# (?:noqa|ruff).*|^ignore = .*|\bN818\b")

PUBLIC = re.compile(
    r"RFC \d+,? (?:sections?|appendix) [A-Z\d]+(?:\.\d+)*"
    r"|X\.690,? section \d+"
    r"|FIPS \d+-\d+,? (?:section|appendix) [A-Z\d.]+"
    r"|SP 800-\w+,? section \d+"
    r"|CVE-\d{4}-\d{4,}|GHSA(?:-\w{4}){3}"
    r"|Quot(?:e|ing) Library API,? (?:appendix )?A\.\d"
    r"|Profile Specification\"?,? revision 1\.\d,? sections? \d"
    r"|Intel SDM, volume 3D, \"[A-Z]"
    r"|PCS API v4,? `/[a-z]"
    r"|`sgx_\w+_t` (?:in|of) `sgx_\w+\.h`"
    r"|SDM, volume \d[A-D], [A-Z]+"
    r"|Linux, `Documentation/[\w./-]+`"
)
LEAST = {"verifier": 10, "ratls": 10}  # public citations per 1,000 lines of code


@cache
def citing() -> tuple[tuple[str, str], ...]:
    """Path and text of each file that may cite."""
    paths = [*ROOT.glob("*.md"), ROOT / "pyproject.toml"]
    for folder in CITING:
        paths += sorted((ROOT / folder).rglob("*"))
    return tuple(
        (str(path.relative_to(ROOT)), path.read_text("utf-8"))
        for path in paths
        if path.suffix in {".py", ".pyi", ".md", ".toml", ".proto", ".template"}
        and not {"__pycache__", "build"} & set(path.parts)
        and path != Path(__file__)
    )


def _between(first: str, last: str) -> Iterator[str]:
    """The rows from one id to another of the same letter."""
    rows = {row for name in NAMES for row in Page.read(name).rows}
    for number in range(int(first[1:]), int(last[1:]) + 1):
        name = f"{first[0]}{number:0{len(first) - 1}}"
        if name in rows:
            yield name


def cited_ids(text: str) -> set[str]:
    text = "\n".join(_LINTER.sub("", line) for line in text.splitlines())
    found = set(IDS.findall(text))
    found |= {name.upper() for name in _TEST_NAME.findall(text)}
    for first, last in _RANGE.findall(text):
        found |= set(_between(first, last)) if first[0] == last[0] else set()
    return found


def cited_sections(text: str) -> set[tuple[str, str]]:
    """Pairs of a page's name and a section's number; a range is all sections between its ends."""
    found = set()
    for name, numbers in _SECTIONS.findall(re.sub(r"\s*\n[#\s]*", " ", text)):
        parts = re.split(r"(, | and | to )", numbers)
        for index in range(0, len(parts), 2):
            found.add((name, parts[index]))
            if index and parts[index - 1] == " to ":
                low, high = _key(parts[index - 2]), _key(parts[index])
                found |= {(name, s) for s in Page.read(name).sections if low < _key(s) < high}
    return found


def _key(section: str) -> tuple[int, ...]:
    return tuple(map(int, section.split(".")))


def unexplained(files: Iterable[tuple[str, str]]) -> list[str]:
    """What is cited and is nowhere."""
    rows = {row for name in NAMES for row in Page.read(name).rows}
    missing = []
    for path, text in files:
        missing += [f"{path}: {name}" for name in sorted(cited_ids(text) - rows)]
        missing += [
            f"{path}: {name}.md {number}"
            for name, number in sorted(cited_sections(text))
            if number not in Page.read(name).sections
        ]
    return missing


def test_what_is_cited_is_explained() -> None:
    pages = [(name, (ROOT / name).read_text("utf-8")) for name in PAGES]
    assert unexplained([*citing(), *pages]) == []


def unused(name: str, page: Page, files: Iterable[tuple[str, str]]) -> list[str]:
    """Rows, and sections without sections in them, that nothing cites and that give no reason."""
    ids, cited = set(), set()
    for _, text in files:
        ids |= cited_ids(text)
        cited |= {f"{section}." for page_name, section in cited_sections(text) if page_name == name}
    reasons = {row for row, heading in page.under.items() if heading == UNCITED}
    found = [f"{row} gives no reason" for row in reasons if not page.rows[row][1]]
    found += page.rows.keys() - ids - reasons
    found += [f"{row} is cited" for row in reasons & ids]  # and belongs to the others
    leaves = {s for s in page.sections if not any(o.startswith(f"{s}.") for o in page.sections)}
    leaves -= set(page.under.values())  # cited by their rows
    # A citation of a section is one of all that is in it.
    found += [s for s in leaves if not any(f"{s}.".startswith(c) for c in cited)]
    return sorted(found)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_explained_is_cited_or_says_why_not(name: str) -> None:
    assert unused(name, Page.read(name), citing()) == []


def test_a_page_that_is_named_exists() -> None:
    """From the root, from `docs/`, or from the folder of the file that names it."""
    missing = []
    for path, text in citing():
        if path.endswith("_page.py"):
            continue  # names the page that it writes
        places = (ROOT, ROOT / "docs", (ROOT / path).parent)
        for name in _PAGE.findall(text):
            if not any((place / name).is_file() for place in places):
                missing.append(f"{path}: {name}")
    assert missing == []


def test_a_link_leads_somewhere() -> None:
    """Links to other places are not followed."""
    broken = []
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("manifests/**/*.md"),
    ):
        for target in _LINK.findall(path.read_text("utf-8")):
            if not target.startswith(("https://", "#")) and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


@pytest.mark.parametrize(
    ("text", "ids", "sections"),
    [
        ('"""B09: a machine that an attacker chose."""', {"B09"}, set()),
        ('pytest.param(b"", id="N001-empty")', {"N001"}, set()),
        ("def test_m02_the_host() -> None:", {"M02"}, set()),
        ("# Q01 to Q03, T09", {"Q01", "Q02", "Q03", "T09"}, set()),
        ("# N036 to N040", {"N036", "N037", "N040"}, set()),  # there is no N038
        ("import x  # noqa: N802, S11", set(), set()),
        ("P256, X509, F16C, A4, ES10, 1.S1", set(), set()),
        ("see dcap.md 4.9", set(), {("dcap", "4.9")}),
        ("`docs/flight.md` 1.1 and 2.3", set(), {("flight", "1.1"), ("flight", "2.3")}),
        ("dcap.md\n    # 3.4, 3.5 here", set(), {("dcap", "3.4"), ("dcap", "3.5")}),
        ("dcap.md 1.1 to 1.3", set(), {("dcap", "1.1"), ("dcap", "1.2"), ("dcap", "1.3")}),
        ("dcap.md section 8: keys", set(), {("dcap", "8")}),
    ],
)
def test_a_citation_is_found(text: str, ids: set[str], sections: set[tuple[str, str]]) -> None:
    assert cited_ids(text) == ids
    assert cited_sections(text) == sections


@pytest.mark.parametrize(
    "text", ["# B99: no such attack", "# N999", "# S35", "# dcap.md 4.99", "# gramine.md 17"]
)
def test_a_citation_without_a_target_is_noticed(text: str) -> None:
    assert len(unexplained([("x.py", text)])) == 1


def test_a_row_or_section_that_nothing_cites_is_noticed() -> None:
    page = Page.of(
        "## 1. One\n### 1.1 A\n### 1.2 B\n| B01 | a | x |\n| B02 | b | y |\n"
        f"## {UNCITED}\n| B03 | c | not yet |\n| B04 | d |  |\n| B05 | e | not yet |\n"
    )
    files = [("x.py", "# B01, B05")]
    assert unused("flight", page, files) == ["1.1", "B02", "B04 gives no reason", "B05 is cited"]
    files = [("x.py", "# B01, B02, flight.md 1"), ("y.py", "# B06")]
    assert unused("flight", page, files) == ["B04 gives no reason"]


def test_an_id_that_stands_in_two_rows_is_noticed() -> None:
    with pytest.raises(AssertionError):
        Page.of("| B01 | one | x |\n| B01 | two | y |")


# Public sources.


def code_lines(text: str) -> int:
    """Lines that have a token which is no comment and no docstring."""
    documents: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(ast.Constant(str()), lineno=first, end_lineno=last):
                documents |= set(range(first, (last or first) + 1))
    blank = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documents)


def public_citations(text: str) -> list[str]:
    """Those of comments and docstrings too that are broken over two lines."""
    return PUBLIC.findall(re.sub(r"\s*\n[#\s]*", " ", text))


@pytest.mark.parametrize("package", LEAST)
def test_a_package_names_the_public_rules_that_it_implements(package: str) -> None:
    # Commands ask and show; the rules are in what they call. A profile only fills in options.
    paths = [
        path
        for path in (ROOT / package).rglob("*.py")
        if not path.stem.startswith(("cli", "profile"))
    ]
    texts = [path.read_text("utf-8") for path in paths]
    count = sum(len(public_citations(text)) for text in texts)
    lines = sum(map(code_lines, texts))
    assert 1000 * count >= LEAST[package] * lines, f"{count} citations in {lines} lines of code"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("RFC 5280, section 4.2.1.9", 1),
        ("RFC 5280,\n    # section 6.1.3 and RFC 8949, section 4.2.1", 2),
        ("RFC 5280 in general, and the RFC", 0),
        ("`sgx_quote3_t` in `sgx_quote_3.h`", 1),
        ("`sgx_quote_3.h`", 0),
        ("CVE-2020-0601, GHSA-6q6c-vvf9-fj3w", 2),
        ("FIPS 186-5, section 6.4.2", 1),
        ("PCS API v4, `/sgx/certification/v4/tcb`", 1),
        ("Intel SDM, volume 2A, CPUID, leaf 12H; the SDM, volume 2A", 1),
        ("Linux,\n# `Documentation/arch/x86/sgx.rst`, Linux 6.7", 1),
        ("PCK Certificate Profile Specification, revision 1.4, section 1.3.5", 1),
    ],
)
def test_a_public_citation_has_its_section(text: str, count: int) -> None:
    assert len(public_citations(text)) == count


def test_lines_of_code_are_counted_without_words() -> None:
    says = '"""Says.\n\nMore.\n"""\n\n# Why.\nx = [\n    1,\n]  # so\n'
    text = says + 'def f() -> None:\n    """Does."""\n'
    assert code_lines(text) == 4
