"""The lines of section 5 of the reference, and what each expects there.

Where the reference itself is at hand, `tests/verifier/test_cases.py` compares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TABLE = {
    "5.1": """
    N001 QUOTE_FORMAT
    N002 QUOTE_FORMAT
    N003 QUOTE_FORMAT, no other exception
    N004 QUOTE_UNSUPPORTED
    N005 QUOTE_UNSUPPORTED
    N006 QUOTE_UNSUPPORTED
    N007 QUOTE_UNSUPPORTED
    N008 QUOTE_UNSUPPORTED
    N009 QUOTE_UNSUPPORTED
    N010 QUOTE_FORMAT
    N011 QUOTE_UNSUPPORTED
    N012 QUOTE_FORMAT
    N013 QUOTE_FORMAT
    N014 QUOTE_FORMAT
    N015 QUOTE_FORMAT
    N016 QUOTE_FORMAT
    N017 QUOTE_FORMAT
    N018 ok / QUOTE_FORMAT
    N019 QUOTE_FORMAT
    """,
    "5.2": """
    N020 QUOTE_FORMAT
    N021 pass (must not crash or assume 32)
    N022 QUOTE_FORMAT
    N023 QUOTE_FORMAT
    N024 QUOTE_FORMAT
    N025 QUOTE_FORMAT
    N026 QUOTE_FORMAT
    N027 QUOTE_FORMAT
    N028 QUOTE_FORMAT
    N029 QUOTE_FORMAT
    N030 QUOTE_UNSUPPORTED
    N031 QUOTE_FORMAT before allocation
    N032 PCK_CHAIN
    N033 PCK_CHAIN
    N034 PCK_CHAIN
    N035 PCK_CHAIN
    N036 pass
    N037 PCK_CHAIN
    """,
    "5.3": """
    N040 some failure for every bit position (property test over signed region)
    N041 QUOTE_SIGNATURE
    N042 QUOTE_SIGNATURE
    N043 QUOTE_SIGNATURE
    N044 QUOTE_SIGNATURE or QE_BINDING, typed
    N045 QE_BINDING
    N046 QE_BINDING
    N047 QE_BINDING
    N048 QE_SIGNATURE
    N049 QE_IDENTITY
    N050 QUOTE_SIGNATURE
    """,
    "5.4": """
    N060 PCK_CHAIN
    N061 PCK_CHAIN
    N062 PCK_CHAIN
    N063 PCK_CHAIN
    N064 PCK_CHAIN
    N065 PCK_CHAIN
    N066 PCK_CHAIN
    N067 PCK_CHAIN
    N068 PCK_CHAIN
    N069 PCK_CHAIN
    N070 PCK_CHAIN
    N071 PCK_CHAIN
    N072 EXPIRED / pass
    N073 EXPIRED / pass
    N074 PCK_EXTENSION
    N075 PCK_EXTENSION
    N076 PCK_EXTENSION
    N077 PCK_EXTENSION
    N078 PCK_EXTENSION
    N079 PCK_EXTENSION
    N080 PCK_EXTENSION
    N081 PCK_EXTENSION
    N082 PCK_EXTENSION
    N083 PCK_EXTENSION
    N084 CERT_REVOKED
    N085 CERT_REVOKED
    N086 CRL
    N087 CRL
    N088 CRL
    N089 EXPIRED or CRL
    N090 CRL
    N091 CRL
    N092 CRL
    N093 pass, identical verdict
    """,
    "5.5": """
    N100 COLLATERAL_FORMAT
    N101 COLLATERAL_FORMAT
    N102 COLLATERAL_SIGNATURE
    N103 COLLATERAL_SIGNATURE or COLLATERAL_CHAIN
    N104 COLLATERAL_CHAIN
    N105 EXPIRED / CERT_REVOKED / EXPIRED
    N106 COLLATERAL_FORMAT / COLLATERAL_MISMATCH
    N107 COLLATERAL_FORMAT / COLLATERAL_MISMATCH
    N108 COLLATERAL_FORMAT
    N109 pass / EXPIRED
    N110 EXPIRED
    N111 COLLATERAL_FORMAT / COLLATERAL_MISMATCH / pass
    N112 as above
    N113 COLLATERAL_FORMAT
    N114 COLLATERAL_FORMAT
    N115 COLLATERAL_FORMAT
    N116 COLLATERAL_FORMAT
    N117 COLLATERAL_FORMAT
    N118 COLLATERAL_FORMAT
    N119 COLLATERAL_FORMAT
    N120 COLLATERAL_FORMAT
    N121 COLLATERAL_FORMAT
    N122 COLLATERAL_FORMAT
    N123 COLLATERAL_FORMAT
    N124 COLLATERAL_FORMAT
    N125 COLLATERAL_FORMAT
    N126 COLLATERAL_FORMAT, no crash
    N127 COLLATERAL_FORMAT
    N128 same verdict as sorted
    """,
    "5.6": """
    N140 COLLATERAL_FORMAT
    N141 COLLATERAL_FORMAT
    N142 COLLATERAL_FORMAT
    N143 COLLATERAL_SIGNATURE / COLLATERAL_CHAIN
    N144 COLLATERAL_MISMATCH (or QE_IDENTITY)
    N145 EXPIRED
    N146 QE_IDENTITY
    N147 QE_IDENTITY
    N148 QE_IDENTITY / pass
    N149 QE_IDENTITY / pass
    N150 QE_IDENTITY both
    N151 TCB_NOT_SUPPORTED
    N152 status OutOfDate
    N153 TCB_REVOKED
    N154 error, never 'skip'
    N155 QE_IDENTITY
    """,
    "5.7": """
    N160 TDX_MODULE
    N161 TDX_MODULE
    N162 TDX_MODULE
    N163 TDX_MODULE
    N164 pass
    N165 pass
    N166 TCB_NOT_SUPPORTED
    N167 OutOfDate
    N168 OutOfDate (not UpToDate)
    N169 TCB_REVOKED both
    N170 level still matches
    N171 next level / TCB_NOT_SUPPORTED
    N172 POLICY
    N173 POLICY
    N174 pass
    N175 POLICY / pass
    N176 POLICY
    N177 POLICY
    """,
    "5.8": """
    N180 UpToDate
    N181 UpToDate
    N182 TCB_REVOKED
    N183 TCB_NOT_SUPPORTED
    N184 TCB_REVOKED
    N185 TCB_REVOKED
    N186 lower level's status
    N187 lower level / TCB_NOT_SUPPORTED
    N188 table 4.9 (35 cells)
    N189 OutOfDateConfigurationNeeded
    N190 OutOfDate, not Revoked
    N191 invariant verdict
    N192 TDRelaunchAdvised
    N193 TDRelaunchAdvisedConfigurationNeeded
    N194 TDRelaunchAdvised
    N195 OutOfDate
    N196 OutOfDate
    N197 UpToDate (launch wins)
    N198 OutOfDate (no relaunch)
    N199 OutOfDate
    N200 TCB_NOT_SUPPORTED or TDX_MODULE
    N201 union, deduplicated
    N202 UpToDate, advisories exposed
    """,
    "5.9": """
    N210 TCB_STATUS
    N211 configuration error
    N212 POLICY / pass
    N213 POLICY
    N214 POLICY
    N215 collateral_expired, EXPIRED
    N216 pass flagged / EXPIRED
    N217 configuration error
    N218 POLICY
    N219 POLICY
    N220 POLICY
    N221 pass (FMSPC-wide by design)
    N222 second result unaffected
    N223 only typed failures, bounded time
    """,
}
_CLASS = re.compile(r"[A-Z]+(?:_[A-Z]+)+|CRL|EXPIRED|POLICY")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its section, and its column of what is expected."""

    section: str
    expect: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The failure classes that the column names; none where it speaks of something else."""
        if self.expect == "as above":
            return ("COLLATERAL_FORMAT", "COLLATERAL_MISMATCH")
        return tuple(_CLASS.findall(self.expect))


LINES = {
    line: Line(section, expect)
    for section, table in _TABLE.items()
    for line, expect in re.findall(r"(N[0-9]{3}) (.*)", table)
}
