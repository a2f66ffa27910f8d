"""A simulated Intel on disk.

    root.txt              what a policy writes as `[platform] root`
    collateral.json       what verifiers are given as `--collateral`
    collateral.tdx.json   the same for trust domains of the platform
    intel/                keys and certificates of the whole hierarchy; only Intel has these
    platform/             what an enclave's attester is given, and nothing from `intel/`
    trust-domain/         what the attester of a TDX guest is given, likewise

All keys are written 0600, and nothing that exists is overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from simulation import pck_extension
from simulation.certificates import Issued, PrivateKey
from simulation.intel import Intel, root_name
from simulation.pck_extension import PckExtensionForm
from simulation.platform import Platform
from simulation.quote import QuotingEnclave
from verifier.errors import ConfigError
from verifier.files import (
    FileNotWritten,
    FileUnreadable,
    make_folder,
    read_file,
    write_atomically,
    write_new,
)
from verifier.pck import SGX_TYPES, PckExtension, PckExtensionMalformed
from verifier.text import cause

# Of the platform's enclaves, and of its trust domains.
SGX_COLLATERAL, TDX_COLLATERAL = "collateral.json", "collateral.tdx.json"
PLATFORM, TRUST_DOMAIN = "platform", "trust-domain"  # what their attesters are given

# In the order of `_hierarchy`; the names of the files in `intel/`.
_HIERARCHY = ("root", "processor-ca", "platform-ca", "tcb-signer", "pck")

# Sizes in bytes of what the attester's file holds in hex.
_QUOTING_ENCLAVE_SIZES = {
    "header": 48,
    "qe_report": 384,
    "qe_report_signature": 64,
    "qe_auth_data": 32,
}


class SimulationFolderNotEmpty(ConfigError):
    """The folder for a new simulation is not empty. Nothing is overwritten."""

    code = "simulation-folder-not-empty"
    default_fix = "name a folder that does not exist yet, or an empty one"


def write(intel: Intel, platform: Platform, folder: Path) -> None:
    """Write all of it into a new or empty folder.

    Raises:
        SimulationFolderNotEmpty: The folder holds something already.
        FileNotWritten: The folder cannot be made or does not take a file.
    """
    try:
        make_folder(folder)
        if any(folder.iterdir()):
            raise SimulationFolderNotEmpty(
                str(folder), expected="a new or an empty folder", found="files in it"
            )
        for name in ("intel", PLATFORM, TRUST_DOMAIN):
            (folder / name).mkdir(mode=0o700)
    except OSError as error:
        raise FileNotWritten(str(folder), expected="a new folder", found=cause(error)) from error
    for name, issued in _hierarchy(intel, platform).items():
        write_new(folder / "intel" / f"{name}.key", _key_pem(issued.key))
        write_new(folder / "intel" / f"{name}.crt", issued.pem.encode(), mode=0o644)
    _write_quoting_enclave(platform.quoting_enclave(), folder / PLATFORM)
    domains = platform.quoting_enclave(version=4, tdx=True)
    _write_quoting_enclave(domains, folder / TRUST_DOMAIN)
    write_new(folder / "root.txt", f"{root_name(intel.root)}\n".encode(), mode=0o644)
    for name, bundle in _bundles(intel, platform).items():
        write_new(folder / name, bundle, mode=0o644)


def renew_collateral(folder: Path, at: datetime) -> Platform:
    """Replace the bundles by new ones issued at `at`; root, platform and keys stay.

    Raises:
        SimulationFolderUnusable: No simulation was written here, or it was altered.
    """
    intel, platform = read(folder, at)
    for name, bundle in _bundles(intel, platform).items():
        write_atomically(folder / name, bundle)
    return platform


def read(folder: Path, at: datetime) -> tuple[Intel, Platform]:
    """The hierarchy and the platform that `write` wrote, ready to issue at the instant `at`.

    Raises:
        SimulationFolderUnusable: A file is missing or is not what `write` wrote.
    """
    root, processor_ca, platform_ca, tcb_signer, pck = (
        _read_issued(folder / "intel", name) for name in _HIERARCHY
    )
    enclave = read_quoting_enclave(folder / PLATFORM)
    with _reading(folder / "intel" / "pck.crt"):
        tcb = _pck_extension_form(pck)
    platform = Platform(
        pck=pck,
        ca=processor_ca if tcb.piid is None else platform_ca,
        root=root,
        tcb=tcb,
        attestation_key=enclave.attestation_key,
        qe_id=enclave.header[28:44],
    )
    return Intel(at, root, processor_ca, platform_ca, tcb_signer), platform


def read_quoting_enclave(folder: Path) -> QuotingEnclave:
    """What an attester needs, from the subfolder `platform` or `trust-domain`.

    Raises:
        SimulationFolderUnusable: A file is missing or is not what `write` wrote.
    """
    with _reading(folder / "quoting-enclave.json") as raw:
        document = json.loads(raw)
        parts = {name: bytes.fromhex(document[name]) for name in _QUOTING_ENCLAVE_SIZES}
        if {name: len(part) for name, part in parts.items()} != _QUOTING_ENCLAVE_SIZES:
            raise ValueError("a part has another size")
        chain = document["pck_chain"].encode()
    return QuotingEnclave(
        attestation_key=_read_key(folder / "attestation.key"),
        qe_report=parts["qe_report"],
        qe_report_signature=parts["qe_report_signature"],
        qe_auth_data=parts["qe_auth_data"],
        pck_chain=chain,
        header=parts["header"],
        version=int.from_bytes(parts["header"][:2], "little"),
    )


def _bundles(intel: Intel, platform: Platform) -> dict[str, bytes]:
    return {
        SGX_COLLATERAL: intel.collateral(platform),
        TDX_COLLATERAL: intel.collateral(platform, tdx=True),
    }


def _hierarchy(intel: Intel, platform: Platform) -> dict[str, Issued]:
    members = (intel.root, intel.processor_ca, intel.platform_ca, intel.tcb_signer, platform.pck)
    return dict(zip(_HIERARCHY, members, strict=True))


def _pck_extension_form(pck: Issued) -> PckExtensionForm:
    certificate = x509.load_der_x509_certificate(pck.der)
    oid = x509.ObjectIdentifier(pck_extension.OID)
    value = certificate.extensions.get_extension_for_oid(oid).value.public_bytes()
    read = PckExtension.parse(value)
    who = read.platform
    flags = (bool(who.dynamic_platform), bool(who.cached_keys), bool(who.smt_enabled))
    return PckExtensionForm(
        ppid=who.ppid,
        components=read.tcb.components,
        pce_svn=read.tcb.pce_svn,
        cpu_svn=read.tcb.cpu_svn,
        pce_id=who.pce_id,
        fmspc=who.fmspc,
        sgx_type=SGX_TYPES.index(who.sgx_type),
        piid=who.piid,
        configuration=None if who.piid is None else flags,
    )


def _write_quoting_enclave(enclave: QuotingEnclave, folder: Path) -> None:
    write_new(folder / "attestation.key", _key_pem(enclave.attestation_key))
    document = {name: getattr(enclave, name).hex() for name in _QUOTING_ENCLAVE_SIZES}
    document["pck_chain"] = enclave.pck_chain.decode()
    text = json.dumps(document, indent=1).encode() + b"\n"
    write_new(folder / "quoting-enclave.json", text)


def _read_issued(folder: Path, name: str) -> Issued:
    with _reading(folder / f"{name}.crt") as raw:
        certificate = x509.load_pem_x509_certificate(raw)
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return Issued(
        der=certificate.public_bytes(Encoding.DER),
        key=_read_key(folder / f"{name}.key"),
        subject=certificate.subject,
        serial=certificate.serial_number,
        key_identifier=identifier.value.digest,
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    with _reading(path) as raw:
        key = load_pem_private_key(raw, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("not a P-256 key")
    return key


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class SimulationFolderUnusable(ConfigError):
    """A simulation's folder lacks a file, or a file in it was changed."""

    code = "simulation-folder-unusable"
    default_fix = "make another with `ratls simulation new DIR`, and name that folder"
    says = "{thing} is not as `ratls simulation new` wrote it: {found}"


@contextmanager
def _reading(path: Path) -> Iterator[bytes]:
    """The bytes of a file; errors of the parsers in the block become one refusal."""
    expected = "what `ratls simulation new` wrote"
    try:
        yield read_file(path)
    except FileUnreadable as error:
        raise SimulationFolderUnusable(str(path), expected=expected, found=error.found) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        PckExtensionMalformed,
    ) as error:
        # The parsers' messages may quote the content, which may be a key.
        raise SimulationFolderUnusable(str(path), expected=expected, found="other bytes") from error
