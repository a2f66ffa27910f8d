"""Refusals of the simulation: its folder, and what it measures."""

from __future__ import annotations

from verifier.errors import ConfigError


class SimulationFolderNotEmpty(ConfigError):
    """The folder for a new simulation holds something, which is never overwritten."""

    code = "simulation-folder-not-empty"
    default_fix = "name a folder that does not exist yet, or an empty one"


class SimulationFolderUnusable(ConfigError):
    """A simulation's folder lacks a file, or a file in it is not what was once written."""

    code = "simulation-folder-unusable"
    default_fix = "make another with `ratls simulation new DIR` and name what it wrote"


class MeasuredPackageMissing(ConfigError):
    """A package that a simulated enclave consists of is not installed."""

    code = "measured-package-missing"
    default_fix = "install the whole ratls distribution, at the same version as ratls-simulation"


class SimulationNotLoopback(ConfigError):
    """The simulated collateral service is asked to listen where other machines reach it."""

    code = "simulation-not-loopback"
    default_fix = "listen on 127.0.0.1 or [::1]"
