"""How the machine is set up, by its PCK certificate, and what the policy demands of that.

    [platform]
    configuration = { allow_smt = true, allow_cached_keys = true }

Intel's Platform CA says whether hyper-threading is on, whether processors may be added, and whether
Intel keeps the root keys of the machine (docs/dcap.md 2.1). Its Processor CA says none of that: an
unknown value is the worse one. Where the table is there, what it leaves out is refused.
"""

from __future__ import annotations

from policy.errors import PlatformDeniedError
from policy.sections import SGX_TYPES, Configuration
from verifier.pck import PlatformIdentity


class SgxTypeUnaccepted(PlatformDeniedError):
    """The machine protects memory in another way than the policy lists."""

    code = "sgx-type-unaccepted"
    default_fix = "use another machine, or agree on a policy with this type in sgx_types"


class SmtUnaccepted(PlatformDeniedError):
    """Hyper-threading is on, or the certificate does not say, and the policy does not allow it."""

    code = "smt-unaccepted"
    default_fix = "have the operator switch hyper-threading off and register the machine again"


class DynamicPlatformUnaccepted(PlatformDeniedError):
    """Processors may be added to the machine, or the certificate does not say."""

    code = "dynamic-platform-unaccepted"
    default_fix = "use another machine, or agree on a policy with allow_dynamic_platform = true"


class CachedKeysUnaccepted(PlatformDeniedError):
    """Intel keeps the machine's root keys, or the certificate does not say."""

    code = "cached-keys-unaccepted"
    default_fix = "use another machine, or agree on a policy with allow_cached_keys = true"


def require_configuration(wanted: Configuration | None, machine: PlatformIdentity) -> str:
    """The machine is set up as the policy demands; what was found, for people.

    Raises:
        SgxTypeUnaccepted, SmtUnaccepted, DynamicPlatformUnaccepted, CachedKeysUnaccepted.
    """
    if wanted is None:
        return "not asked for"
    types = [SGX_TYPES[name] for name in wanted.sgx_types]
    if machine.sgx_type not in types:
        raise SgxTypeUnaccepted("SGX type", expected=" or ".join(types), found=machine.sgx_type)
    leaf: type[PlatformDeniedError]
    for thing, allowed, found, leaf in (
        ("hyper-threading (SMT)", wanted.allow_smt, machine.smt_enabled, SmtUnaccepted),
        (
            "dynamic platform",
            wanted.allow_dynamic_platform,
            machine.dynamic_platform,
            DynamicPlatformUnaccepted,
        ),
        ("cached keys", wanted.allow_cached_keys, machine.cached_keys, CachedKeysUnaccepted),
    ):
        if not allowed and found is not False:
            said = "yes" if found else "a certificate that does not say"
            raise leaf(thing, expected="no", found=said)
    return f"{machine.sgx_type}, as agreed"
