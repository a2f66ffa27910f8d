"""What `ratls measure manifest` compares a measurement with: signature, policy, files.

require_same(sigstruct, manifest, measurement)
require_agreed(policy, manifest, measurement)
"""

from __future__ import annotations

from pathlib import Path

from policy.document import Policy
from policy.fields import little_endian
from policy.sections import Enclave
from verifier.files import parse_file
from verifier.gramine.errors import MeasurementError
from verifier.gramine.known import LIBSYSDBS, require_known_loader
from verifier.gramine.lint import lint, require_acceptable
from verifier.gramine.loader import FILE_CAP as LOADER_CAP
from verifier.gramine.loader import Loader
from verifier.gramine.measurement import Measurement, measure
from verifier.gramine.signed import SignedManifest
from verifier.gramine.sigstruct import Sigstruct, unsigned

_INIT = 0x1  # set by the processor when the enclave starts


class SigstructOfAnother(MeasurementError):
    """A SIGSTRUCT is not that of this manifest and loader."""

    code = "sigstruct-of-another"
    default_fix = "name the .sig file that was written with this manifest, or sign it again"


class MeasurementNotAgreed(MeasurementError):
    """No enclave of the policy is the one that was measured."""

    code = "measurement-not-agreed"
    default_fix = "compare the release with the other parties; `ratls measure diff` shows changes"


def require_same(sigstruct: Sigstruct, manifest: SignedManifest, measurement: Measurement) -> None:
    """What was signed is what was measured, with the attributes that the manifest asks for.

    Raises: SigstructOfAnother, and as `unsigned`.
    """
    wanted = unsigned(manifest, measurement.mr_enclave, sigstruct.day)
    expected = Sigstruct(wanted).as_json()
    for name, value in sigstruct.as_json().items():
        # Who signed and when does not stand in the manifest.
        if name not in {"mr_signer", "date", "vendor", "sw_defined"} and value != expected[name]:
            raise SigstructOfAnother(
                f"SIGSTRUCT: {name}", expected=str(expected[name]), found=str(value)
            )


def require_agreed(policy: Policy, manifest: SignedManifest, measurement: Measurement) -> str:
    """The name of the policy's enclave that this is.

    Raises: MeasurementNotAgreed.
    """
    enclaves = [e for e in policy.enclave if isinstance(e, Enclave)]
    for enclave in enclaves:
        if enclave.mr_enclave == str(measurement.mr_enclave):
            break
    else:
        agreed = " or ".join(e.mr_enclave for e in enclaves) or "one of SGX"
        raise MeasurementNotAgreed("MRENCLAVE", expected=agreed, found=str(measurement.mr_enclave))
    sgx = manifest.table("sgx")
    if sgx.get("isvprodid") != enclave.isv_prod_id:
        raise MeasurementNotAgreed(
            "sgx.isvprodid", expected=str(enclave.isv_prod_id), found=ascii(sgx.get("isvprodid"))
        )
    svn = sgx.get("isvsvn")
    if type(svn) is not int or svn < enclave.min_isv_svn:
        raise MeasurementNotAgreed(
            "sgx.isvsvn", expected=f"{enclave.min_isv_svn} or higher", found=ascii(svn)
        )
    return enclave.name


def require_agreed_attributes(policy: Policy, name: str, sigstruct: Sigstruct) -> None:
    """A quote of an enclave that is started with this SIGSTRUCT could pass the policy.

    Raises: MeasurementNotAgreed.
    """
    agreed = next(e for e in policy.enclave if isinstance(e, Enclave) and e.name == name).attributes
    for thing, found, wanted, mask in (
        ("flags", sigstruct.flags | _INIT, agreed.flags, agreed.flags_mask),
        ("xfrm", sigstruct.xfrm, agreed.xfrm, agreed.xfrm_mask),
        ("misc_select", sigstruct.misc_select, agreed.misc_select, agreed.misc_select_mask),
    ):
        if (found ^ little_endian(wanted)) & little_endian(mask):
            raise MeasurementNotAgreed(
                f"SIGSTRUCT: {thing}",
                expected=f"{little_endian(wanted):#x} under {little_endian(mask):#x}",
                found=f"{found:#x}",
            )


def accepted_measurement(
    signed: Path, libpal: Path, expect_libpal: str | None, expect_libsysdb: str | None
) -> tuple[SignedManifest, Measurement]:
    """What a manifest and a loader measure to, where a party would accept both.

    Args:
        expect_libpal: SHA-256 in hex that the caller vouches for, in place of the known builds.
        expect_libsysdb: As `expect_libpal`, of the library OS.

    Raises: FileUnreadable, ManifestMalformed, LoaderMalformed, LoaderUnknown, ManifestRefused, and
        as `measure`.
    """
    manifest = parse_file(signed, SignedManifest.parse)
    loader = parse_file(libpal, Loader.parse, cap=LOADER_CAP)
    require_known_loader(loader.sha256, expect_libpal)
    libsysdbs = LIBSYSDBS if expect_libsysdb is None else frozenset({expect_libsysdb})
    require_acceptable(lint(manifest, libsysdbs=libsysdbs), str(signed))
    return manifest, measure(manifest, loader)
