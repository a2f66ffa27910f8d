"""The refusal of a package that has the name of one of ours, for what loads one by its name."""

from __future__ import annotations

from ratls.names import CODE, foreign
from verifier.errors import ConfigError


class ForeignPackage(ConfigError):
    """A package of one of our names is not ours: another distribution has overwritten it."""

    code = CODE
    default_fix = "give ratls an environment of its own: python3 -m venv ratls-env"
    says = "{found}"


def require_own(package: str) -> None:
    """Nothing is loaded from this package unless it is ours. Loads none of it.

    Raises:
        ForeignPackage: It is another one, or there is none.
    """
    if found := foreign((package,)):
        from ratls.owners import refusal

        sentence, fix = refusal(found)
        raise ForeignPackage(package, expected="the one of ratls", found=sentence, fix=fix)
