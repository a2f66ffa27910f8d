"""Where a command keeps its own files, where no option names a folder.

Only commands ask: an enclave has no home.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import platformdirs

from verifier.errors import ConfigError


class UserFolderUnknown(ConfigError):
    """No folder is named, and this user has no home folder."""

    code = "user-folder-unknown"
    default_fix = "name one with --state DIR (and --cache DIR), or set HOME to a folder"


def user_folder(kind: Literal["state", "cache"]) -> Path:
    """This user's own folder for state or for caches.

    Raises:
        UserFolderUnknown: Neither HOME nor the system names one. A folder called `~`, where the
            command happens to be started, would read as a first use at the next place.
    """
    find = {"state": platformdirs.user_state_path, "cache": platformdirs.user_cache_path}[kind]
    home = os.path.expanduser("~")
    try:
        folder = find("ratls")
    except RuntimeError:  # it found none
        folder = Path()
    nowhere = home == "/" or not os.path.isabs(home)
    named = os.environ.get(f"XDG_{kind.upper()}_HOME")
    if not folder.is_absolute() or (nowhere and not named):
        raise UserFolderUnknown(f"{kind} folder", expected="a home folder", found="none")
    return folder
