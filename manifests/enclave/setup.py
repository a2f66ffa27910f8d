"""Builds the distribution `ratls-enclave` from the modules that the list names."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LISTED = (ROOT / "enclave_app" / "measured.txt").read_text("utf-8").split()
MODULES = [name.removesuffix(".py").replace("/", ".") for name in LISTED]

setup(
    py_modules=[name for name in MODULES if not name.endswith(".__init__")],
    options={"egg_info": {"egg_base": str(HERE)}},  # else it lies beside the packages
)
