"""The umbrella command: finds each package's commands through entry points, and runs them.

An entry point in the group `ratls.commands` carries the command's name; its object is a
`typer.Typer` with subcommands or one function. This module and every `cli` module import only
the standard library and typer at module level, so that `ratls --help` is quick.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import requires, version
from importlib.util import LazyLoader
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ratls.foreign_package import require_own
from ratls.profile_options import TAKES, ProfileFinder, taken_from
from verifier.errors import ConfigError, RatlsError
from verifier.modes import own_entry_points
from verifier.output import OutputReaderGone, prepare_streams
from verifier.usage import Commands

# What a command needs beside the plain install, where that is not `policy`.
_EXTRAS = {
    "enclave": "enclave",
    "measure": "measure",
    "provider": "provider",
    "scheduler": "scheduler",
    "task": "provider",
}
# Modules that are not called as the package that brings them.
_PACKAGES = {
    "OpenSSL": "pyopenssl",
    "google": "protobuf",
    "grpc": "grpcio",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
}
# Packages that one extra alone brings, whatever the command.
_EXTRA_OF = {
    "jinja2": "measure",
    "onnx": "onnx",
    "scikit-learn": "models",
    "skops": "models",
    "tomli-w": "measure",
}


class PackageMissing(ConfigError):
    """A command needs a package that this installation was made without."""

    code = "package-missing"
    default_fix = 'pip install "ratls[all]"'
    says = "`ratls {thing}` needs the package {expected}, which is not installed"


# The sections of the help, and what stands in each.
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Begin": ("demo", "init", "config", "explain"),
    "Agree": ("party", "policy"),
    "Verify": ("verify", "collateral", "measure", "attest"),
    "Release and compute": ("provider", "task"),
    "Operate": ("doctor", "enclave", "tunnel", "scheduler", "simulation"),
}


class Umbrella(Commands):
    """`ratls` itself: what is not typed comes from the profile."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Only notes where values would come from; the command that needs one has it read."""
        arguments = list(args)
        rest = super().parse_args(ctx, args)
        ctx.obj = ProfileFinder(ctx.params.get("profile"))
        ctx.default_map = taken_from(ctx.obj, arguments)
        return rest

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the sections."""
        places = [name for names in _SECTIONS.values() for name in names]
        return sorted(
            super().list_commands(ctx),
            key=lambda name: places.index(name) if name in places else len(places),
        )

    def invoke(self, ctx: Any) -> Any:
        """What is missing could also stand in the profile: say so."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if hasattr(error, "param_type") and error.ctx is not None and error.param is not None:
                command = error.ctx.command_path.split(" ", 1)[-1]
                if error.param.name in TAKES.get(command, ()):
                    error.message = (
                        f"Type it, or let ratls.toml say it: see `ratls config show {command}`."
                    )
            raise


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ratls {version('ratls')}")
        raise typer.Exit


def build(wanted: str | None = None) -> typer.Typer:
    """The command tree of what is installed.

    Args:
        wanted: What comes after `ratls`. Where it names a command, no other one is loaded.

    Raises: ForeignEntryPoint, ForeignPackage.
    """
    app = typer.Typer(
        cls=Umbrella,
        help="Release data only to the attested enclave, and only under the policy, "
        "that every party signed.",
        epilog="What is not typed comes from ratls.toml, in this folder or above it: "
        "`ratls config show`. What a refusal means: `ratls explain CODE`.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # locals may hold rows and keys
        rich_markup_mode=None,
    )

    @app.callback()
    def umbrella(
        profile: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Take from this ratls.toml what is not typed. Default: what RATLS_PROFILE "
                "names, or the nearest one in this folder or above it.",
            ),
        ] = None,
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """Options of `ratls` itself."""

    entries = sorted(own_entry_points("ratls.commands"), key=lambda e: e.name)
    for entry in [entry for entry in entries if entry.name == wanted] or entries:
        require_own(entry.module.partition(".")[0])
        command, section = entry.load(), _section(entry.name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name, rich_help_panel=section)
        else:
            app.command(entry.name, rich_help_panel=section)(command)
    return app


def _command(arguments: list[str]) -> str:
    """The first argument that is no option of `ratls` itself, nor the value of one."""
    before = ""
    for argument in arguments:
        if before != "--profile" and not argument.startswith("-"):
            return argument
        before = argument
    return ""


def _section(command: str) -> str:
    return next((title for title, names in _SECTIONS.items() if command in names), "More")


def package_missing(command: str, module: str) -> PackageMissing | None:
    """The refusal for a module that cannot be found; None where no extra of ours brings it."""
    package = _PACKAGES.get(module.split(".")[0], module.split(".")[0])
    optional = [line for line in requires("ratls") or () if "extra ==" in line]
    if not any(re.match(rf"{re.escape(package)}\b", line) for line in optional):
        return None
    # `verify server --party` proves itself on a stream, as a provider does.
    own = _EXTRAS.get(command, "provider" if package in ("pyarrow", "structlog") else "policy")
    own = _EXTRA_OF.get(package, own)
    fix = f'pip install "ratls[{own}]"'
    return PackageMissing(command, expected=package, found="none", fix=fix)


_BY_TOKEN = {"policy", "party"}  # commands whose signing key may be in one: policies, withdrawals


class _Spared:
    """What libraries load wherever it is installed, and commands do without. Only in a process of
    our own: callers of the library may need it.

    pyarrow loads pandas with the first value that it converts: a second that no command needs.
    securesystemslib loads the clients of every key service: boto3, a third of a second, waits here
    until a key of AWS is used. That of tokens is left out where nothing is signed by one.
    """

    def __init__(self, command: str) -> None:
        self._left_out = {"pandas"} | (set() if command in _BY_TOKEN else {"pkcs11"})

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Finds boto3, to be loaded when first used, and lets nobody find what is left out.

        Raises: ModuleNotFoundError.
        """
        if name in self._left_out:
            raise ModuleNotFoundError("left out of commands", name=name)
        found = PathFinder.find_spec(name) if name == "boto3" else None
        if found is not None and found.loader is not None:
            found.loader = LazyLoader(found.loader)
        return found


def main() -> None:
    """The command that is typed; `ratls.start` looked first whether our packages are ours."""
    prepare_streams()
    wanted = _command(sys.argv[1:])
    sys.meta_path.insert(0, _Spared(wanted))
    try:
        build(wanted or None)()
    except ModuleNotFoundError as error:
        refusal = package_missing(wanted, error.name or "")
        if refusal is None:
            raise
        _end(refusal)
    except RatlsError as refusal:  # of what no command's body writes, as `--help`
        _end(refusal)


def _end(refusal: RatlsError) -> NoReturn:
    if isinstance(refusal, OutputReaderGone):
        sys.exit(int(refusal.exit_status))
    if "--json" in sys.argv:
        from verifier.shell import Shell

        with suppress(RatlsError, OSError):  # the verdict is in the exit status
            Shell(json_output=True).show_refusal(refusal)
    else:
        word = refusal.exit_status.word
        sys.stderr.write(f"{word} [{refusal.code}] {refusal}\n  to do: {refusal.fix}\n")
    sys.exit(int(refusal.exit_status))
