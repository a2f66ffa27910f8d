"""A PKCS#11 token in software, from Debian's package `softhsm2`, in a folder of its own.

    with token(folder, "alice", "1234") as made: made.key(2, "EC:prime256v1")

It is told aloud where the programs are absent: `library` is None then, and `require_library` skips,
or fails under RATLS_REQUIRE_SOFTHSM=1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PLACES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so")


def library() -> Path | None:
    """The PKCS#11 library, where it and the program that makes tokens are installed."""
    found = [p for place in PLACES for p in Path("/").glob(place[1:])]
    return found[0] if found and shutil.which("softhsm2-util") else None


def require_library() -> Path:
    found = library()
    if found is None:
        if os.environ.get("RATLS_REQUIRE_SOFTHSM") == "1":
            pytest.fail("RATLS_REQUIRE_SOFTHSM=1 and softhsm2 is not installed")
        pytest.skip("SOFTHSM ABSENT: apt-get install softhsm2")
    return found


@dataclass(frozen=True)
class Token:
    """An initialised token with one user."""

    label: str
    pin: str
    library: Path

    def key(self, number: int, curve: str) -> None:
        """Make a key pair in the token; `curve` is OpenSSL's name."""
        import pkcs11
        from pkcs11.util.ec import encode_named_curve_parameters

        found = pkcs11.lib(str(self.library)).get_token(token_label=self.label)
        with found.open(user_pin=self.pin, rw=True) as session:
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC,
                {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)},
                local=True,
            )
            parameters.generate_keypair(store=True, id=bytes([number]), label=f"key{number}")


@contextmanager
def token(folder: Path, label: str, pin: str) -> Iterator[Token]:
    """The library reads its settings once in a process, so the folder must be of the process."""
    found = require_library()
    tokens = folder / "tokens"
    tokens.mkdir(exist_ok=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n", "utf-8")
    before = {name: os.environ.get(name) for name in ("SOFTHSM2_CONF", "PYKCS11LIB")}
    os.environ |= {"SOFTHSM2_CONF": str(conf), "PYKCS11LIB": str(found)}
    try:
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin,
             "--so-pin", "12345678"],
            check=True,
            capture_output=True,
        )  # fmt: skip
        yield Token(label, pin, found)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
