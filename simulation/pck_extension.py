"""The SGX extension of PCK certificates: which platform, how well patched. Layout: dcap.md 2.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulation import der

OID = "1.2.840.113741.1.13.1"
Elements = list[bytes]
ElementsHook = Callable[[Elements], Elements]


def element(suffix: str, value: bytes) -> bytes:
    """SEQUENCE { OID 1.2.840.113741.1.13.1.<suffix>, value }; `value` is DER."""
    return der.sequence(der.oid(f"{OID}.{suffix}"), value)


def _unaltered(elements: Elements) -> Elements:
    return elements


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtensionForm:
    """The extension's values. Nothing is checked: a wrong length is written as it is."""

    ppid: bytes  #     16 bytes
    components: tuple[int, ...]  # 16 SVNs, 0..255
    pce_svn: int
    cpu_svn: bytes  #  16 bytes
    pce_id: bytes  #   2 bytes
    fmspc: bytes  #    6 bytes
    sgx_type: int = 1  # 0 Standard, 1 Scalable
    piid: bytes | None = None  # 16 bytes; this and the next: Platform CA only
    configuration: tuple[bool, bool, bool] | None = None  # dynamic platform, cached keys, SMT

    def encode(
        self,
        *,
        top: ElementsHook = _unaltered,
        tcb: ElementsHook = _unaltered,
        configuration: ElementsHook = _unaltered,
    ) -> bytes:
        """The DER; each hook may change the list of encoded elements of one SEQUENCE."""
        svns = [*self.components, self.pce_svn]
        tcb_elements = [element(f"2.{i}", der.integer(svn)) for i, svn in enumerate(svns, 1)]
        tcb_elements.append(element("2.18", der.octet_string(self.cpu_svn)))
        elements = [
            element("1", der.octet_string(self.ppid)),
            element("2", der.sequence(*tcb(tcb_elements))),
            element("3", der.octet_string(self.pce_id)),
            element("4", der.octet_string(self.fmspc)),
            element("5", der.enumerated(self.sgx_type)),
        ]
        if self.piid is not None:
            elements.append(element("6", der.octet_string(self.piid)))
        if self.configuration is not None:
            flags = [element(f"7.{i}", der.boolean(f)) for i, f in enumerate(self.configuration, 1)]
            elements.append(element("7", der.sequence(*configuration(flags))))
        return der.sequence(*top(elements))
