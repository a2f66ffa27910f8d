"""Every refusal that `policy` gives, by the branches of threats.md section 3.

Branches that other packages share (`SchemaError`, `TicketScopeError`, `ResourceLimitError`, …)
stand here, because `policy` is the leftmost package that needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from verifier.errors import (
    CollateralStaleError,
    ConfigError,
    EnclaveAttributeError,
    Exit,
    ModeMismatchError,
    RatlsError,
    TcbStatusError,
)

# Branches: what cannot be read.


class PolicyFormatError(RatlsError):
    """A policy, or the envelope of any signed document, cannot be read."""

    exit_status = Exit.UNUSABLE


class TicketFormatError(RatlsError):
    """A task, commit, acknowledgement, receipt or record cannot be read."""

    exit_status = Exit.UNUSABLE


class SchemaError(RatlsError):
    """Rows do not have the columns that the policy declares."""

    exit_status = Exit.UNUSABLE


class InvalidDataError(RatlsError):
    """A value in the rows is not one that the policy allows."""

    exit_status = Exit.UNUSABLE


class ResourceLimitError(RatlsError):
    """An input is larger than anything honest; refused before any work on it."""

    exit_status = Exit.UNUSABLE


class StateError(RatlsError):
    """What this party accepted earlier is missing or unreadable."""

    exit_status = Exit.UNUSABLE


class AuditError(RatlsError):
    """The journal does not prove what it must prove. Nothing is released on its word."""

    exit_status = Exit.UNUSABLE
    default_fix = (
        "find out who changed the state folder; restore journal and head together from a backup "
        "made after the last release"
    )


# Branches: what is not what was agreed on.


class PolicySignatureError(RatlsError):
    """A signature on a policy does not hold."""

    exit_status = Exit.NOT_ADMITTED


class PolicyThresholdError(RatlsError):
    """Not enough parties signed."""

    exit_status = Exit.NOT_ADMITTED


class PolicyTrustError(RatlsError):
    """The keys that a policy lists are not to be believed."""

    exit_status = Exit.NOT_ADMITTED


class PolicyRollbackError(RatlsError):
    """An older policy than the one already accepted."""

    exit_status = Exit.NOT_ADMITTED


class PolicyConflictError(RatlsError):
    """Another policy than the one that this party holds."""

    exit_status = Exit.NOT_ADMITTED


class PolicyExpiredError(RatlsError):
    """The policy does not hold at this instant."""

    exit_status = Exit.NOT_ADMITTED


class PolicyScopeError(RatlsError):
    """A policy of one thing used for another."""

    exit_status = Exit.NOT_ADMITTED


class TicketSignatureError(RatlsError):
    """A task or commit was not signed by the party that it names."""

    exit_status = Exit.NOT_ADMITTED


class TicketScopeError(RatlsError):
    """A task or commit asks for what the policy does not give."""

    exit_status = Exit.NOT_ADMITTED


class MeasurementError(RatlsError):
    """Another enclave than the policy lists."""

    exit_status = Exit.NOT_ADMITTED


class PlatformDeniedError(RatlsError):
    """A genuine machine that the policy does not list."""

    exit_status = Exit.NOT_ADMITTED


class ResultSignatureError(RatlsError):
    """An acknowledgement, receipt or record was altered or is not signed by its maker."""

    exit_status = Exit.NOT_GENUINE


class ResultBindingError(RatlsError):
    """A result that belongs to another task, policy or recipient."""

    exit_status = Exit.NOT_GENUINE


# Leaves: reading a policy.


class PolicyEncoding(PolicyFormatError):
    """The text has bytes or characters that people cannot see, or that show as others."""

    code = "policy-encoding"
    default_fix = "save the file as UTF-8 with Unix line ends, without invisible characters"


class PolicySyntax(PolicyFormatError):
    """The text is not TOML."""

    code = "policy-syntax"
    default_fix = "correct the file at the named line and column"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of meaning: where it is, what is expected there, what is there."""

    path: str  #          like `party[2].roles[0]`, counted from 0
    line: int | None  #   in the file, counted from 1; None where it cannot be located
    expected: str
    found: str
    fix: str = ""

    @property
    def place(self) -> str:
        return self.path if self.line is None else f"{self.path} (line {self.line})"

    def __str__(self) -> str:
        hint = f" ({self.fix})" if self.fix else ""
        return f"{self.place}: expected {self.expected}, found {self.found}{hint}"


class PolicyInvalid(PolicyFormatError):
    """The document breaks rules of its schema; `problems` has all of them at once."""

    code = "policy-invalid"
    default_fix = "correct the policy; `ratls policy lint` lists every problem"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        rest = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        super().__init__(
            f"policy: {first.place}",
            expected=first.expected,
            found=first.found + rest,
            fix=f"{first.fix}; {self.default_fix}" if first.fix else None,
        )
        self.problems = problems


class PolicyTeeUnsupported(PolicyFormatError):
    """The policy names an enclave of a kind that is not supported yet."""

    code = "policy-tee-unsupported"
    default_fix = 'use tee = "sgx"; other kinds are not supported yet'


class PolicyTooLarge(ResourceLimitError):
    """The policy, or the agreement around it, is larger than anything honest."""

    code = "policy-too-large"
    default_fix = "ask whoever sent it for the right file"


# Leaves: envelopes and signatures.


class EnvelopeMalformed(PolicyFormatError):
    """Not a DSSE envelope in the one form that is read."""

    code = "envelope-malformed"
    default_fix = "ask its sender for the file again; it must arrive byte for byte"


class EnvelopeTooLarge(ResourceLimitError):
    """An envelope with too many bytes or signatures."""

    code = "envelope-too-large"
    default_fix = "ask whoever sent it for the right file"


class EnvelopeTypeDiffers(PolicySignatureError):
    """A document of one kind offered as another."""

    code = "envelope-type-differs"
    default_fix = "check that the right file is named"


class SignatureInvalid(PolicySignatureError):
    """A signature on a policy does not hold for these bytes."""

    code = "signature-invalid"
    default_fix = "ask that party for the agreement as it signed it"


class SignerUnknown(PolicySignatureError):
    """A signature by a key that the policy does not list for this purpose."""

    code = "signer-unknown"
    default_fix = "ask its sender who signed it; the policy lists the keys that may"


class SignatureRepeated(PolicyThresholdError):
    """One key appears twice among the signatures: it would be counted twice."""

    code = "signature-repeated"
    default_fix = "remove the second signature of that key"


# Leaves: agreements.


class AgreementIncomplete(PolicyThresholdError):
    """Parties whose signature is needed have not signed."""

    code = "agreement-incomplete"
    default_fix = "have the named parties run `ratls policy sign`"


class PredecessorNotConsenting(PolicyThresholdError):
    """The parties of the version before did not agree to this one."""

    code = "predecessor-not-consenting"
    default_fix = "have the named parties of the earlier version sign this one too"


class KeyChangeUnsigned(PolicyThresholdError):
    """A party's signing key changes without a signature of its old key."""

    code = "key-change-unsigned"
    default_fix = "have the party sign with its old key as well"


class ChainBroken(PolicyConflictError):
    """The versions in an agreement file do not follow one another."""

    code = "agreement-chain-broken"
    default_fix = "start from the accepted agreement of the version before"


class PolicyKeysShared(PolicyTrustError):
    """One key stands at two places of the policy: one holder could pose as two."""

    code = "policy-keys-shared"
    default_fix = "give every party and every purpose a key of its own"


class PartyNotListed(PolicyTrustError):
    """The policy does not list this party."""

    code = "party-not-listed"
    default_fix = "check --party, or have your party.toml added to the policy"


class AnchorDiffers(PolicyTrustError):
    """The policy lists another key or certificate under this party's id than it holds itself."""

    code = "anchor-differs"
    default_fix = "do not sign: find out who put that key there; your own stands in party.toml"


class OwnSignatureMissing(PolicyThresholdError):
    """This party has not signed the agreement that it is to accept."""

    code = "own-signature-missing"
    default_fix = "read the policy, then run `ratls policy sign`"


class AgreementUnverified(PolicyTrustError):
    """Whoever presents evidence can bring an agreement that fits it: this one was only shown."""

    code = "agreement-unverified"
    exit_status = Exit.UNDECIDED
    default_fix = (
        "compare the digest with the one you signed, and name it with --digest sha256:…; "
        "or name your own folder with --party DIR"
    )


class ConsentMissing(ConfigError):
    """Nobody was asked, and nobody typed which policy is meant: silence is no consent."""

    code = "consent-missing"
    exit_status = Exit.USAGE
    default_fix = (
        "read the policy (`ratls policy show FILE`), then answer at a terminal or add "
        "--yes with its digest, sha256:…"
    )


class PolicyExpired(PolicyExpiredError):
    """The policy's last instant has passed."""

    code = "policy-expired"
    default_fix = "agree on a new version"


class PolicyNotYetValid(PolicyExpiredError):
    """The policy's first instant has not come."""

    code = "policy-not-yet-valid"
    default_fix = "wait until its not_before, and check this machine's clock"


class PolicyRollback(PolicyRollbackError):
    """A version lower than the one already accepted, or no longer in force."""

    code = "policy-rollback"
    default_fix = "use the newest agreement; ask who still offers the old one"


class PolicyConflict(PolicyConflictError):
    """Another policy under a study and version that this party already accepted."""

    code = "policy-conflict"
    default_fix = "compare digests with the other parties: somebody signed two policies"


class PolicyNotAccepted(PolicyConflictError):
    """A document names a policy that this party never accepted."""

    code = "policy-not-accepted"
    default_fix = (
        "compare policy digests with its sender; accept the agreement first if it is right"
    )


class PolicyDigestDiffers(PolicyConflictError):
    """A signed document belongs to another policy than the one in force."""

    code = "policy-digest-differs"
    default_fix = "have it made again under the policy that is in force"


class StudyDiffers(PolicyScopeError):
    """A signed document names another study than its policy."""

    code = "study-differs"
    default_fix = "have it made again for this study"


class StateMissing(StateError):
    """No accepted policy for this study; absence is never a first use."""

    code = "state-missing"
    default_fix = "run `ratls policy accept AGREEMENT`, or name the right --state"


class StateCorrupt(StateError):
    """The stored agreement no longer reads as what was accepted."""

    code = "state-corrupt"
    default_fix = "restore the state folder from a backup, then compare digests with the others"


class StateCopied(StateError):
    """This state folder is not where its journal says: it is a copy, or came from elsewhere."""

    code = "state-copied"
    default_fix = (
        "work in the original folder; where it is gone for good, run "
        "`ratls policy state adopt --state DIR --head sha256:HEAD` once"
    )


# Leaves: the journal.


class JournalAltered(AuditError):
    """A line of the journal is edited, missing, repeated or out of order."""

    code = "journal-altered"


class JournalCut(AuditError):
    """The journal ends before the line that its head names."""

    code = "journal-cut"


class JournalHeadLost(AuditError):
    """There are lines, and the head that would vouch for the last is missing or unreadable."""

    code = "journal-head-lost"


class JournalMissing(AuditError):
    """There is no journal here. It begins when a policy is accepted, and never anew."""

    code = "journal-missing"
    default_fix = (
        "check --state; restore journal and head together from a backup made after the last "
        "release; a folder in which nothing was accepted yet needs `ratls policy accept`"
    )


class JournalNotWritten(AuditError):
    """A record could not be made durable, so what it would have allowed does not happen."""

    code = "journal-not-written"
    default_fix = "make room and check that the state folder is writable by this user alone"


# Leaves: tasks, commits, receipts.


class DocumentMalformed(TicketFormatError):
    """The payload of a signed document does not have exactly its fields."""

    code = "document-malformed"
    default_fix = "ask its sender for the file again; both sides need the same ratls version"


class TaskSignatureInvalid(TicketSignatureError):
    """The task is not signed by the operation key of the submitter that it names."""

    code = "task-signature-invalid"
    default_fix = "ask the submitter for the task as it signed it"


class TaskSubmitterDenied(TicketScopeError):
    """The task's submitter may not ask for this computation."""

    code = "task-submitter-denied"
    default_fix = "have a submitter that the policy lists for this computation sign the task"


class TaskComputationUnknown(TicketScopeError):
    """The policy has no computation of this name."""

    code = "task-computation-unknown"
    default_fix = "use the id of a computation in the policy"


class TaskParameterDenied(TicketScopeError):
    """A parameter that the policy fixes, does not know, or limits otherwise."""

    code = "task-parameter-denied"
    default_fix = "look at the computation's parameters with `ratls policy show`"


class TaskExpired(TicketScopeError):
    """The task's last instant has passed."""

    code = "task-expired"
    default_fix = "sign a new task"


class TaskNotYetValid(TicketScopeError):
    """The task was issued in the future."""

    code = "task-not-yet-valid"
    default_fix = "compare the clocks of the submitter and of this machine"


class CommitSignatureInvalid(TicketSignatureError):
    """The commit is not signed by the operation key of the provider that it names."""

    code = "commit-signature-invalid"
    default_fix = "check that the provider's operation key is the one in the policy"


class CommitScopeDiffers(TicketScopeError):
    """A commit for a dataset that its provider does not own."""

    code = "commit-scope-differs"
    default_fix = "let the owner of the dataset commit it"


class ReceiptSignatureInvalid(ResultSignatureError):
    """The receipt or acknowledgement was altered after the enclave signed it."""

    code = "receipt-signature-invalid"
    default_fix = "use the file as the enclave sent it"


class RecordSignatureInvalid(ResultSignatureError):
    """The record was altered after its holder signed it."""

    code = "record-signature-invalid"
    default_fix = "use the file as its holder wrote it"


class RecordScopeDiffers(ResultBindingError):
    """The record is about another document."""

    code = "record-scope-differs"
    default_fix = "name the record that was stored with this very document"


class ResultDiffers(ResultBindingError):
    """The receipt is about another result than this one, or somebody changed it."""

    code = "result-differs"
    default_fix = "use the result as it was collected, and the receipt that came with it"


class ResultNotOpenable(ResultBindingError):
    """The ciphertext is not for this recipient, task and policy, or was altered."""

    code = "result-not-openable"
    default_fix = "fetch it again; check that --party is the recipient and the task the same"


# Leaves: rows.


class ColumnMissing(SchemaError):
    """A declared column is not there."""

    code = "column-missing"
    default_fix = "give the source every column that the policy declares"


class ColumnUnexpected(SchemaError):
    """A column that the policy does not declare, or one that is there twice."""

    code = "column-unexpected"
    default_fix = "remove it from the source: what nobody agreed on is not sent"


class ColumnTypeDiffers(SchemaError):
    """A column has another type than declared; nothing is cast silently."""

    code = "column-type-differs"
    default_fix = "convert the column at the source"


class ColumnOrderDiffers(SchemaError):
    """The columns are not in the declared order, or carry metadata."""

    code = "column-order-differs"
    default_fix = "send the columns in the policy's order, without schema metadata"


class RowsMalformed(InvalidDataError):
    """The arrays of a batch contradict themselves."""

    code = "rows-malformed"
    default_fix = "write the source again with a current Arrow"


class ValueNull(InvalidDataError):
    """A null in a column that must not have one."""

    code = "value-null"
    default_fix = "fill or drop the row at the source; only a type that ends in ? takes nulls"


class ValueNotFinite(InvalidDataError):
    """NaN or infinity in a column that must not have one."""

    code = "value-not-finite"
    default_fix = "fill or drop the row at the source; only a type that ends in ? takes these"


class ValueOutsideDomain(InvalidDataError):
    """A value outside the declared minimum and maximum."""

    code = "value-outside-domain"
    default_fix = "correct the row at the source, or agree on a wider domain"


# How persons are named, in a dataset's `subject` and in columns with a `spelling`.


class PersonUnnamed(InvalidDataError):
    """A person's id is empty or blank."""

    code = "person-unnamed"
    default_fix = "give the person an id, or leave the row out"


class PersonSpelledWithBlanks(InvalidDataError):
    """A person's id begins or ends with a space, and would count as another person's."""

    code = "person-spelled-with-blanks"
    default_fix = "trim the column at the source: in SQL trim(id), in pandas ids.str.strip()"


class PersonSpelledInvisibly(InvalidDataError):
    """A person's id holds a character that nobody sees, and would count as another person's."""

    code = "person-spelled-invisibly"
    default_fix = "remove control and zero-width characters, and blanks other than the space"


class PersonSpelledInParts(InvalidDataError):
    """A person's id is not in NFC: an accent stands apart, and it would count as another's."""

    code = "person-spelled-in-parts"
    default_fix = (
        "compose the column at the source: in PostgreSQL normalize(id), in pandas "
        'ids.str.normalize("NFC")'
    )


class PersonSpelledInCapitals(InvalidDataError):
    """A person's id is not case-folded, as the policy's spelling `folded` demands."""

    code = "person-spelled-in-capitals"
    default_fix = "fold the column at the source, for example in pandas ids.str.casefold()"


# Leaves: keys and party folders.


class PartyIdMalformed(ConfigError):
    """A party's name is not an id."""

    code = "party-id-malformed"
    default_fix = "use lower-case letters, digits and hyphens, at most 64"


class PartyFolderMalformed(ConfigError):
    """The party folder is not as `ratls party new` made it."""

    code = "party-folder-malformed"
    default_fix = "name the folder that `ratls party new` made"


class KeyPermissions(ConfigError):
    """Others on this machine may read or replace a private key."""

    code = "key-permissions"
    default_fix = "chmod 600 the file; if others had access, make new keys"


class KeyFileMalformed(ConfigError):
    """A private key file that is not an encrypted PEM of a supported key."""

    code = "key-file-malformed"
    default_fix = "restore the file from a backup, or make new keys with `ratls party new`"


class KeyTypeUnsupported(ConfigError):
    """A kind of key that is not accepted for signatures."""

    code = "key-type-unsupported"
    default_fix = "use Ed25519, ECDSA P-256 or P-384, or RSA of at least 3072 bits"


class KeyPairDiffers(ConfigError):
    """A private key does not belong to the public key that stands beside it."""

    code = "key-pair-differs"
    default_fix = "restore the party folder from a backup: its files belong together"


class PassphraseWrong(ConfigError):
    """The passphrase does not open the key file."""

    code = "passphrase-wrong"
    default_fix = "check the passphrase file; a trailing newline is removed, nothing else"


class PassphraseMissing(ConfigError):
    """A passphrase is needed and none can be had."""

    code = "passphrase-missing"
    default_fix = "give --passphrase-file FILE, or run in a terminal to be asked"


# Leaves: admission.


class RootDiffers(ModeMismatchError):
    """The evidence was judged under another root than the policy names."""

    code = "root-differs"
    default_fix = "judge under the root that the policy names"


class EvaluationNumberTooLow(TcbStatusError):
    """The collateral is of an earlier TCB recovery than the policy demands."""

    code = "policy-evaluation-number"
    default_fix = "fetch current collateral; an old one hides what became known since"


class TcbDateTooOld(TcbStatusError):
    """The platform's patch level is older than the policy demands."""

    code = "policy-tcb-date"
    default_fix = "have the operator update the platform"


class CollateralTooOld(CollateralStaleError):
    """The collateral is older than the policy allows."""

    code = "policy-collateral-age"
    default_fix = "fetch current collateral"


class MachineNotListed(PlatformDeniedError):
    """A genuine machine, yet none of those that the policy lists."""

    code = "machine-not-listed"
    default_fix = "ask the operator which machine this is; it may be a diversion"


class FmspcNotListed(PlatformDeniedError):
    """The machine is of a CPU family that the policy does not list."""

    code = "fmspc-not-listed"
    default_fix = "ask the operator which machine this is; it may be a diversion"


class MeasurementNotListed(MeasurementError):
    """The enclave's code is none of those that the policy lists."""

    code = "measurement-not-listed"
    default_fix = "start the agreed release of the enclave, or agree on this one"


class ProductDiffers(MeasurementError):
    """The measured enclave carries another product id than the policy lists."""

    code = "product-differs"
    default_fix = "sign the enclave with the agreed product id"


class SvnTooLow(MeasurementError):
    """The enclave's security version is below the policy's floor."""

    code = "svn-too-low"
    default_fix = "start a release of the enclave with at least the agreed version"


class KssIdPresent(EnclaveAttributeError):
    """The enclave uses key separation ids, which every policy here wants zero."""

    code = "kss-id-present"
    default_fix = "build the enclave without KSS ids"
