"""What several modules of this package refuse."""

from __future__ import annotations

from verifier.errors import ConfigError


class ImageError(ConfigError):
    """The image cannot be made from what is given."""


class ListMalformed(ImageError):
    """A line of a lock, or of the list of files, does not have its one form."""

    code = "image-list-malformed"
    default_fix = "take the file from the release; it is made by `make image-lock`, never by hand"


class PartNotLocked(ImageError):
    """The list takes a file from a package that no lock names."""

    code = "image-part-not-locked"
    default_fix = "take locks and list from one release"
