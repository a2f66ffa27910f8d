"""Each limit of a quote's layout by itself, at both of its sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.refusal import refused
from tests.verifier.world import bites, judge_quote, with_, world
from verifier.quote import (
    MAX_PCK_CHAIN,
    MAX_SIZE,
    MIN_SIZE,
    Quote,
    QuoteMalformed,
    QuoteUnsupported,
)

FORMAT = "quote-format"
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
