"""A quote as it was received: read once, however many bundles it is judged with.

    received = find_quote(path.read_bytes()).received()  # of `verifier.forms`
    received.quote          # parsed, not verified
    received.kind(roots)    # which collateral its platform needs

Neither says that the quote is genuine: that is for `verify_quote`.
"""

from __future__ import annotations

from verifier.anchors import TrustAnchors
from verifier.kind import PlatformKind
from verifier.pck import PckChain, authenticate_pck_chain
from verifier.quote import Quote


class ReceivedQuote:
    """The bytes of one quote, whether SGX quotes of versions 4 and 5 are read too, and its form.

    The form is a remark for people: `verifier.forms` found it.
    """

    __slots__ = ("_quote", "form", "newer_sgx", "raw")

    def __init__(self, raw: bytes, newer_sgx: bool = False, form: str = "raw") -> None:
        self.raw, self.newer_sgx, self.form = raw, newer_sgx, form
        self._quote: Quote | None = None

    @property
    def quote(self) -> Quote:
        """Parsed, not verified.

        Raises: as `Quote.parse`.
        """
        if self._quote is None:
            self._quote = Quote.parse(self.raw, newer_sgx=self.newer_sgx)
        return self._quote

    def pck(self, roots: TrustAnchors, supplied: bytes | None = None) -> PckChain:
        """The platform's certificates, checked up to the root; the quote itself is not.

        Args:
            roots: The root key that is trusted.
            supplied: The chain in a bundle, for a quote that carries none.

        Raises:
            QuoteFormatError: Not a quote that carries its chain (3).
            CertChainError: A link of the chain is broken (4).
        """
        return authenticate_pck_chain(self.quote.auth.pck_chain(supplied), roots)

    def kind(self, roots: TrustAnchors) -> PlatformKind:
        """The kind of platform that its certificates name.

        Raises: as `pck`.
        """
        pck = self.pck(roots)
        return PlatformKind.of(self.quote.tee, pck.extension.platform.fmspc, pck.authority)
