"""The branches of the refusals that `policy` gives; docs/errors.md lists all leaves.

Branches that other packages share (`SchemaError`, `TicketScopeError`, `ResourceLimitError`, …)
stand here, because `policy` is the leftmost package that needs them.
"""

from __future__ import annotations

from verifier.errors import ConfigError, Exit, RatlsError

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
    """An input is too large; refused before any work on it."""

    exit_status = Exit.UNUSABLE


class StateError(RatlsError):
    """What this party accepted is missing or unreadable."""

    exit_status = Exit.UNUSABLE


class AuditError(RatlsError):
    """The journal is missing, damaged or inconsistent. Nothing is released."""

    exit_status = Exit.UNUSABLE
    default_fix = (
        "find out who changed the state folder; restore journal and head together from a backup "
        "made after the last release"
    )


# Branches: what differs from the agreement.


class PolicySignatureError(RatlsError):
    """A signature on a policy is invalid."""

    exit_status = Exit.NOT_ADMITTED


class PolicyThresholdError(RatlsError):
    """Not enough parties signed."""

    exit_status = Exit.NOT_ADMITTED


class PolicyTrustError(RatlsError):
    """A key that a policy lists is not the right one."""

    exit_status = Exit.NOT_ADMITTED


class PolicyConflictError(RatlsError):
    """A policy, or a document under it, differs from the one that this party accepted."""

    exit_status = Exit.NOT_ADMITTED


class PolicyExpiredError(RatlsError):
    """The policy is not in force at this instant."""

    exit_status = Exit.NOT_ADMITTED


class TicketSignatureError(RatlsError):
    """A task or commit was not signed by the party that it names."""

    exit_status = Exit.NOT_ADMITTED


class TicketScopeError(RatlsError):
    """A task or commit asks for something that the policy does not allow."""

    exit_status = Exit.NOT_ADMITTED


class MeasurementError(RatlsError):
    """The enclave is not one that the policy lists."""

    exit_status = Exit.NOT_ADMITTED


class PlatformDeniedError(RatlsError):
    """The machine is genuine, but not one that the policy lists."""

    exit_status = Exit.NOT_ADMITTED


class ResultSignatureError(RatlsError):
    """An acknowledgement, receipt or record was altered or is not signed by its maker."""

    exit_status = Exit.NOT_GENUINE


class ResultBindingError(RatlsError):
    """A result belongs to another task, policy or recipient."""

    exit_status = Exit.NOT_GENUINE


# Leaves that several modules raise.


class PartyNotListed(PolicyTrustError):
    """The policy does not list this party."""

    code = "party-not-listed"
    default_fix = "name the right --party, or have your party.toml added to the policy"


class PolicyConflict(PolicyConflictError):
    """Another policy under a study and version that this party already accepted."""

    code = "policy-conflict"
    default_fix = "compare policy digests with the other parties"


class PartyFolderMalformed(ConfigError):
    """The party folder is not as `ratls party new` made it."""

    code = "party-folder-malformed"
    default_fix = "name the folder that `ratls party new` made"


class KeyPermissions(ConfigError):
    """Others on this machine may read or replace a private key."""

    code = "key-permissions"
    default_fix = "chmod 600 the file; if others had access, make new keys"


class PassphraseMissing(ConfigError):
    """A passphrase is needed and none was given."""

    code = "passphrase-missing"
    default_fix = "give --passphrase-file FILE, or run in a terminal to be asked"
