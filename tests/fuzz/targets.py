"""What is fuzzed: each parser of other people's bytes, its seeds, and how its input is mutated.

Nothing of the verifier is imported before `Target.load`, so that the harness can instrument it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cryptography import x509

from tests.fuzz.channels import frame_seeds, session_messages, session_seeds, socket_frames

if TYPE_CHECKING:
    from simulation.certificates import CrlForm

Parse = Callable[[bytes], object]
AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
_SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.

    `share` is its part of the executions of a run over all targets, in percent.
    """

    name: str
    load: Callable[[], Parse]
    seeds: Callable[[Path | None], list[bytes]]
    mutate: Callable[[Random, bytes], bytes]
    max_size: int
    share: int


# Parsers.


def _quote() -> Parse:
    from verifier.quote import Quote, strip_file_padding

    def parse(data: bytes) -> object:
        return Quote.parse(strip_file_padding(data), newer_sgx=True).auth.require_pck_chain()

    return parse


def _quote_form() -> Parse:
    from verifier.forms import find_quote

    return find_quote


def _pck_extension() -> Parse:
    from verifier.pck import PckExtension

    return PckExtension.parse


def _certificate() -> Parse:
    from verifier.certificate import Certificate, split_pem

    def parse(data: bytes) -> object:
        if data.startswith(b"-"):
            return [Certificate.parse(raw) for raw in split_pem(data, "chain")]
        return Certificate.parse(data)

    return parse


def _text(data: bytes) -> str:
    # In a bundle these are JSON strings, which hold no lone surrogate.
    return data.decode("utf-8", "replace")


def _tcb_info() -> Parse:
    from verifier.tcb import TcbInfo

    return lambda data: TcbInfo.parse(_text(data))


def _qe_identity() -> Parse:
    from verifier.qe import QeIdentity

    return lambda data: QeIdentity.parse(_text(data))


def _crl() -> Parse:
    from verifier.certificate import Certificate
    from verifier.crl import authenticate_crl

    issuer = Certificate.parse(_world()["root"])
    return lambda data: authenticate_crl(data, issuer, "root CRL")


def _event_log() -> Parse:
    """The events, what a person is shown of them, and what they make of the registers."""
    from verifier.event_log import EventLog

    def parse(data: bytes) -> object:
        log = EventLog.parse(data)
        return [str(event) for event in log.events], [log.replay(number) for number in range(4)]

    return parse


def _bundle() -> Parse:
    from verifier.collateral import Collateral

    return Collateral.parse


def _manifest() -> Parse:
    """A signed manifest and all that is said about it."""
    from verifier.gramine.difference import differences
    from verifier.gramine.lint import lint
    from verifier.gramine.listing import compare, listed
    from verifier.gramine.signed import SignedManifest

    def parse(data: bytes) -> object:
        manifest = SignedManifest.parse(data)
        list(compare(listed(manifest), ()))
        differences(manifest, manifest)
        return lint(manifest), manifest.sizes()

    return parse


def _sigstruct() -> Parse:
    from verifier.gramine.sigstruct import Sigstruct

    def parse(data: bytes) -> object:
        found = Sigstruct.parse(data)
        found.as_json()
        return found.verify()

    return parse


def _loader() -> Parse:
    from verifier.gramine.loader import Loader

    return lambda data: [segment.end for segment in Loader.parse(data).segments]


def _foreign() -> Parse:
    """A certificate of another project, as every format in turn, up to its quote."""
    from ratls.foreign_certificate import foreign_quote
    from ratls.foreign_formats import FORMATS
    from verifier.errors import RatlsError

    def parse(data: bytes) -> object:
        found = []
        for format in FORMATS.values():
            try:
                found.append(foreign_quote(data, format))
            except RatlsError as refusal:
                last = refusal
        if not found:
            raise last
        return found

    return parse


def _endorsements() -> Parse:
    from ratls.endorsements import parse_endorsements

    return parse_endorsements


class _Sent:
    """A connection on which these bytes came, and then its end."""

    def __init__(self, data: bytes) -> None:
        self.rest = memoryview(data)

    def recv_into(self, room: memoryview) -> int:
        size = min(len(room), len(self.rest))
        room[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def _bulk() -> Parse:
    """The connection of sealed chunks: frames, heads, and chunks that open or do not."""
    from policy.values import Digest
    from ratls.bulk import BulkReader
    from ratls.framing import Chunk
    from ratls.sealing import StreamKey

    key, about = StreamKey(bytes(32), bytes(32), 0), Digest(bytes(32))

    def parse(data: bytes) -> object:
        connection: Any = _Sent(data)
        reader = BulkReader(connection, lambda: None)
        while connection.rest:  # an end within a frame is a refusal
            raw = reader.next()
            if raw is not None:
                chunk = Chunk.parse(raw)
                key.open(chunk.sealed, chunk.head, about)
        return None

    return parse


def _qcnl() -> Parse:
    """The quote provider's configuration, and that what is kept of it reads as the same."""
    from ratls.doctor.qcnl import Qcnl

    def parse(data: bytes) -> object:
        found = Qcnl.parse(data)
        assert Qcnl.parse(found.text().encode()) == found
        return found

    return parse


def _frame() -> Parse:
    """A frame that a party sends, and the rows in it, as far as they are read without a key."""
    import pyarrow as pa

    from ratls.arrow_header import read_rows
    from ratls.framing import Frame

    schema = _batch().schema

    def parse(data: bytes) -> object:
        frame = Frame.parse(data)
        if frame.is_chunk:
            return frame.chunk()
        if frame.data.command and not frame.data.metadata:
            return frame  # the first of a stream
        if not frame.has_rows:
            ours = ("hello", "open", "challenge", "resume", "commit", "received")
            return frame.message(*ours, "request", "more", "complete")
        header, body = memoryview(frame.data.header), pa.py_buffer(frame.data.body)
        rows = read_rows(header, body, schema, most_rows=1 << 24)
        with suppress(pa.ArrowInvalid):  # the enclave's next check
            rows.validate(full=True)
        return rows

    return parse


def _batch() -> Any:
    import pyarrow as pa

    return pa.record_batch({"t": ["a", None, "bcd"], "x": [1, 2, 3], "b": [True, None, False]})


def _frame_seeds(_: Path | None) -> list[bytes]:
    from ratls import framing
    from ratls.sealing import ChunkHead

    hello = {"nonce": bytes(32), "task": b"{}", "dataset": "rows-a", "release": bytes(16)}
    messages = [
        framing.write_message("hello", **hello),
        framing.write_message("open", stream=0, streams=2, key=bytes(1200)),
        framing.write_message("challenge", nonce=bytes(32)),
        framing.write_message("commit", commit=b"{}"),
        framing.write_message("received"),
        framing.write_message("request", method="get", about=b"2026"),
        framing.write_message("more", batches=16),
        framing.write_message("complete", batches=3, rows=9),
    ]
    return [
        framing.first_frame(framing.Kind.RELEASE),
        framing.chunk_frame(ChunkHead(1, last=True), bytes(64)),
        framing.rows_frame(_batch(), 0),
        *(framing.message_frame(message) for message in messages),
    ]


def _bulk_seeds(_: Path | None) -> list[bytes]:
    from policy.values import Digest
    from ratls.sealing import ChunkHead, StreamKey

    key, sent = StreamKey(bytes(32), bytes(32), 0), b""
    for number in range(3):
        head = ChunkHead(number, last=number == 2)
        chunk = head.encode() + key.seal(b"rows" * 20, head, Digest(bytes(32)))
        sent += bytes(4) * (number == 1) + len(chunk).to_bytes(4, "big") + chunk
    return [sent, bytes(4)]


def _foreign_seeds(vectors: Path | None) -> list[bytes]:
    from ratls.foreign_formats import FORMATS
    from tests.support.foreign_certificates import foreign
    from tests.support.intel import World

    world = World.create(AT)
    made = [foreign(world, format).der for format in FORMATS.values()]
    files = sorted((vectors / "ratls-certs").glob("*.der")) if vectors else []
    return [*made, *(path.read_bytes() for path in files)]


def _endorsement_seeds(vectors: Path | None) -> list[bytes]:
    from ratls.endorsements import encode_endorsements
    from verifier.collateral import Collateral

    bundles = [Collateral.parse(json.dumps(bundle).encode()) for bundle in _world()["bundles"]]
    return [encode_endorsements(bundle) for bundle in bundles]


# Seeds: one of each kind from the simulation, and the genuine ones where they exist.


def _world() -> Mapping[str, Any]:
    """A simulated Intel that is always the same: parts by name."""
    from simulation.intel import Intel

    random = Random("fuzz").randbytes  # noqa: S311 - repeatable, and no secret
    intel = Intel.create(AT, random=random)
    platform, processor = intel.platform(), intel.platform(processor=True)
    return {
        "root": intel.root.der,
        "certificates": [intel.root.der, platform.ca.der, platform.pck.der, intel.tcb_signer.der],
        "chain": platform.pck_chain.rstrip(b"\0"),
        "extensions": [platform.tcb.encode(), processor.tcb.encode()],
        "quotes": [
            platform.quote(),
            platform.quote(version=4),
            platform.quote(version=5),
            platform.td_quote(),
            platform.td_quote(version=5),
            platform.td_quote(version=5, tee_tcb_svn_2=bytes((6, 1, 2, *bytes(13)))),
        ],
        "bundles": [
            json.loads(intel.collateral(platform)),
            json.loads(intel.collateral(platform, tdx=True)),
            json.loads(intel.collateral(platform, root_crl=_with_entries)),
        ],
    }


def _with_entries(form: CrlForm) -> CrlForm:
    return replace(form, revoked=(1, 2**150))


def _bundles(vectors: Path | None) -> list[dict[str, str]]:
    found = list(_world()["bundles"])
    for path in sorted((vectors / "collateral").glob("*.json")) if vectors else ():
        found.append(json.loads(path.read_bytes()))
    return found


def _quote_seeds(vectors: Path | None) -> list[bytes]:
    files = sorted((vectors / "quotes").glob("*.bin")) if vectors else []
    return [*_world()["quotes"], *(path.read_bytes() for path in files)]


def _form_seeds(vectors: Path | None) -> list[bytes]:
    """Quotes in each form, and genuine things that are none."""
    found = []
    for raw in _quote_seeds(vectors)[:8]:
        text = base64.b64encode(raw)
        found += [raw.hex().encode(), b"0x" + raw.hex().encode(), text, base64.encodebytes(raw)]
        found += [text.translate(bytes.maketrans(b"+/", b"-_")).rstrip(b"=")]
        found += [b"-----BEGIN QUOTE-----\n" + text + b"\n-----END QUOTE-----\n"]
        found += [json.dumps({"a": [{"quote": text.decode()}]}).encode()]
        found += [json.dumps(list(raw)).encode()]
    if vectors is None:
        return found
    others = [path.read_bytes() for path in (vectors / "field" / "no-quotes").glob("*report.bin")]
    return [*found, *sorted(others), raw.replace(b"\n", b"\r\n"), b"\1" + bytes(23) + raw]


def _extension_seeds(vectors: Path | None) -> list[bytes]:
    """The simulated ones, and that of each PCK certificate in a genuine quote."""
    found = dict.fromkeys(_world()["extensions"])
    for quote in _quote_seeds(vectors)[len(_world()["quotes"]) :]:
        start = quote.find(b"-----BEGIN CERTIFICATE-----")
        with suppress(ValueError, x509.ExtensionNotFound):  # some carry none, two a damaged one
            leaf = x509.load_pem_x509_certificate(quote[max(start, 0) :])
            extension = leaf.extensions.get_extension_for_oid(_SGX_EXTENSION)
            found[extension.value.public_bytes()] = None
    return list(found)


def _certificate_seeds(vectors: Path | None) -> list[bytes]:
    files = sorted((vectors / "pki").glob("intel-*.der")) if vectors else []
    world = _world()
    return [*world["certificates"], world["chain"], *(path.read_bytes() for path in files)]


def _texts(name: str) -> Callable[[Path | None], list[bytes]]:
    return lambda vectors: [bundle[name].encode() for bundle in _bundles(vectors)]


def _crl_seeds(vectors: Path | None) -> list[bytes]:
    raw = [bytes.fromhex(b[name]) for b in _bundles(vectors) for name in ("root_ca_crl", "pck_crl")]
    return [*dict.fromkeys(raw), raw[0].hex().encode(), _pem(raw[0])]


def _pem(raw: bytes) -> bytes:
    body = base64.encodebytes(raw)
    return b"-----BEGIN X509 CRL-----\n" + body + b"-----END X509 CRL-----\n"


def _event_log_seeds(vectors: Path | None) -> list[bytes]:
    from simulation.event_log import guest_log

    found = [guest_log(bytes(32))]
    if vectors is not None:
        genuine = (vectors / "field" / "no-quotes" / "ccel.bin").read_bytes()
        found.append(genuine[:2200])  # the rest is filling
    return found


def _bundle_seeds(vectors: Path | None) -> list[bytes]:
    return [json.dumps(bundle).encode() for bundle in _bundles(vectors)]


def _gramine(vectors: Path | None, pattern: str) -> list[bytes]:
    folder = vectors / "gramine" if vectors else Path("/nowhere")
    return [path.read_bytes() for path in sorted(folder.rglob(pattern))]


def _manifest_seeds(vectors: Path | None) -> list[bytes]:
    from tests.gramine.world import signed

    return [signed().raw, *_gramine(vectors, "*.manifest.sgx")]


def _sigstruct_seeds(vectors: Path | None) -> list[bytes]:
    from tests.gramine.world import key, loader, signed
    from verifier.gramine.measurement import measure
    from verifier.gramine.sigstruct import sign, unsigned

    manifest = signed()
    made = sign(unsigned(manifest, measure(manifest, loader()).mr_enclave, None), key())
    return [made.raw, *_gramine(vectors, "*.sig")]


def _loader_seeds(vectors: Path | None) -> list[bytes]:
    from tests.gramine.world import elf

    two = elf(((5, 0, b"", 0x1000), (6, 0x1E00, b"data" * 64, 0x3000)))
    return [elf(), two, *_gramine(vectors, "*.so")]


def _qcnl_seeds(vectors: Path | None) -> list[bytes]:
    address = "https://localhost:8081/sgx/certification/v4/"
    known = {
        "pccs_url": address,
        "use_secure_cert": True,
        "collateral_service": address,
        "pccs_api_version": "3.1",
        "tcb_update_type": "early",
        "retry_times": 6,
        "retry_delay": 10,
        "local_pck_url": address,
        "pck_cache_expire_hours": 168,
        "local_cache_only": False,
        "custom_request_options": {"get_cert": {"headers": {}}},
    }
    text = json.dumps(known)
    lines = f"# PCCS\nPCCS_URL={address}\nUSE_SECURE_CERT=TRUE\nRETRY_TIMES=6\n"
    return [text.encode(), f"// a\n{text} /* b\n */".encode(), lines.encode()]


# Mutations that keep the outer form, so that what lies inside is reached.

_WORDS = (
    *("UpToDate", "OutOfDate", "Revoked", "TDRelaunchAdvised", "Unknown", "SGX", "TDX", "TD_QE"),
    *("QE", "TDX_01", "tdx_0a", "TDX_1", "2026-11-25T12:00:00Z", "0001-01-01T00:00:00Z"),
    *(
        "9999-12-31T23:59:60Z",
        "2026-02-30T00:00:00Z",
        "00",
        "",
        "\u0000",
        "\ud83d\ude00",
        "ff" * 48,
    ),
)
_NUMBERS = (0, 1, -1, 2, 3, 255, 256, 65535, 65536, 2**31, 2**63, 2**64, 10**10)


def mutate_json(rng: Random, data: bytes) -> bytes:
    """One to three members, at any depth, replaced, removed, repeated, added or nested."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data)
    for _ in range(rng.randint(1, 3)):
        document = _edited(rng, document)
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return data


def _edited(rng: Random, document: Any) -> Any:
    node, above, key = document, None, None
    while isinstance(node, (dict, list)) and node and (above is None or rng.random() < 0.8):
        above = node
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = node[key]
    if above is None or key is None:
        return _value(rng, document)
    roll = rng.random()
    if roll < 0.1:
        del above[key]
    elif roll < 0.2 and isinstance(above, list):
        above.insert(rng.randrange(len(above) + 1), node)
    elif roll < 0.3 and isinstance(above, dict):
        above[rng.choice([*above, "later", "id", "tcb"])] = node
    else:
        above[key] = _value(rng, node)
    return document


def _value(rng: Random, old: Any) -> Any:
    if isinstance(old, str) and old and rng.random() < 0.5:
        at = rng.randrange(len(old))
        return old[:at] + rng.choice(["", "0", "f", "G", "-", old[at] * 2]) + old[at + 1 :]
    if isinstance(old, int) and rng.random() < 0.5:
        return old + rng.choice([-1, 1])
    return rng.choice(
        [*_WORDS, *_NUMBERS, True, None, 1.5, 1e300, [], {}, [old], {"svn": old}, [old] * 17]
    )


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """A few bytes changed, removed, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            return rng.randbytes(rng.randint(0, 64))
        at = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0x81, 0x82, 0xFF, 0x30, 0x22, 0x5C])
            case 2:
                del changed[at : at + rng.randint(1, 32)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randint(1, 16))
            case _:
                end = at + rng.randint(1, 64)
                changed[at:at] = changed[at:end]
    return bytes(changed)


def mutate_der(rng: Random, data: bytes) -> bytes:
    """One element, at any depth, replaced or resized with every length around it adjusted."""
    if rng.random() < 0.3 or data[:1] != b"\x30":
        return mutate_bytes(rng, data)
    return _rewritten(rng, data, 12)


def _rewritten(rng: Random, data: bytes, depth: int) -> bytes:
    """The elements in `data`, one of them altered; as it is where that is no DER."""
    parts = _split(data)
    if not parts or depth == 0:
        return mutate_bytes(rng, data)
    at = rng.randrange(len(parts))
    tag, content = parts[at]
    inside = bool(tag & 0x20) or tag == 4  # OCTET STRING: extensions hold DER in one
    if inside and content and rng.random() < 0.9:
        parts[at] = (tag, _rewritten(rng, content, depth - 1))
    else:
        match rng.randrange(6):
            case 0:
                del parts[at]
            case 1:
                parts.insert(at, parts[at])
            case 2:
                parts[at] = (rng.choice([1, 2, 3, 4, 5, 6, 10, 12, 23, 24, 0x30, 0xA0]), content)
            case 3:
                parts[at] = (tag, mutate_bytes(rng, content))
            case 4:
                parts[at] = (tag, content[: rng.randrange(len(content) + 1)])
            case _:
                rng.shuffle(parts)
    return b"".join(_element(tag, content) for tag, content in parts)


def _split(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 2 <= len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size > 0x80:
            width = size & 0x7F
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + size > len(data):
            return []
        found.append((tag, data[at : at + size]))
        at += size
    return found if at == len(data) else []


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    width = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | width)) + size.to_bytes(width, "big") + content


def mutate_quote(rng: Random, data: bytes) -> bytes:
    """Numbers in the places where a quote has them, and bytes anywhere."""
    if len(data) < 1100 or rng.random() < 0.4:
        return mutate_bytes(rng, data)
    changed = bytearray(data)
    tdx, version = data[4] == 0x81, data[0]
    body = {3: 432, 4: 632 if tdx else 432}.get(version, 438)
    at, size = rng.choice(
        [
            *((0, 2), (2, 2), (4, 4), (48, 2), (50, 4), (body, 4)),
            *((body + 132, 2), (body + 134, 4), (body + 580, 2), (body + 586, 2)),
            (len(data) - rng.randrange(1, 200), 4),
        ]
    )
    old = int.from_bytes(data[at : at + size], "little")
    new = rng.choice([old + rng.randint(-9, 9), 0, 2 ** (8 * size) - 1, rng.randrange(9), old * 2])
    changed[at : at + size] = (new % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(changed)


def mutate_event_log(rng: Random, data: bytes) -> bytes:
    """Numbers where an event has them, an event doubled or left out, and bytes anywhere."""
    starts = [at for at in range(len(data) - 14) if data[at + 8 : at + 14] == b"\1\0\0\0\x0c\0"]
    if not starts or rng.random() < 0.3:
        return mutate_bytes(rng, data)
    at = rng.choice(starts)
    end = at + 66 + int.from_bytes(data[at + 62 : at + 66], "little")
    match rng.randrange(3):
        case 0:
            return data[:at] + data[end:]
        case 1:
            return data[:end] + data[at:end] + data[end:]
    place, size = rng.choice([(0, 4), (4, 4), (8, 4), (12, 2), (62, 4)])
    new = rng.choice([0, 1, 3, 4, 5, rng.randrange(1 << 8 * size), (1 << 8 * size) - 1])
    return data[: at + place] + new.to_bytes(size, "little") + data[at + place + size :]


def mutate_lines(rng: Random, data: bytes) -> bytes:
    """Lines of a text removed, doubled, swapped or given another's value; bytes otherwise."""
    lines = data.split(b"\n")
    if rng.random() < 0.4 or len(lines) < 3:
        return mutate_bytes(rng, data)
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                del lines[at]
                lines.append(b"")
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case _:
                value = lines[other].partition(b" = ")[2] or rng.choice(_TOML)
                lines[at] = lines[at].partition(b" = ")[0] + b" = " + value
    return b"\n".join(lines)


_TOML = (b'""', b"0", b"[]", b"{}", b"true", b"1e400", b"1979-05-27", b'"a\\u0000b"', b"{a.b = 1}")
_TARGETS = (
    Target("quote", _quote, _quote_seeds, mutate_quote, 16384, 13),
    Target("event-log", _event_log, _event_log_seeds, mutate_event_log, 8192, 4),
    Target("quote-form", _quote_form, _form_seeds, mutate_bytes, 65536, 4),
    Target("pck-extension", _pck_extension, _extension_seeds, mutate_der, 2048, 11),
    Target("certificate", _certificate, _certificate_seeds, mutate_der, 8192, 9),
    Target("tcb-info", _tcb_info, _texts("tcb_info"), mutate_json, 16384, 12),
    Target("qe-identity", _qe_identity, _texts("qe_identity"), mutate_json, 8192, 9),
    Target("crl", _crl, _crl_seeds, mutate_der, 4096, 12),
    Target("bundle", _bundle, _bundle_seeds, mutate_json, 65536, 9),
    Target("qcnl", _qcnl, _qcnl_seeds, mutate_json, 4096, 2),
    Target("frame", _frame, _frame_seeds, mutate_bytes, 4096, 3),
    Target("session", session_messages, session_seeds, mutate_bytes, 2048, 2),
    Target("socket-frames", socket_frames, frame_seeds, mutate_bytes, 2048, 2),
    Target("bulk", _bulk, _bulk_seeds, mutate_bytes, 4096, 2),
    Target("foreign", _foreign, _foreign_seeds, mutate_der, 16384, 2),
    Target("endorsements", _endorsements, _endorsement_seeds, mutate_bytes, 65536, 1),
    Target("manifest", _manifest, _manifest_seeds, mutate_lines, 8192, 1),
    Target("sigstruct", _sigstruct, _sigstruct_seeds, mutate_bytes, 2048, 1),
    Target("loader", _loader, _loader_seeds, mutate_bytes, 32768, 1),
)
TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _TARGETS})
