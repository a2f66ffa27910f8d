"""A manifest's template becomes the text that Gramine's signer would start from.

    text = render(template, {"image": "/opt/ratls/image"}, Path("/usr/lib/gramine"))

Jinja in a sandbox, with the names `gramine.libos`, `gramine.pkglibdir` and `gramine.runtimedir()`,
and those of `-D`. What would depend on this machine (`env`, `ldd`, `python`) is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from verifier.gramine.errors import MeasuredFormatError


class TemplateInvalid(MeasuredFormatError):
    """A manifest's template cannot be rendered."""

    code = "template-invalid"
    default_fix = "give each name with -D NAME=VALUE, and correct the template at the named line"


def render(template: str, names: Mapping[str, str], gramine: Path) -> str:
    """Raises: TemplateInvalid."""
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    known = {
        "libos": gramine / "libsysdb.so",
        "pkglibdir": gramine,
        "runtimedir": lambda libc="glibc": (gramine / "runtime" / libc).resolve(),
    }
    try:
        return environment.from_string(template).render({**names, "gramine": known})
    except Exception as error:  # whatever the template's own expressions raise
        line = getattr(error, "lineno", None)
        where = "template" if line is None else f"template, line {line}"
        raise TemplateInvalid(
            where, expected="a template that renders", found=ascii(str(error))[1:-1][:120]
        ) from error
