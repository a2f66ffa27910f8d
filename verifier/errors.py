"""Every refusal of ratls descends from here: a fixed code, an exit status, and four parts.

A message always names the thing, what was expected, what was found and what to do, because
each class is built from exactly those parts. Branches say which question was answered
(unreadable, not genuine, could not look, not allowed); leaves name one check each, and only
leaves are raised. The leaves of a package stand in that package's own `errors` module.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from verifier.appraisal import Appraisal


class Exit(IntEnum):
    """What a command tells the shell. The meaning of each number never changes."""

    YES = 0
    BUG = 1
    USAGE = 2
    UNUSABLE = 3  #      a local input: file, malformed bytes, key, passphrase, state, port
    NOT_GENUINE = 4  #   a cryptographic link is broken or revoked
    UNDECIDED = 5  #     could not look: collateral missing or outside its window
    NOT_ADMITTED = 6  #  genuine, yet not what was agreed on
    PEER = 7  #          the other side failed or refused
    INTERRUPTED = 130


class RatlsError(Exception):
    """A refusal. `thing: expected …, found …` and, apart from it, `fix`.

    Never put key material, nonces or cell values into any part: messages are printed and logged.
    """

    code: ClassVar[str] = ""  #           slug of a leaf; a branch has none and is never raised
    exit_status: ClassVar[Exit] = Exit.BUG
    default_fix: ClassVar[str] = ""

    def __init__(self, thing: str, *, expected: str, found: str, fix: str | None = None) -> None:
        if not self.code:
            raise TypeError(f"{type(self).__name__} is a branch: raise one of its leaves")
        super().__init__(f"{thing}: expected {expected}, found {found}")
        self.thing, self.expected, self.found = thing, expected, found
        self.fix = self.default_fix if fix is None else fix
        self.check: str | None = None  #            the check that refused, where there was one
        self.appraisal: Appraisal | None = None  #  what passed, failed and was not reached


# The branches that belong to evidence and endorsements. Names: threats.md section 3.


class QuoteFormatError(RatlsError):
    """The bytes are not a quote that we read."""

    exit_status = Exit.UNUSABLE


class CollateralFormatError(RatlsError):
    """The collateral cannot be read."""

    exit_status = Exit.UNUSABLE


class QuoteSignatureError(RatlsError):
    """A signature inside the quote does not hold."""

    exit_status = Exit.NOT_GENUINE


class CertChainError(RatlsError):
    """A certificate is not what its place in the chain demands."""

    exit_status = Exit.NOT_GENUINE


class RevocationError(RatlsError):
    """A certificate is revoked, or the list that would say so is not the right one."""

    exit_status = Exit.NOT_GENUINE


class QeIdentityError(RatlsError):
    """The quoting enclave is not Intel's."""

    exit_status = Exit.NOT_GENUINE


class CollateralSignatureError(RatlsError):
    """Intel did not sign this collateral."""

    exit_status = Exit.NOT_GENUINE


class CollateralMismatchError(RatlsError):
    """Genuine collateral of something else."""

    exit_status = Exit.NOT_GENUINE


class CollateralStaleError(RatlsError):
    """Something does not cover the instant of judgement: nothing was decided."""

    exit_status = Exit.UNDECIDED


class TcbStatusError(RatlsError):
    """The platform's patch level is not one that is accepted."""

    exit_status = Exit.NOT_ADMITTED


class EnclaveAttributeError(RatlsError):
    """The enclave runs with attributes that are not accepted."""

    exit_status = Exit.NOT_ADMITTED


class ModeMismatchError(RatlsError):
    """Simulation where production is demanded, or the reverse."""

    exit_status = Exit.NOT_ADMITTED


class ConfigError(RatlsError):
    """A local input of the command cannot be used."""

    exit_status = Exit.UNUSABLE


class FileUnreadable(ConfigError):
    """A file that the command needs is missing, unreadable or too large."""

    code = "file-unreadable"
    default_fix = "check the path and its permissions"


class FileNotWritten(ConfigError):
    """A file could not be written, or exists and is never overwritten."""

    code = "file-not-written"
    default_fix = "choose another path, or make room and check the folder's permissions"


class InstantMalformed(ConfigError):
    """An instant given on the command line cannot be read."""

    code = "instant-malformed"
    default_fix = "write it as 2026-11-25T12:00:00Z or as seconds since 1970"


class SimulationNotAllowed(ModeMismatchError):
    """A simulated root is asked for, and the command was not told to allow it."""

    code = "simulation-not-allowed"
    default_fix = "add --allow-simulation if a simulation is what you want"


class SimulationNotInstalled(ModeMismatchError):
    """A simulated root is asked for, and the distribution that could name one is absent."""

    code = "simulation-not-installed"
    default_fix = "use root = \"intel\"; simulations need the ratls-simulation distribution"
