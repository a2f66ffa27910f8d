"""Every refusal of ratls descends from here: a fixed code, an exit status, and four parts.

A message always names the thing, what was expected, what was found and what to do, because
each class is built from exactly those parts. Branches say which question was answered
(unreadable, not genuine, could not look, not allowed); leaves name one check each, and only
leaves are raised. A leaf is defined beside its check; `errors` keeps the branches of a package, and
the leaves that several of its modules raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar, Self

from verifier.appraisal import Appraisal
from verifier.text import cause, printable


class Exit(IntEnum):
    """The exit status of a command. The meaning of each number never changes."""

    YES = 0
    BUG = 1
    USAGE = 2
    UNUSABLE = 3  #      a local input: file, malformed bytes, key, passphrase, state, port
    NOT_GENUINE = 4  #   a cryptographic link is broken or revoked
    UNDECIDED = 5  #     could not look: collateral missing or outside its window
    NOT_ADMITTED = 6  #  genuine, but not what was agreed on
    PEER = 7  #          the other side failed or refused
    INTERRUPTED = 130
    BROKEN_PIPE = 141  # the reader of stdout closed the pipe: 128 and SIGPIPE, as of any program

    @property
    def word(self) -> str:
        """For people: accepted, refused, undecided, unusable or failed."""
        return _WORDS.get(self, "failed")

    @property
    def verdict(self) -> str:
        """The `verdict` of the JSON formats: accepted, refused or undecided."""
        words = {Exit.YES: "accepted", Exit.UNDECIDED: "undecided"}
        return words.get(self, "refused")

    @classmethod
    def worst(cls, statuses: Iterable[int]) -> Exit:
        """The status of a command that had several: a bug first, yes last."""
        return cls(min(statuses, key=_WORST_FIRST.index, default=cls.YES))


_WORDS = {
    Exit.YES: "accepted",
    Exit.USAGE: "refused",
    Exit.UNUSABLE: "unusable",
    Exit.NOT_GENUINE: "refused",
    Exit.UNDECIDED: "undecided",
    Exit.NOT_ADMITTED: "refused",
}
_WORST_FIRST = (
    Exit.BUG,
    Exit.NOT_GENUINE,
    Exit.NOT_ADMITTED,
    Exit.PEER,
    Exit.UNDECIDED,
    Exit.UNUSABLE,
    Exit.YES,
)


class RatlsError(Exception):
    """A refusal: a sentence made from `thing`, `expected` and `found`, and apart from it `fix`.

    Never put key material, nonces or cell values into any part: messages are printed and logged.
    """

    code: ClassVar[str] = ""  #           slug of a leaf; a branch has none and is never raised
    exit_status: ClassVar[Exit] = Exit.BUG
    default_fix: ClassVar[str] = ""
    says: ClassVar[str] = "{thing}: expected {expected}, found {found}"

    def __init__(self, thing: str, *, expected: str, found: str, fix: str | None = None) -> None:
        if not self.code:
            raise TypeError(f"{type(self).__name__} is a branch: raise one of its leaves")
        super().__init__()
        self.thing, self.expected, self.found = thing, expected, found
        self.fix = self.default_fix if fix is None else fix
        self.check: str | None = None  #            the check that refused, where there was one
        self.appraisal: Appraisal | None = None  #  what passed, failed and was not reached

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """`says`, with the parts filled in."""
        return self.says.format_map(vars(self))  # what looks like a field in a part stays text

    def as_json(self) -> dict[str, str | None]:
        """The `error` member of the commands' JSON."""
        return {"code": self.code, "check": self.check, "message": str(self), "fix": self.fix}

    def place(self, name: str) -> None:
        """Name the file or the input in which the thing is."""
        self.thing = f"{name}: {self.thing}"


@contextmanager
def placed(name: str) -> Iterator[None]:
    """Name this file or input in every refusal inside."""
    try:
        yield
    except RatlsError as refusal:
        refusal.place(name)
        raise


# The branches that belong to evidence and endorsements. All leaves: docs/errors.md.


class QuoteFormatError(RatlsError):
    """The bytes are not a quote of a supported kind."""

    exit_status = Exit.UNUSABLE


class CollateralFormatError(RatlsError):
    """The collateral cannot be read."""

    exit_status = Exit.UNUSABLE


class QuoteSignatureError(RatlsError):
    """A signature inside the quote is invalid."""

    exit_status = Exit.NOT_GENUINE


class CertChainError(RatlsError):
    """A certificate does not fit its place in the chain."""

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


class CollateralFetchError(RatlsError):
    """There is no collateral for what is asked, here or at the service: nothing was decided."""

    exit_status = Exit.UNDECIDED


class CollateralRollbackError(RatlsError):
    """Genuine collateral, but older than what is kept or noted."""

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


class EventLogFormatError(RatlsError):
    """The bytes are not an event log of a trust domain."""

    exit_status = Exit.UNUSABLE


class EventLogError(RatlsError):
    """The event log does not say what was measured."""

    exit_status = Exit.NOT_GENUINE


class ConfigError(RatlsError):
    """A local input of the command cannot be used."""

    exit_status = Exit.UNUSABLE


# Leaves that several modules raise.


class InstantMalformed(ConfigError):
    """An instant given on the command line cannot be read."""

    code = "instant-malformed"
    default_fix = "write it as 2026-11-25T12:00:00Z or as seconds since 1970"


class CrlMissing(RevocationError):
    """There is no revocation list where one is needed. Absence never means `not revoked`."""

    code = "crl-missing"
    exit_status = Exit.UNDECIDED  # nothing is known to be forged: it could not be checked
    default_fix = "fetch the collateral again, with both revocation lists"


class CrlOfAnotherIssuer(RevocationError):
    """A revocation list of another certificate authority than the one that is needed."""

    code = "crl-of-another-issuer"
    default_fix = "fetch the collateral for this quote's own PCK authority (processor or platform)"


class CollateralRolledBack(CollateralRollbackError):
    """A part of this collateral is older than what was seen before, or what it would replace."""

    code = "collateral-rolled-back"
    default_fix = "keep the bundle that you have; to start over, move it away first"


class SystemRefused(ConfigError):
    """The operating system refused what the command needs: memory, files, threads or space."""

    code = "system-refused"
    default_fix = "look at limits (ulimit -a), free space and permissions, then try again"
    says = "{thing}: the operating system refused what the command needs: {found}"

    @classmethod
    def of(cls, error: OSError | MemoryError) -> Self:
        """The refusal that an error of the system becomes which no module has translated."""
        name = getattr(error, "filename", None)
        thing = "this machine" if name is None else printable(str(name))
        return cls(thing, expected="what the command needs", found=cause(error))
