"""T04, T20: collateral as other tools write it, and a PCK chain that comes with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import count_refusal, refused
from tests.verifier.test_responses import FOLDER, changed, without
from tests.verifier.world import AT, World, processor_world, put, world
from verifier import Collateral, TrustAnchors, VerifiedQuote, find_quote, verify_quote
from verifier import errors as e
from verifier.bundles import Bundles, SeveralBundles, read_bundles, read_collateral
from verifier.certificate import PLATFORM_CA, CertificateMalformed, RootUntrusted, read_chain
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.crl import CrlMalformed
from verifier.document import CollateralMalformed
from verifier.pck import PckChainOfAnotherQuote
from verifier.platform_collaterals import is_platform_collaterals, read_platform_collaterals
from verifier.qe import QeReportSignatureInvalid
from verifier.quote import Quote, QuoteUnsupported
from verifier.responses import (
    ResponseFileMissing,
    ResponseFileUnexpected,
    certificate_pem,
    read_folder,
)
from verifier.verify import QuoteCheck

W = world()
PUBLISHED = W.collateral()
CHAIN = W.platform.pck_chain.rstrip(b"\0").decode()
SISTER = W.with_platform()  # another machine, of the same kind
JSON = json.loads(PUBLISHED.raw)


def bundle(**members: object) -> Collateral:
    return Collateral.parse(json.dumps(JSON | members).encode())


# The member `pck_certificate_chain`


@pytest.mark.parametrize(
    "chain", [None, CHAIN, CHAIN + "\0"], ids=["null", "its-own", "with-its-NUL"]
)
def test_a_bundle_with_the_chain_of_its_quote(chain: str | None) -> None:
    found = bundle(pck_certificate_chain=chain)
    assert W.verify(collateral=found).tcb == W.verify().tcb
    assert (found == PUBLISHED) is (chain is None)


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(SISTER.platform.pck_chain.rstrip(b"\0").decode(), id="of-another-machine"),
        pytest.param(CHAIN.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(CHAIN + "\n", id="a-line-more"),
        pytest.param(" " + CHAIN, id="a-space-more"),
        pytest.param("", id="empty"),
        pytest.param("undefined", id="undefined"),
    ],
)
def test_a_bundle_with_another_chain_than_the_quote(chain: str) -> None:
    """Two chains, one that is checked and one that others show, would be two machines."""
    with refused(PckChainOfAnotherQuote, check=QuoteCheck.PCK_CHAIN):
        W.verify(collateral=bundle(pck_certificate_chain=chain))


@pytest.mark.parametrize("chain", [1, True, [], [CHAIN], {"pem": CHAIN}])
def test_a_chain_that_is_no_text(chain: object) -> None:
    with refused(CollateralMalformed) as seen:
        bundle(pck_certificate_chain=chain)
    assert "pck_certificate_chain" in seen.error.thing


def test_a_genuine_bundle_of_another_verifier(vectors: Path) -> None:
    folder = vectors / "field" / "no-quotes"
    collateral = Collateral.parse((folder / "mpc_collateral.json").read_bytes())
    at, roots = datetime.fromtimestamp(1787894484, UTC), TrustAnchors.intel()
    raw = (folder / "mpc.bin").read_bytes()
    verified = verify_quote(find_quote(raw).raw, collateral, roots=roots, at=at)
    assert verified.quote.tee == "tdx"
    other = (vectors / "field" / "quotes" / "709a3cc2.bin").read_bytes()
    with refused(PckChainOfAnotherQuote, check=QuoteCheck.PCK_CHAIN):
        verify_quote(other, collateral, roots=roots, at=at)


# A quote without a chain


def without_chain(w: World = W, kind: int = 3, size: int = 404, **more: Any) -> bytes:
    """A quote that only names its platform, as one does that is made without the certificate."""
    form = lambda f: replace(  # noqa: E731
        f, certification_data_type=kind, certification_data=bytes(size)
    )
    return w.quote(form=form, **more)


def judged(raw: bytes, chain: str | None) -> VerifiedQuote:
    return W.verify(quote=raw, collateral=bundle(pck_certificate_chain=chain))


def test_a_bundle_supplies_the_chain() -> None:
    found = judged(without_chain(), CHAIN)
    assert found.platform == W.verify().platform
    assert found.tcb == W.verify().tcb
    assert judged(without_chain(), CHAIN + "\0").tcb == found.tcb


def test_a_bundle_supplies_the_chain_of_a_trust_domain() -> None:
    form = lambda f: replace(f, certification_data_type=3, certification_data=bytes(404))  # noqa: E731
    raw = W.platform.td_quote(form=form)
    tdx = json.loads(W.collateral(tdx=True).raw) | {"pck_certificate_chain": CHAIN}
    found = W.verify(quote=raw, collateral=Collateral.parse(json.dumps(tdx).encode()))
    assert found.platform == W.verify().platform


def test_nobody_supplies_the_chain() -> None:
    with refused(QuoteUnsupported, check=QuoteCheck.QUOTE_FORMAT) as seen:
        judged(without_chain(), None)
    assert "pck_certificate_chain" in seen.error.fix


@pytest.mark.parametrize(("kind", "size"), [(1, 36), (2, 276), (4, 800)])
def test_a_chain_is_supplied_for_one_kind_alone(kind: int, size: int) -> None:
    with refused(QuoteUnsupported, check=QuoteCheck.QUOTE_FORMAT):
        judged(without_chain(kind=kind, size=size), CHAIN)


def test_the_chain_of_another_machine_is_supplied() -> None:
    """Genuine, of the same kind: but its key did not sign for this quoting enclave."""
    other = SISTER.platform.pck_chain.rstrip(b"\0").decode()
    with refused(QeReportSignatureInvalid, check=QuoteCheck.QE_REPORT_SIGNATURE):
        judged(without_chain(), other)


def test_a_chain_of_somebody_elses_root_is_supplied() -> None:
    twin = W.intel.twin().platform().pck_chain.rstrip(b"\0").decode()
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        judged(without_chain(), twin)


def test_text_is_supplied_for_a_chain() -> None:
    with refused(CertificateMalformed, check=QuoteCheck.PCK_CHAIN):
        judged(without_chain(), "undefined")


def test_of_several_bundles_the_one_that_came_with_the_quote(tmp_path: Path) -> None:
    other = SISTER.platform.pck_chain.rstrip(b"\0").decode()
    given = bundles_of(
        tmp_path,
        JSON | {"pck_certificate_chain": other},
        JSON | {"pck_certificate_chain": CHAIN},
        JSON | {"pck_certificate_chain": None},
    )
    chains = {
        own: given.collateral_for(find_quote(raw).received()).pck_certificate_chain
        for own, raw in {
            "theirs": without_chain(SISTER),
            "ours": without_chain(),
            "ours-with-chain": W.quote(),
            "another": W.with_platform().quote(),
        }.items()
    }
    assert chains["theirs"] == other.encode()
    assert chains["ours"] == CHAIN.encode()
    assert chains["ours-with-chain"] in (CHAIN.encode(), None)
    assert chains["another"] is None


def bundles_of(folder: Path, *given: dict[str, Any]) -> Bundles:
    paths = []
    for number, members in enumerate(given):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(members), "utf-8")
    return Bundles.read(paths, W.intel.anchors(), AT)


# Another layout


@pytest.mark.parametrize(
    ("members", "named"),
    [
        pytest.param({"version": 3}, "version", id="a-member-more"),
        pytest.param({"tcb_info": {"id": "SGX"}}, "tcb_info", id="TCB-info-as-an-object"),
        pytest.param({"qe_identity": None}, "qe_identity", id="null"),
        pytest.param({"tcb_info_signature": "00" * 63}, "tcb_info_signature", id="short"),
        pytest.param({"tcbInfo": "x"}, "tcbInfo", id="another-spelling"),
    ],
)
def test_a_remedy_names_the_member_of_another_layout(
    members: dict[str, object], named: str
) -> None:
    """To fetch it again would bring the same file."""
    with refused(CollateralMalformed) as seen:
        bundle(**members)
    assert named in str(seen.error)
    assert "fetch" not in seen.error.fix
    assert "tcb_info_issuer_chain" in seen.error.fix


# Chains as PEM beside bare JSON, and answers recorded whole

CHAINS = {
    "pckcrl": PUBLISHED.pck_crl_issuer_chain,
    "tcb": PUBLISHED.tcb_info_issuer_chain,
    "identity": PUBLISHED.qe_identity_issuer_chain,
}
BARE = without(*(name for name in FOLDER if name.endswith(".headers")))


def same_documents(found: Collateral) -> bool:
    return (found.tcb_info, found.qe_identity, found.pck_crl) == (
        PUBLISHED.tcb_info,
        PUBLISHED.qe_identity,
        PUBLISHED.pck_crl,
    ) and W.verify(collateral=found).tcb == W.verify().tcb


def root_first(pem: str) -> bytes:
    issuer, root = read_chain(pem, 2, "chain")
    return (certificate_pem(root.der) + certificate_pem(issuer.der)).encode()


@pytest.mark.parametrize("ending", [".chain", ".chain.pem"])
@pytest.mark.parametrize("write", [str.encode, root_first], ids=["as-served", "root-first"])
def test_issuer_chains_as_files(ending: str, write: Callable[[str], bytes]) -> None:
    chains = {f"{part}{ending}": write(pem) for part, pem in CHAINS.items()}
    assert same_documents(read_folder({**BARE, **chains}))


def test_the_files_of_intels_sample() -> None:
    """The root that it trusts is a file too, and is never read: who writes it would be Intel."""
    assert same_documents(
        read_folder(
            {
                "rootCaCrl.der": bytes.fromhex(PUBLISHED.root_ca_crl.decode()),
                "intermediateCaCrl.der": bytes.fromhex(PUBLISHED.pck_crl.decode()),
                "tcbInfo.json": FOLDER["tcb"],
                "qeIdentity.json": FOLDER["identity"],
                "qveIdentity.json": b"?",
                "pckCert.pem": b"?",
                "pckSignChain.pem": root_first(CHAINS["pckcrl"]),
                "tcbSignChain.pem": root_first(CHAINS["tcb"]),
                "trustedRootCaCert.pem": W.intel.twin().root.pem.encode(),
            }
        )
    )


def test_the_members_of_a_bundle_as_files() -> None:
    files = {
        "root_ca_crl": PUBLISHED.root_ca_crl,
        "pck_crl.der": bytes.fromhex(PUBLISHED.pck_crl.decode()),
        "tcb_info.json": FOLDER["tcb"],
        "qe_identity.json": FOLDER["identity"],
        "pck_crl_issuer_chain.pem": CHAINS["pckcrl"].encode(),
        "tcb_info_issuer_chain.pem": CHAINS["tcb"].encode(),
        "qe_identity_issuer_chain.pem": CHAINS["identity"].encode(),
    }
    assert same_documents(read_folder(files))


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 Connection established\r\n\r\n"])
@pytest.mark.parametrize("ending", ["", ".body"])
def test_answers_that_were_recorded_whole(before: bytes, ending: str) -> None:
    """As `curl -i` leaves them, also through a proxy."""
    whole = {f"{name}{ending}": before + FOLDER[f"{name}.headers"] + FOLDER[name] for name in BARE}
    assert read_folder(whole) == PUBLISHED


@pytest.mark.parametrize(
    ("files", "leaf"),
    [
        pytest.param({**FOLDER, "tcb.chain": b"x"}, ResponseFileUnexpected, id="headers-and-chain"),
        pytest.param(
            {**BARE, "tcb.chain": b"x", "tcb.chain.pem": b"x"}, ResponseFileUnexpected, id="twice"
        ),
        pytest.param(
            {**BARE, "tcb.chain": b"x", "tcbSignChain.pem": b"x"},
            ResponseFileUnexpected,
            id="two-names",
        ),
        pytest.param(
            changed("tcb", lambda raw: FOLDER["tcb.headers"] + raw),
            ResponseFileUnexpected,
            id="recorded-with-headers-beside",
        ),
        pytest.param(
            changed("tcb", lambda raw: b"HTTP/1.1 200 OK\r\n\r\n" + raw),
            ResponseFileUnexpected,
            id="recorded-without-any",
        ),
        pytest.param(BARE, ResponseFileMissing, id="no-chain"),
        pytest.param(
            {**BARE, **{f"{p}.chain": b"undefined" for p in CHAINS}},
            CertificateMalformed,
            id="undefined",
        ),
        pytest.param(
            {**BARE, **{f"{p}.chain": W.intel.root.pem.encode() for p in CHAINS}},
            CertificateMalformed,
            id="one-certificate",
        ),
        pytest.param({**FOLDER, "tcb.chain.pem.bak": b""}, ResponseFileUnexpected, id="a-copy"),
        pytest.param(
            changed("rootcacrl", lambda raw: raw[:-2]), CrlMalformed, id="a-list-cut-short"
        ),
    ],
)
def test_a_folder_that_is_not_clear(files: dict[str, bytes], leaf: type[e.RatlsError]) -> None:
    with refused(leaf):
        read_folder(files)


# Intel's platform_collaterals.json


def signed(member: str, text: str, signature: bytes) -> dict[str, Any]:
    return {member: json.loads(text), "signature": signature.hex().upper()}


def platform_collaterals(
    *worlds: World, early: bool = False, tdx: bool = True, **altered: object
) -> dict[str, Any]:
    """What Intel's admin tool writes for these platforms of one Intel."""
    first = worlds[0]
    sgx = first.collateral()
    suffix = "_early" if early else ""
    issuers, lists, infos = {}, {}, []
    for w in worlds:
        own, domain = w.collateral(), w.collateral(tdx=True)
        authority, _ = read_chain(own.pck_crl_issuer_chain, 2, "chain")
        name = "platform" if authority.common_name == PLATFORM_CA else "processor"
        issuers[name.upper()] = quote(own.pck_crl_issuer_chain)
        lists[f"{name}Crl"] = own.pck_crl.decode()
        infos.append(
            {
                "fmspc": w.platform.tcb.fmspc.hex().upper(),
                f"sgx_tcbinfo{suffix}": signed("tcbInfo", own.tcb_info, own.tcb_info_signature),
            }
        )
        if tdx:
            infos[-1][f"tdx_tcbinfo{suffix}"] = signed(
                "tcbInfo", domain.tcb_info, domain.tcb_info_signature
            )
    td = first.collateral(tdx=True)
    return {
        "platforms": [],
        "collaterals": {
            "version": 4,
            "pck_certs": [],
            "tcbinfos": infos,
            "pckcacrl": lists,
            f"qeidentity{suffix}": identity(sgx),
            f"tdqeidentity{suffix}": identity(td),
            "qveidentity": "",
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": issuers,
                "TCB-Info-Issuer-Chain": quote(sgx.tcb_info_issuer_chain),
                "SGX-Enclave-Identity-Issuer-Chain": quote(sgx.qe_identity_issuer_chain),
            },
            "rootcacrl": sgx.root_ca_crl.decode(),
            "rootcacrl_cdp": "https://certificates.example/IntelSGXRootCA.der",
            **altered,
        },
    }


def identity(of: Collateral) -> str:
    return f'{{"enclaveIdentity":{of.qe_identity},"signature":"{of.qe_identity_signature.hex()}"}}'


def read(document: Any) -> tuple[Collateral, ...]:
    raw = json.dumps(document).encode()  # with the white space of that tool
    assert is_platform_collaterals(raw)
    return read_platform_collaterals(raw)


def test_a_file_of_intels_tool_for_one_platform() -> None:
    sgx, tdx = read(platform_collaterals(W))
    assert sgx == PUBLISHED
    assert W.verify(collateral=sgx).tcb == W.verify().tcb
    assert tdx == W.collateral(tdx=True)
    assert W.verify(quote=W.platform.td_quote(), collateral=tdx).tcb.status == "UpToDate"


def test_a_file_of_intels_tool_for_many_platforms(tmp_path: Path) -> None:
    """Each quote is judged with the bundle for its platform, as with files of their own."""
    other = W.with_platform(fmspc=b"\1\2\3\4\5\6")
    processor = W.with_platform(processor=True, fmspc=b"\1\2\3\4\5\7")
    path = tmp_path / "platform_collaterals.json"
    path.write_text(json.dumps(platform_collaterals(W, other, processor)), "utf-8")
    assert len(read_bundles(path)) == 12  # three FMSPCs, two technologies, two authorities
    given = Bundles.read([path], W.intel.anchors(), AT)
    for w in (W, other, processor):
        chosen = given.collateral_for(find_quote(w.quote()).received())
        assert w.verify(collateral=chosen).tcb.status == "UpToDate"
    with refused(SeveralBundles) as seen:
        read_collateral(path)
    assert "--split" in seen.error.fix


def test_a_file_of_intels_tool_with_one_bundle_is_that_bundle(tmp_path: Path) -> None:
    path = tmp_path / "platform_collaterals.json"
    path.write_text(json.dumps(platform_collaterals(W, tdx=False)), "utf-8")
    assert read_collateral(path) == PUBLISHED


def test_early_editions_in_a_file_of_intels_tool() -> None:
    assert read(platform_collaterals(W, early=True))[0] == PUBLISHED
    both = platform_collaterals(W)
    early = platform_collaterals(W, early=True)["collaterals"]
    old = W.collateral(tcb_info=put(tcbEvaluationDataNumber=1))
    early["tcbinfos"][0]["sgx_tcbinfo_early"] = signed(
        "tcbInfo", old.tcb_info, old.tcb_info_signature
    )
    both["collaterals"]["tcbinfos"][0] |= early["tcbinfos"][0]
    assert read(both)[0] == PUBLISHED


def level_lifted(document: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(document).replace("OutOfDate", "UpToDate")
    found: dict[str, Any] = json.loads(text)
    return found


def reordered(document: dict[str, Any]) -> dict[str, Any]:
    """The same members in another order: another text than was signed."""
    entry = document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"]
    entry["tcbInfo"] = dict(reversed(entry["tcbInfo"].items()))
    return document


@pytest.mark.parametrize("alter", [level_lifted, reordered])
def test_a_file_of_intels_tool_that_was_altered(
    alter: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """T01: it is written again to be checked, so what was signed is all that passes."""
    sgx, *_ = read(alter(platform_collaterals(W)))
    with refused(TcbInfoSignatureInvalid, check=QuoteCheck.TCB_INFO):
        W.verify(collateral=sgx)


ABSENT: list[Any] = [
    *(
        pytest.param({name: None}, CollateralMalformed, id=name)
        for name in ("tcbinfos", "pckcacrl", "qeidentity", "certificates")
    ),
    pytest.param({"rootcacrl": ""}, e.CrlMissing, id="rootcacrl"),
    pytest.param({"pckcacrl": {"platformCrl": ""}}, e.CrlMissing, id="platformCrl"),
    pytest.param({"pckcacrl": {"platformCrl": "x"}}, CrlMalformed, id="CRL-of-text"),
    pytest.param({"qeidentity": ""}, CollateralMalformed, id="empty-identity"),
    pytest.param({"qeidentity": "undefined"}, CollateralMalformed, id="undefined-identity"),
    pytest.param({"tcbinfos": [{"fmspc": "00"}]}, CollateralMalformed, id="no-TCB-info"),
    pytest.param({"tcbinfos": []}, CollateralMalformed, id="no-platforms"),
    pytest.param(
        {"certificates": {"SGX-PCK-Certificate-Issuer-Chain": {}}}, CollateralMalformed, id="chains"
    ),
]


@pytest.mark.parametrize(("altered", "leaf"), ABSENT)
def test_a_file_of_intels_tool_that_lacks_something(
    altered: dict[str, object], leaf: type[e.RatlsError]
) -> None:
    with refused(leaf) as seen:
        read(platform_collaterals(W, **altered))
    assert "member" in seen.error.fix


@pytest.mark.parametrize(
    "raw", [b'"collaterals" "tcbinfos"', b'{"collaterals": 1, "tcbinfos": []}', b"\xff"]
)
def test_what_only_mentions_the_members(raw: bytes) -> None:
    with refused(CollateralMalformed):
        read_platform_collaterals(raw)


@given(st.data())
def test_any_part_of_such_a_file_is_read_or_refused(data: st.DataObject) -> None:
    raw = json.dumps(platform_collaterals(W)).encode()
    at = data.draw(st.integers(0, len(raw) - 1))
    altered = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + 1 :]
    count_refusal()
    try:
        found = read_platform_collaterals(altered)
    except e.RatlsError:
        return
    assert all(isinstance(one, Collateral) for one in found)


def test_worlds_of_both_authorities_are_both_read() -> None:
    processor = processor_world()
    assert Quote.parse(processor.quote()).tee == "sgx"
    sgx, _ = read(platform_collaterals(processor))
    assert processor.verify(collateral=sgx).tcb.status == "UpToDate"
