"""Branches of the refusals about what is measured and signed."""

from __future__ import annotations

from verifier.errors import Exit, RatlsError


class MeasuredFormatError(RatlsError):
    """A manifest, a loader or a SIGSTRUCT cannot be read."""

    exit_status = Exit.UNUSABLE


class EnclaveSignatureError(RatlsError):
    """The signature over an enclave is invalid."""

    exit_status = Exit.NOT_GENUINE


class MeasurementError(RatlsError):
    """What is measured is not what a party accepts."""

    exit_status = Exit.NOT_ADMITTED
