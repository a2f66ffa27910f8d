"""A whole Intel in memory, for simulations and tests: exact formats, own keys.

    intel = Intel.create(at)
    platform = intel.platform()
    raw = platform.quote(bytes(64))
    verify_quote(raw, Collateral.parse(intel.collateral(platform)), roots=intel.anchors(), at=at)

    raw = platform.td_quote(bytes(64))  # of a trust domain; its collateral is TDX's
    intel.collateral(platform, tdx=True)

Everything can be altered where it is made, by a hook that receives the form before it is
signed and returns another; what stands below is signed again, so that exactly one thing is wrong:

    Intel.create(at, platform_ca=lambda c: replace(c, not_after=at - SECOND))
    intel.platform(sgx=lambda e: replace(e, ppid=bytes(15)).encode())
    platform.quote(bytes(64), qe_report=lambda r: replace(r, isv_prod_id=2))
    platform.td_quote(bytes(64), version=5, descriptor=lambda d: replace(d, body_type=3))
    intel.collateral(platform, pck_crl=lambda c: replace(c, revoked=(platform.pck.serial,)))
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from simulation import documents, pck_extension
from simulation.certificates import (
    CertificateForm,
    CrlForm,
    Extension,
    Issued,
    PrivateKey,
    Random,
    intel_name,
    key_identifier,
    key_usage,
    new_key,
    new_serial,
)
from simulation.documents import Document
from simulation.pck_extension import PckExtensionForm
from simulation.platform import (
    QE_ISV_SVN,
    QE_MR_SIGNER,
    TD_QE_ISV_SVN,
    TD_QE_MR_SIGNER,
    TEE_TCB_SVN,
    Hook,
    Platform,
    unaltered,
)
from verifier.anchors import Mode, TrustAnchors

ROOT_CN = "Intel SGX Root CA"
PROCESSOR_CA_CN = "Intel SGX PCK Processor CA"
PLATFORM_CA_CN = "Intel SGX PCK Platform CA"
TCB_SIGNER_CN = "Intel SGX TCB Signing"
PCK_CN = "Intel SGX PCK Certificate"

DAY = timedelta(days=1)
YEAR = 365 * DAY
SECOND = timedelta(seconds=1)
COLLATERAL_VALIDITY = 30 * DAY

# A server of the third Xeon generation, as patched as its TCB info asks for.
FMSPC = bytes.fromhex("00606a000000")
COMPONENTS = (15, 16, 3, 3, 255, 255, 1, *(0,) * 9)
PCE_SVN = 13
TDX_COMPONENTS = (5, 0, 2, *(0,) * 13)  # judged through the module's identity: no version
# Where real certificates name Intel's servers; `.invalid` is never resolved (RFC 6761).
_CRL_ADDRESS = "https://simulation.invalid/sgx/certification/v4/"


@dataclass(frozen=True, slots=True)
class Intel:
    """Root, the two PCK CAs and the TCB signer, with their keys."""

    at: datetime
    root: Issued
    processor_ca: Issued
    platform_ca: Issued
    tcb_signer: Issued
    random: Random = os.urandom

    @classmethod
    def create(
        cls,
        at: datetime,
        *,
        root: Hook[CertificateForm] = unaltered,
        processor_ca: Hook[CertificateForm] = unaltered,
        platform_ca: Hook[CertificateForm] = unaltered,
        tcb_signer: Hook[CertificateForm] = unaltered,
        random: Random = os.urandom,
    ) -> Intel:
        """A new hierarchy, whose certificates and collateral hold around the instant `at`.

        Two calls give evil twins of each other: the same names, other keys. See also `twin`.
        """
        at = at.astimezone(UTC).replace(microsecond=0)
        key = new_key(random)
        form = _certificate(ROOT_CN, key, random=random, at=at, ca_path_length=1)
        root_ca = root(replace(form, not_after=at + 25 * YEAR)).issue()

        def below(common_name: str, hook: Hook[CertificateForm], path: int | None) -> Issued:
            own = new_key(random)
            return hook(
                _certificate(
                    common_name, own, issuer=root_ca, random=random, at=at, ca_path_length=path
                )
            ).issue()

        return cls(
            at,
            root_ca,
            below(PROCESSOR_CA_CN, processor_ca, 0),
            below(PLATFORM_CA_CN, platform_ca, 0),
            below(TCB_SIGNER_CN, tcb_signer, None),
            random,
        )

    def twin(self) -> Intel:
        """Another Intel: the same names, dates, serials and key identifiers, and other keys."""

        def like(original: Issued) -> Hook[CertificateForm]:
            identifier = x509.SubjectKeyIdentifier(original.key_identifier)
            return lambda form: replace(form, serial=original.serial).extended(identifier)

        return Intel.create(
            self.at,
            root=lambda form: _authority(like(self.root)(form), self.root.key_identifier),
            processor_ca=like(self.processor_ca),
            platform_ca=like(self.platform_ca),
            tcb_signer=like(self.tcb_signer),
            random=self.random,
        )

    def anchors(self) -> TrustAnchors:
        """Anchors that trust this root alone."""
        return TrustAnchors(Mode.SIMULATION, self.root.spki_sha256, root_name(self.root))

    def platform(
        self,
        *,
        processor: bool = False,
        fmspc: bytes = FMSPC,
        ppid: bytes | None = None,
        piid: bytes | None = None,
        pce_id: bytes = bytes(2),
        components: Sequence[int] = COMPONENTS,
        pce_svn: int = PCE_SVN,
        configuration: tuple[bool, bool, bool] = (True, False, True),
        sgx: Callable[[PckExtensionForm], bytes] = PckExtensionForm.encode,
        pck: Hook[CertificateForm] = unaltered,
    ) -> Platform:
        """A machine with its PCK certificate.

        Args:
            processor: Certified by the Processor CA (5 elements) instead of the Platform CA (7).
            configuration: Dynamic platform, cached keys, SMT; Platform CA only.
            sgx: From the SGX extension's values to its DER; may alter either.
            pck: Alters the PCK certificate before it is signed.
        """
        ca = self.processor_ca if processor else self.platform_ca
        extension = PckExtensionForm(
            ppid=ppid or self.random(16),
            components=tuple(components),
            pce_svn=pce_svn,
            cpu_svn=bytes(min(max(c, 0), 255) for c in components),
            pce_id=pce_id,
            fmspc=fmspc,
            sgx_type=0 if processor else 1,
            piid=None if processor else piid or self.random(16),
            configuration=None if processor else configuration,
        )
        form = _certificate(PCK_CN, new_key(self.random), issuer=ca, random=self.random, at=self.at)
        form = form.extended(Extension(pck_extension.OID, sgx(extension)))
        leaf = pck(form).issue()
        return Platform(
            pck=leaf,
            ca=ca,
            root=self.root,
            tcb=extension,
            attestation_key=new_key(self.random),
            qe_id=self.random(16),
        )

    def collateral(
        self,
        platform: Platform,
        *,
        tdx: bool = False,
        at: datetime | None = None,
        root_crl: Hook[CrlForm] = unaltered,
        pck_crl: Hook[CrlForm] = unaltered,
        tcb_info: Hook[Document] = unaltered,
        tcb_info_text: Hook[str] = unaltered,
        tcb_info_key: ec.EllipticCurvePrivateKey | None = None,
        qe_identity: Hook[Document] = unaltered,
        qe_identity_text: Hook[str] = unaltered,
        qe_identity_key: ec.EllipticCurvePrivateKey | None = None,
        bundle: Hook[Document] = unaltered,
    ) -> bytes:
        """What Intel publishes about this platform: one JSON bundle, issued at `at`.

        Args:
            tdx: For its trust domains, instead of its enclaves.
            tcb_info: Alters the document; `tcb_info_text` its JSON, both before it is signed.
            tcb_info_key: Signs in the place of the TCB signer. The same three for the QE.
            bundle: Alters the members of the bundle after everything was signed.
        """
        at = (at or self.at).astimezone(UTC).replace(microsecond=0)
        info = tcb_info_text(documents.compact(tcb_info(_default_tcb_info(platform, at, tdx=tdx))))
        identity = qe_identity_text(
            documents.compact(qe_identity(_default_qe_identity(at, tdx=tdx)))
        )
        signer, signer_chain = self.tcb_signer, self.tcb_signer.pem + self.root.pem
        members = {
            "pck_crl_issuer_chain": platform.ca.pem + self.root.pem,
            "root_ca_crl": root_crl(_crl(self.root, at, validity=YEAR)).issue().hex(),
            "pck_crl": pck_crl(_crl(platform.ca, at)).issue().hex(),
            "tcb_info_issuer_chain": signer_chain,
            "tcb_info": info,
            "tcb_info_signature": documents.signature(tcb_info_key or signer.ec_key, info),
            "qe_identity_issuer_chain": signer_chain,
            "qe_identity": identity,
            "qe_identity_signature": documents.signature(
                qe_identity_key or signer.ec_key, identity
            ),
        }
        return json.dumps(bundle(members), indent=1, ensure_ascii=False).encode() + b"\n"


def root_name(root: Issued) -> str:
    """`simulation:sha256:<hex of SHA-256 of the root's SPKI>`: what a policy writes."""
    return f"simulation:sha256:{root.spki_sha256.hex()}"


def _certificate(
    common_name: str,
    key: PrivateKey,
    *,
    at: datetime,
    random: Random,
    issuer: Issued | None = None,
    ca_path_length: int | None = None,
) -> CertificateForm:
    """A form of Intel's profile; without issuer self-signed, without path length no CA."""
    name = intel_name(common_name)
    own = key_identifier(key)
    ca = ca_path_length is not None
    address = x509.UniformResourceIdentifier(_CRL_ADDRESS + _crl_path(issuer))
    point = x509.DistributionPoint([address], None, None, None)
    form = CertificateForm(
        subject=name,
        issuer=issuer.subject if issuer else name,
        serial=new_serial(random),
        not_before=at - YEAR if ca else at - 30 * DAY,
        not_after=at + (10 * YEAR if ca else 7 * YEAR),
        key=key,
        signer=issuer.key if issuer else key,
        algorithm=hashes.SHA256(),
        extensions=(
            Extension.of(x509.AuthorityKeyIdentifier(own, None, None)),
            Extension.of(x509.CRLDistributionPoints([point])),
            Extension.of(x509.SubjectKeyIdentifier(own)),
            Extension.of(key_usage(signs_certificates=ca), critical=True),
            Extension.of(x509.BasicConstraints(ca, ca_path_length), critical=True),
        ),
    )
    return _authority(form, issuer.key_identifier if issuer else own)


def _authority(form: CertificateForm, identifier: bytes) -> CertificateForm:
    return form.extended(x509.AuthorityKeyIdentifier(identifier, None, None))


def _crl_path(issuer: Issued | None) -> str:
    names = {intel_name(PROCESSOR_CA_CN): "processor", intel_name(PLATFORM_CA_CN): "platform"}
    ca = names.get(issuer.subject) if issuer else None
    return f"pckcrl?ca={ca}&encoding=der" if ca else "rootcacrl"


def _crl(ca: Issued, at: datetime, *, validity: timedelta = COLLATERAL_VALIDITY) -> CrlForm:
    return CrlForm(
        issuer=ca.subject,
        signer=ca.key,
        this_update=at,
        next_update=at + validity,
        algorithm=hashes.SHA256(),
        extensions=(
            Extension.of(x509.CRLNumber(1)),
            Extension.of(x509.AuthorityKeyIdentifier(ca.key_identifier, None, None)),
        ),
    )


def _default_tcb_info(platform: Platform, at: datetime, *, tdx: bool) -> Document:
    """Two levels: what this platform has, UpToDate; anything older, OutOfDate.

    For its trust domains also the TDX modules of versions 1 and 3.
    """
    version_1 = _default_svn_levels(TEE_TCB_SVN[0], 2, at, "INTEL-SA-99996")
    version_3 = [documents.qe_level(3, date=_midnight(at - 30 * DAY))]
    modules = [
        documents.tdx_module_identity(3, version_3),
        documents.tdx_module_identity(1, version_1),
    ]
    return documents.tcb_info(
        fmspc=platform.tcb.fmspc,
        pce_id=platform.tcb.pce_id,
        issue=at,
        next_update=at + COLLATERAL_VALIDITY,
        module=documents.tdx_module() if tdx else None,
        identities=modules if tdx else None,
        levels=_default_levels(platform, at, TDX_COMPONENTS if tdx else None),
    )


def _default_levels(
    platform: Platform, at: datetime, tdx: Sequence[int] | None = None
) -> list[Document]:
    tcb = platform.tcb
    older = [c if c == 255 else c // 2 for c in tcb.components]
    return [
        documents.tcb_level(tcb.components, tcb.pce_svn, date=_midnight(at - 30 * DAY), tdx=tdx),
        documents.tcb_level(
            older,
            tcb.pce_svn // 2,
            date=_midnight(at - YEAR),
            status="OutOfDate",
            advisories=["INTEL-SA-99998"],
            tdx=tdx and [c // 2 for c in tdx],
        ),
    ]


def _default_qe_identity(at: datetime, *, tdx: bool) -> Document:
    isv_svn = TD_QE_ISV_SVN if tdx else QE_ISV_SVN
    return documents.qe_identity(
        mr_signer=TD_QE_MR_SIGNER if tdx else QE_MR_SIGNER,
        issue=at,
        next_update=at + COLLATERAL_VALIDITY,
        levels=_default_svn_levels(isv_svn, isv_svn - 2, at, "INTEL-SA-99999"),
        tdx=tdx,
    )


def _default_svn_levels(newest: int, older: int, at: datetime, advisory: str) -> list[Document]:
    new, old = _midnight(at - 30 * DAY), _midnight(at - YEAR)
    return [
        documents.qe_level(newest, date=new),
        documents.qe_level(older, date=old, status="OutOfDate", advisories=[advisory]),
    ]


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0)
