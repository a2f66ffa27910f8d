"""Q07, Q09 to Q11: quotes whose bytes lie. Nothing here reaches a signature check."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.quote import HeaderForm, QuoteForm, qe_binding
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import bites, judge_quote, with_, world
from verifier.errors import QuoteFormatError, RatlsError
from verifier.quote import (
    MAX_PCK_CHAIN,
    MAX_SIZE,
    MIN_SIZE,
    MrEnclave,
    MrSigner,
    Quote,
    QuoteMalformed,
    QuoteUnsupported,
    strip_file_padding,
)

FORMAT = "quote-format"


def test_honest_quote_is_read() -> None:
    quote = Quote.parse(world().quote(isv_svn=7))
    assert quote.header.version == 3
    assert quote.report.isv_svn == 7
    assert quote.report.report_data == bytes(range(64))


@pytest.mark.parametrize(
    ("raw", "leaf"),
    [
        pytest.param(b"", QuoteMalformed, id="N001-empty"),
        pytest.param(b"\x03", QuoteMalformed, id="N001-1"),
        pytest.param(bytes(47), QuoteMalformed, id="N001-47"),
        pytest.param(b"\x5a\xa5" * 1024, QuoteUnsupported, id="N001-garbage"),
        pytest.param(world().quote()[:1019], QuoteMalformed, id="N002"),
        pytest.param(bytes(70_000), QuoteMalformed, id="N019"),
    ],
)
def test_attacker_sends_no_quote_at_all(raw: bytes, leaf: type[RatlsError]) -> None:
    with refused(leaf, check=FORMAT):
        world().verify(quote=raw)


@pytest.mark.parametrize(
    "header",
    [
        *({"version": v} for v in (0, 1, 2, 4, 5, 6, 0xFFFF)),
        *({"attestation_key_type": k} for k in (0, 1, 3, 0xFFFF)),
        *({"tee_type": t} for t in (1, 0x80, 0x81, 0x82, 0x81000000)),
        {"qe_vendor_id": bytes.fromhex("929a7233f79c4ca9940a0db3957f0607")},
    ],
    ids=str,
)
def test_attacker_declares_another_kind_of_quote(header: dict[str, int | bytes]) -> None:
    """N004 to N009, Q07, Q11: well signed, yet no kind that is read here."""

    def declare(form: HeaderForm) -> HeaderForm:
        return replace(form, **header)  # type: ignore[arg-type]

    with refused(QuoteUnsupported, check=FORMAT):
        world().verify(quote=world().quote(header=declare))


Alter = Callable[[QuoteForm], QuoteForm]


def _signature_data_len(change: int) -> Alter:
    def alter(form: QuoteForm) -> QuoteForm:
        real = struct.unpack_from("<I", form.encode(), 432)[0]
        return replace(form, signature_data_len=real + change)

    return alter


def _certification_len(change: int) -> Alter:
    return lambda f: replace(f, certification_data_len=len(f.certification_data) + change)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(_signature_data_len(-1), id="N015-minus"),
        pytest.param(_signature_data_len(+1), id="N015-plus"),
        pytest.param(_signature_data_len(-64), id="N016"),
        *(
            pytest.param(with_(signature_data_len=n), id=f"N015-{n}")
            for n in (0, 583, 584, 2**32 - 1)
        ),
        pytest.param(with_(trailing=b"\x01"), id="N017"),
        pytest.param(with_(trailing=b"\x01" * (1 << 20)), id="Q10"),
        pytest.param(with_(trailing=bytes(70)), id="N018-inside-evidence"),
        pytest.param(with_(qe_auth_data_len=0xFFFF), id="N020"),
        pytest.param(with_(qe_auth_data=bytes(1025)), id="L6"),
        pytest.param(_certification_len(+1), id="N022"),
        pytest.param(with_(certification_data_len=2**32 - 1), id="N022-max"),
        pytest.param(_certification_len(-1), id="N024"),
        *(pytest.param(with_(certification_data_type=t), id=f"N029-{t}") for t in (0, 6, 7, 65535)),
        pytest.param(with_(certification_data_type=1), id="type-1-of-another-size"),
        pytest.param(with_(certification_data=b"\n" * 16385), id="L7-cap"),
    ],
)
def test_attacker_lies_about_a_length(form: Alter) -> None:
    """A slice that ends early, or bytes that nobody signed, would split what two readers see."""
    with refused(QuoteMalformed, check=FORMAT):
        world().verify(quote=world().quote(form=form))


@pytest.mark.parametrize(("kind", "size"), [(1, 36), (2, 276), (3, 404), (4, 1600)])
def test_quote_without_chain_is_unsupported_and_not_forged(kind: int, size: int) -> None:
    """N030: genuine platforms make these; the chain would have to be fetched."""
    form = with_(certification_data_type=kind, certification_data=bytes(size))
    with refused(QuoteUnsupported, check=FORMAT):
        world().verify(quote=world().quote(form=form))


@pytest.mark.parametrize("size", [0, 31, 33, 64, 1024])
def test_qe_auth_data_of_any_size_is_read(size: int) -> None:
    """N021: another verifier assumed 32 bytes and crashed."""
    world().verify(quote=world().quote(qe_auth_data=b"\x07" * size))


def test_driver_padding_is_dropped_from_files_only() -> None:
    """N018: zero bytes after a quote in a file are the driver's; others are somebody's message."""
    raw = world().quote()
    assert strip_file_padding(raw + bytes(70)) == raw
    assert strip_file_padding(raw) == raw
    world().verify(quote=strip_file_padding(raw + bytes(3065)))
    with refused(QuoteMalformed, check=FORMAT):
        world().verify(quote=strip_file_padding(raw + bytes(69) + b"\x01"))
    with refused(QuoteMalformed):
        Quote.parse(strip_file_padding(raw[:100]))


def test_every_prefix_of_a_quote_is_refused() -> None:
    """N003: at no offset does a cut read as a shorter quote."""
    count_refusal()
    raw = world().quote()
    for size in range(len(raw)):
        with pytest.raises(QuoteMalformed):
            Quote.parse(raw[:size])


@given(st.binary(max_size=2048), st.integers(0, 1100))
def test_garbage_is_a_typed_refusal_or_a_value(junk: bytes, at: int) -> None:
    """N223: whatever bytes take the place of genuine ones."""
    count_refusal()
    genuine = world().quote()
    for raw in (junk, genuine[:at] + junk + genuine[at + len(junk) :], genuine + junk):
        try:
            Quote.parse(raw)
        except QuoteFormatError as refusal:
            assert refusal.code  # noqa: PT017


def test_caller_changes_its_buffer_afterwards() -> None:
    """N222: what was judged stays what was read."""
    buffer = bytearray(world().quote())
    verified = world().verify(quote=buffer)  # type: ignore[arg-type]
    before = bytes(verified.quote.report.mr_enclave.value)
    buffer[48:432] = bytes(384)
    assert verified.quote.report.mr_enclave.value == before
    assert verified.quote.signed != bytes(432)


def test_a_signer_is_never_taken_for_a_measurement() -> None:
    """Q08: two 32-byte values that must not change places."""
    pair: list[object] = [MrEnclave(bytes(32)), MrSigner(bytes(32))]
    assert pair[0] != pair[1]
    count_refusal()
    with pytest.raises(ValueError, match="32 bytes"):
        MrEnclave(bytes(31))


def test_binding_helper_and_verifier_agree() -> None:
    quote = Quote.parse(world().quote())
    assert quote.auth.qe_report.report_data == qe_binding(
        quote.auth.attestation_key, quote.auth.qe_auth_data
    )


# Each limit of a quote's layout by itself, at both of its sides.


W = world()


def test_auth_data_reaches_behind_the_end() -> None:
    """Its size is within the limit, and the quote is over before it."""
    small = with_(qe_auth_data=b"", certification_data=b"")
    Quote.parse(W.quote(form=small))
    with refused(QuoteMalformed, check=FORMAT):
        judge_quote(W.quote(form=lambda f: replace(small(f), qe_auth_data_len=1024)))


@pytest.mark.parametrize(("kind", "size"), [(1, 36), (2, 276), (3, 404)])
@pytest.mark.parametrize("more", [-1, 1])
def test_certification_data_of_another_size_than_its_kind(kind: int, size: int, more: int) -> None:
    def quote(size: int) -> bytes:
        return W.quote(form=with_(certification_data_type=kind, certification_data=bytes(size)))

    Quote.parse(quote(size))
    with refused(QuoteMalformed, check=FORMAT):
        judge_quote(quote(size + more))


def test_largest_chain_is_read_and_a_larger_one_is_not() -> None:
    def padded(size: int) -> bytes:
        return W.quote(form=with_(certification_data=W.platform.pck_chain.ljust(size, b"\0")))

    good, bad = padded(MAX_PCK_CHAIN), padded(MAX_PCK_CHAIN + 1)
    bites(judge_quote, good, bad, QuoteMalformed, check=FORMAT)


def sized(size: int) -> bytes:
    form = with_(qe_auth_data=b"", certification_data=bytes(size - MIN_SIZE))
    raw = W.quote(form=form)
    assert len(raw) == size
    return raw


@pytest.mark.parametrize("size", [MIN_SIZE, MAX_SIZE])
def test_smallest_and_largest_quote_are_read(size: int) -> None:
    """Twin: what such a quote lacks is found out later."""
    assert len(Quote.parse(sized(size)).auth.certification_data) == size - MIN_SIZE


def test_quote_above_the_largest_is_refused() -> None:
    with refused(QuoteMalformed, check=FORMAT):
        judge_quote(sized(MAX_SIZE + 1))


def test_what_is_too_short_for_any_quote_is_malformed_whatever_it_says() -> None:
    """Of a version that nobody knows, and no matter: `unsupported` would send people looking."""
    with refused(QuoteMalformed, check=FORMAT):
        judge_quote(bytes(MIN_SIZE - 1))
    with refused(QuoteUnsupported, check=FORMAT):
        judge_quote(bytes(MIN_SIZE))


def test_caller_that_judges_enclaves_is_given_a_trust_domain() -> None:
    """Its report has other fields at the same offsets."""
    assert Quote.parse(W.quote(isv_svn=7)).enclave.isv_svn == 7
    with refused(QuoteUnsupported):
        Quote.parse(W.platform.td_quote()).enclave  # noqa: B018
