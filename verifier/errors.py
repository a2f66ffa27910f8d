"""Every refusal of ratls descends from here: a fixed code, an exit status, and four parts.

A message always names the thing, what was expected, what was found and what to do, because
each class is built from exactly those parts. Branches say which question was answered
(unreadable, not genuine, could not look, not allowed); leaves name one check each, and only
leaves are raised. The leaves of a package stand in that package's own `errors` module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    BROKEN_PIPE = 141  # whoever read the answer has enough: 128 and SIGPIPE, as of any program


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

    def as_json(self) -> dict[str, str | None]:
        """The `error` member of the commands' JSON."""
        return {
            "code": self.code,
            "check": self.check,
            "message": str(self),
            "fix": self.fix,
        }

    def place(self, name: str) -> None:
        """Say in which file, or which input, the thing is."""
        self.thing = f"{name}: {self.thing}"
        self.args = (f"{self.thing}: expected {self.expected}, found {self.found}",)


@contextmanager
def placed(name: str) -> Iterator[None]:
    """A refusal inside names this file or input, for a reader who gave several."""
    try:
        yield
    except RatlsError as refusal:
        refusal.place(name)
        raise


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


class CollateralFetchError(RatlsError):
    """There is no collateral for what is asked, here or at the service: nothing was decided."""

    exit_status = Exit.UNDECIDED


class CollateralRollbackError(RatlsError):
    """Genuine collateral, but older than what is at hand already."""

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


class LockHeld(ConfigError):
    """Another process holds a lock for longer than this one waits."""

    code = "lock-held"
    default_fix = "wait for the other process, or end it, and try again"


class LocksMissing(ConfigError):
    """The file system has no locks, so two processes could write the same state at once."""

    code = "locks-missing"
    default_fix = "use a folder on a file system with locks, as a local disk has"


class UserFolderUnknown(ConfigError):
    """No folder is named, and this user has none."""

    code = "user-folder-unknown"
    default_fix = "name one with --state DIR (and --cache DIR), or set HOME to a folder"


class OutputNotWritten(ConfigError):
    """The answer could not be written. What the command did before it answered stands."""

    code = "output-not-written"
    default_fix = "make room, or send the output elsewhere; what was done before stands"


class OutputReaderGone(ConfigError):
    """Whoever read the answer has closed the pipe, as `head` does."""

    code = "output-reader-gone"
    exit_status = Exit.BROKEN_PIPE
    default_fix = "read the whole output; what was done before stands"


class SystemRefused(ConfigError):
    """The operating system refused what the command needs: memory, files, threads, a place."""

    code = "system-refused"
    default_fix = "look at limits (ulimit -a), free space and permissions, then try again"


class InstantMalformed(ConfigError):
    """An instant given on the command line cannot be read."""

    code = "instant-malformed"
    default_fix = "write it as 2026-11-25T12:00:00Z or as seconds since 1970"


class RootMalformed(ConfigError):
    """A root of trust is named in no known form."""

    code = "root-malformed"
    default_fix = "use intel, or what `ratls simulation new` printed"


class SimulationNotAllowed(ModeMismatchError):
    """A simulated root is asked for, and the command was not told to allow it."""

    code = "simulation-not-allowed"
    default_fix = "add --allow-simulation if a simulation is what you want"


class SimulationNotInstalled(ModeMismatchError):
    """A simulated root is asked for, and the distribution that could name one is absent."""

    code = "simulation-not-installed"
    default_fix = 'use root = "intel"; simulations need the ratls-simulation distribution'


class ForeignEntryPoint(ConfigError):
    """A distribution that is none of ours adds a command, or poses as the simulation."""

    code = "foreign-entry-point"
    default_fix = "uninstall that distribution, or give ratls an environment of its own"


# The leaves of this package, in the order in which `verify_quote` and `accept` reach them.


class QuoteMalformed(QuoteFormatError):
    """Not the layout of a quote: a length lies, something is missing or left over."""

    code = "quote-malformed"
    default_fix = "obtain the quote again; exactly its own bytes, nothing before or after"


class QuoteUnsupported(QuoteFormatError):
    """A quote of a kind that is not supported, or that does not carry its PCK chain."""

    code = "quote-unsupported"
    default_fix = (
        "ask for an ECDSA quote that carries its PCK certificate chain: SGX version 3, or TDX "
        "version 4 or 5; with --newer-sgx also SGX of those versions"
    )


class CertificateMalformed(CertChainError):
    """A certificate or the text that should hold a chain of them cannot be read."""

    code = "certificate-malformed"
    default_fix = "obtain the quote or the collateral again from its source"


class CertificateRoleWrong(CertChainError):
    """A certificate is well formed but is not one that may stand in this place."""

    code = "certificate-role-wrong"
    default_fix = "do not use it: genuine chains have Intel's exact profile"


class RootUntrusted(CertChainError):
    """The chain ends in a root whose key is not the one that is believed."""

    code = "root-untrusted"
    default_fix = "do not use it, unless it is a simulation that your policy names as its root"


class CertificateNotIssued(CertChainError):
    """A certificate was not issued by the one above it."""

    code = "certificate-not-issued"
    default_fix = "do not use it: the chain is forged or damaged"


class PckExtensionMalformed(CertChainError):
    """The SGX extension of the PCK certificate is absent or not as Intel writes it."""

    code = "pck-extension-malformed"
    default_fix = "do not use it: the platform's identity and patch level cannot be read"


class QeReportSignatureInvalid(QuoteSignatureError):
    """The platform's PCK key did not sign the quoting enclave's report."""

    code = "qe-report-signature-invalid"
    default_fix = "do not use it: the quote is forged or damaged"


class AttestationKeyUnbound(QuoteSignatureError):
    """The quoting enclave vouched for another key than the one that signed the quote."""

    code = "attestation-key-unbound"
    default_fix = "do not use it: the quote is forged or damaged"


class QuoteSignatureInvalid(QuoteSignatureError):
    """The attestation key did not sign this quote, or is no key at all."""

    code = "quote-signature-invalid"
    default_fix = "do not use it: the quote is forged or damaged"


class CollateralMalformed(CollateralFormatError):
    """The collateral bundle, the TCB info or the QE identity cannot be read."""

    code = "collateral-malformed"
    default_fix = "fetch the collateral again; it must be stored byte for byte as Intel serves it"


class CrlMissing(RevocationError):
    """There is no revocation list where one is needed. Absence never means `not revoked`."""

    code = "crl-missing"
    exit_status = Exit.UNDECIDED  # nobody said that anything is forged: nobody could look
    default_fix = "fetch the collateral again, with both revocation lists"


class CrlMalformed(RevocationError):
    """A revocation list cannot be read, or is of a kind that Intel does not issue."""

    code = "crl-malformed"
    default_fix = "fetch the collateral again from its source"


class CrlOfAnotherIssuer(RevocationError):
    """A revocation list of another certificate authority than the one that is needed."""

    code = "crl-of-another-issuer"
    default_fix = "fetch the collateral for this quote's own PCK authority (processor or platform)"


class CrlSignatureInvalid(RevocationError):
    """The authority named in a revocation list did not sign it."""

    code = "crl-signature-invalid"
    default_fix = "fetch the collateral again; this list is forged or damaged"


class CertificateRevoked(RevocationError):
    """Intel revoked this certificate."""

    code = "certificate-revoked"
    default_fix = "do not release anything to this platform"


class TcbInfoSignatureInvalid(CollateralSignatureError):
    """Intel's TCB signing key did not sign this TCB info."""

    code = "tcb-info-signature-invalid"
    default_fix = "fetch the collateral again; the text must be stored exactly as served"


class QeIdentitySignatureInvalid(CollateralSignatureError):
    """Intel's TCB signing key did not sign this QE identity."""

    code = "qe-identity-signature-invalid"
    default_fix = "fetch the collateral again; the text must be stored exactly as served"


class TcbInfoVersionOutdated(CollateralStaleError):
    """TCB info of version 2, which Intel no longer serves: it cannot say what holds today."""

    code = "tcb-info-version-outdated"
    default_fix = "fetch the collateral from version 4 of Intel's service"


class CertificateNotCurrent(CollateralStaleError):
    """A certificate is not valid at the instant of judgement."""

    code = "certificate-not-current"
    default_fix = (
        "check the clock; for a past event give its instant with --at; or fetch newer data"
    )


class CrlNotCurrent(CollateralStaleError):
    """A revocation list does not cover the instant of judgement."""

    code = "crl-not-current"
    default_fix = "fetch the collateral again; for a past event give its instant with --at"


class CollateralNotCurrent(CollateralStaleError):
    """TCB info or QE identity does not cover the instant of judgement."""

    code = "collateral-not-current"
    default_fix = "fetch the collateral again; for a past event give its instant with --at"


class TcbInfoMismatch(CollateralMismatchError):
    """Genuine TCB info, but of another kind of platform than the one that made the quote."""

    code = "tcb-info-mismatch"
    default_fix = "fetch the collateral for this quote's own FMSPC and PCE"


class CollateralOfOtherPlatforms(CollateralFetchError):
    """None of several collateral bundles is for the kind of platform that made the quote."""

    code = "collateral-of-other-platforms"
    exit_status = Exit.UNDECIDED  # nothing is wrong with the quote: nobody could look
    default_fix = "fetch the collateral for this quote's own FMSPC and PCK authority"


class QeIdentityMismatch(CollateralMismatchError):
    """A genuine identity document, but not of the quoting enclave that made the quote."""

    code = "qe-identity-mismatch"
    default_fix = "fetch the collateral for this quote: SGX and TDX have different QE identities"


class QeNotIntels(QeIdentityError):
    """The enclave that vouches for the attestation key is not Intel's quoting enclave."""

    code = "qe-not-intels"
    default_fix = "do not use it: any enclave on a genuine machine could have made this quote"


class QeTcbLevelUnmatched(QeIdentityError):
    """The quoting enclave is older than every level that Intel lists."""

    code = "qe-tcb-level-unmatched"
    default_fix = "update the platform's SGX software"


class TcbLevelUnmatched(CollateralMismatchError):
    """The platform is below every TCB level that Intel lists for it."""

    code = "tcb-level-unmatched"
    default_fix = "update BIOS, microcode and SGX software of the platform"


class TdxModuleMismatch(CollateralMismatchError):
    """The TDX module beneath a trust domain is not one that Intel lists."""

    code = "tdx-module-mismatch"
    default_fix = "do not use it: something other than Intel's TDX module may have answered"


class TdxModuleLevelUnmatched(CollateralMismatchError):
    """The TDX module is older than every level that Intel lists for its version."""

    code = "tdx-module-level-unmatched"
    default_fix = "update the TDX module of the platform"


class EnclaveDebuggable(EnclaveAttributeError):
    """A debug enclave: its host reads and writes all of its memory."""

    code = "enclave-debuggable"
    default_fix = "build and sign the enclave without debug, and start it so"


class EnclaveAttributesUnaccepted(EnclaveAttributeError):
    """The enclave's attributes are not those that are accepted."""

    code = "enclave-attributes-unaccepted"
    default_fix = "compare the enclave's attributes with what was agreed on"


class TdDebuggable(EnclaveAttributeError):
    """A trust domain under debug, or with another attribute that leaves it without protection."""

    code = "td-debuggable"
    default_fix = "launch the trust domain without debug and without profiling"


class TdAttributesUnaccepted(EnclaveAttributeError):
    """The trust domain's attributes or extended features are not those that are accepted."""

    code = "td-attributes-unaccepted"
    default_fix = "launch the trust domain with SEPT_VE_DISABLE and without the bits named"


class ServiceTdUnaccepted(EnclaveAttributeError):
    """A service domain is bound to the trust domain, and may migrate it or act on it."""

    code = "service-td-unaccepted"
    default_fix = "launch the trust domain without a service domain"


class TcbRevoked(TcbStatusError):
    """Intel revoked this TCB level: nothing on this platform is protected. Never acceptable."""

    code = "tcb-revoked"
    default_fix = "do not release anything to this platform; no option accepts it"


class TcbStatusUnaccepted(TcbStatusError):
    """The platform is genuine, but its TCB status is not among those accepted."""

    code = "tcb-status-unaccepted"
    default_fix = "update the platform, or accept the status explicitly if you can live with it"


class AdvisoryUnaccepted(TcbStatusError):
    """A security advisory applies to the platform that is not among those accepted."""

    code = "advisory-unaccepted"
    default_fix = "read the advisory; update the platform, or accept the advisory explicitly"


class StatusNeverAcceptable(ConfigError):
    """The list of statuses to accept is empty or holds `Revoked`."""

    code = "status-never-acceptable"
    default_fix = "list at least one status other than Revoked"


class EarlyCollateralUnfit(ConfigError):
    """Early collateral that cannot say what the standard collateral at hand will say one day."""

    code = "early-collateral-unfit"
    default_fix = "fetch both for the same platform, the early one with Intel's update `early`"


# The leaves of `pcs`, in the order in which a fetch reaches them.


class PcsAddressMalformed(ConfigError):
    """The address of the collateral service is not `https://HOST[:PORT]`."""

    code = "pcs-address-malformed"
    default_fix = "give scheme, host and port alone; paths are fixed, and plain HTTP is not spoken"


class CaFileUnusable(ConfigError):
    """The file of `--ca` holds no certificates."""

    code = "ca-file-unusable"
    default_fix = (
        "give a PEM file with the certificate, or the authority, of the collateral service"
    )


class QuotesOfDifferentPlatforms(ConfigError):
    """One bundle serves one kind of platform, and the quotes given are of more than one."""

    code = "quotes-of-different-platforms"
    default_fix = "fetch once for each kind of platform, into a bundle of its own"


class PcsUnreachable(CollateralFetchError):
    """The collateral service cannot be reached, or broke off."""

    code = "pcs-unreachable"
    default_fix = "check the address, and that the service runs and speaks HTTPS"


class PcsCertificateUntrusted(CollateralFetchError):
    """Whoever listens there does not show a certificate that is believed for that name."""

    code = "pcs-certificate-untrusted"
    default_fix = "name the certificate or authority of your own service with --ca"


class PcsTooSlow(CollateralFetchError):
    """The collateral service did not finish in time, however much it sent."""

    code = "pcs-too-slow"
    default_fix = "try again later, or give it longer with --timeout"


class PcsRedirects(CollateralFetchError):
    """The collateral service points elsewhere, which is never followed."""

    code = "pcs-redirects"
    default_fix = "give the address of the service itself"


class PcsRefused(CollateralFetchError):
    """The collateral service does not have, or does not give, what was asked for."""

    code = "pcs-refused"
    default_fix = "404: it does not know this platform; otherwise see the service's own log"


class PcsAnswerTooLarge(CollateralFetchError):
    """The collateral service sent more than any collateral takes."""

    code = "pcs-answer-too-large"
    default_fix = "do not use this service"


class PcsAnswerMalformed(CollateralFetchError):
    """An answer of the collateral service lacks a part, or has one twice."""

    code = "pcs-answer-malformed"
    default_fix = "give the address of a service that speaks version 4 of Intel's interface"


class CollateralSourcesExhausted(CollateralFetchError):
    """Of several collateral services, none gave what could be used."""

    code = "collateral-sources-exhausted"
    default_fix = "see what is said of each service"


class CollateralNotCached(CollateralFetchError):
    """No service was asked, and nothing in the cache serves these quotes at this instant."""

    code = "collateral-not-cached"
    default_fix = "fetch once without --offline, with the same --cache, --root and --early"


class CollateralRolledBack(CollateralRollbackError):
    """The service handed out something older than what was seen before, or would be replaced."""

    code = "collateral-rolled-back"
    default_fix = "keep the bundle that you have; to start over, move it away first"


class CollateralMarksCorrupt(ConfigError):
    """What was noted about the newest collateral ever seen cannot be read."""

    code = "collateral-marks-corrupt"
    default_fix = "restore the file; to start over deliberately, remove it"


# The leaves of `responses`: a folder of a service's answers.


class ResponseFileUnexpected(ConfigError):
    """A folder of answers holds a file that is no known part, or a part twice."""

    code = "response-file-unexpected"
    default_fix = "leave one file for each part in the folder, by the names in the help"


class ResponseFileMissing(ConfigError):
    """A folder of answers lacks a part."""

    code = "response-file-missing"
    default_fix = "ask the service for this part too: curl -D PART.headers -o PART ADDRESS"


class ResponseHeadersMalformed(ConfigError):
    """The headers that were kept of an answer are none, or lack the issuer chain."""

    code = "response-headers-malformed"
    default_fix = "ask the service again: curl -D PART.headers -o PART ADDRESS"
