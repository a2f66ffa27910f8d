"""The universal oracle: what must hold after an attack, whichever it was.

    with universal_oracle(scene, enclave=RowsNotAsDeclared):
        ...  # the attack, which the attacked party refuses

Whoever keeps records has one of this refusal, and all others have none. No secret is in what was
recorded on the wire, in a log, on the terminal, in a file or in the text of a refusal, in whatever
form. An honest request is served afterwards, and no more is recorded.

A test says which leaf class is expected, and at which check: `refused`.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import refusal
from tests.support.waiting import eventually
from verifier.errors import RatlsError

Records = Callable[[], list[str]]
Leaves = type[RatlsError] | tuple[type[RatlsError], ...]


@dataclass
class Scene:
    """Whom an attack is on, and where it could leave something."""

    secrets: tuple[bytes, ...]
    folder: Path  # of all files of the parties, temporary ones included
    own: set[Path] = field(default_factory=set)  # the party's rows themselves, which stay
    honest: Callable[[], object] = lambda: None  # asks as an honest party; what it was served
    unsaid: list[bytes] = field(default_factory=list)  # secrets that files alone may hold
    records: dict[str, Records] = field(
        default_factory=dict
    )  # codes of refusals, by who keeps them
    places: dict[str, Callable[[], bytes]] = field(default_factory=dict)  # what else is searched

    def require_no_secret(self, told: Iterable[RatlsError] = ()) -> None:
        """Neither as it is, nor as hex, base64, a number or a repr, nor in wide characters."""
        said = {place: read() for place, read in self.places.items()}
        said |= {f"the text of {type(error).__name__}": text_of(error).encode() for error in told}
        found = _where(said, (*self.secrets, *self.unsaid)) + _where(self._kept(), self.secrets)
        assert not found, f"a secret is in: {', '.join(found)}"

    def _kept(self) -> dict[str, bytes]:
        names = {path: str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        files = [path for path in names if path.is_file() and path not in self.own]
        return {names[path]: path.read_bytes() for path in files} | {
            f"the name of {name}": name.encode() for name in names.values()
        }


def _where(held: dict[str, bytes], secrets: Iterable[bytes]) -> list[str]:
    sought = [form for secret in secrets for form in forms(secret)]
    return [place for place, content in held.items() if any(form in content for form in sought)]


def forms(secret: bytes) -> list[bytes]:
    """How a secret can be written."""
    text = secret.decode("latin-1")
    found = [secret, text.encode("utf-16-le"), secret.hex().encode(), secret.hex().upper().encode()]
    found.append(repr(secret)[2:-1].encode())
    for before, depends in enumerate((0, 2, 3)):  # base64 is another one behind other bytes
        packed = base64.b64encode(bytes(before) + secret)
        whole = packed[depends : (before + len(secret)) * 8 // 6]
        found += [whole, whole.translate(bytes.maketrans(b"+/", b"-_"))]
    if len(secret) <= 64:  # a key, at most: nobody prints a quote so
        found.append(str(int.from_bytes(secret)).encode())
    return found


def text_of(error: BaseException | None) -> str:
    """All that is said of an error, its causes included."""
    said = ""
    while error is not None:
        said += f"{error}{error!r}{getattr(error, '__notes__', '')}"
        error = error.__cause__ or error.__context__
    return said


@contextmanager
def universal_oracle(scene: Scene, **recorded: Leaves) -> Iterator[None]:
    """Judge the block by it.

    Args:
        scene: Whom the block attacks.
        recorded: By name of who keeps it: the refusals that are recorded in the block.
    """
    assert recorded.keys() <= scene.records.keys(), "nobody of that name keeps records"
    before = {who: codes() for who, codes in scene.records.items()}
    told: list[RatlsError] = []
    refusal.judging.append(told)
    try:
        yield
    finally:
        refusal.judging.pop()
    wanted = {who: before[who] + _codes(recorded.get(who, ())) for who in scene.records}
    # A server writes its line when the peer has been told already.
    eventually(
        lambda: all(len(codes()) >= len(wanted[who]) for who, codes in scene.records.items())
    )
    for moment in ("the attack", "the honest request"):
        if moment != "the attack":
            assert scene.honest(), "no honest request was served"
        for who, codes in scene.records.items():
            found = codes()
            assert found == wanted[who], f"after {moment} {who} had {found}, not {wanted[who]}"
    scene.require_no_secret(told)


def _codes(leaves: Leaves) -> list[str]:
    return [leaf.code for leaf in (leaves if isinstance(leaves, tuple) else (leaves,))]


def watch_process(
    scene: Scene,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Search what this process says and puts aside, too."""
    caplog.set_level("DEBUG")
    temporary = scene.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    scene.places["the terminal"] = lambda: "".join(capfd.readouterr()).encode()
    scene.places["a log of a library"] = lambda: caplog.text.encode()
