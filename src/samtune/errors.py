"""The exception tree: every mistake a user can make ends in one of these, never in a traceback.

An error has four parts: what was expected, what was found, where, and what to do. They are attributes, and `str(error)`
shows them in this order. `SamtuneError.of` builds every error, so that all messages read alike. Bugs in samtune itself
raise `AssertionError` or whatever Python raises; they are not part of this tree.

    SamtuneError            exit code 1: the work was understood but failed
    ├── UsageError          exit code 2: what was asked for, or the input given, cannot be used
    │   ├── ConfigError     an option, a YAML key, a value out of range
    │   ├── DataError       a dataset, an annotation file, an image, an archive
    │   └── ModelError      a model name, a checkpoint, a run folder
    ├── StorageError        exit code 2: no space, no permission, a file that vanished
    └── RemoteError         exit code 1: a service that did not answer as it should
"""

from __future__ import annotations

from copy import copy
from typing import Self


class SamtuneError(Exception):
    """Base of all errors samtune reports.

    Attributes:
        exit_code: what the command line ends with.
        expected: what was expected.
        found: what was found instead, in words that fit into a sentence.
        where: file, field or option; None where there is nothing to point at.
        do: what the user can do about it; None where samtune knows nothing.
    """

    exit_code = 1

    def __init__(self, found: str = "", *, expected: str = "", where: str | None = None, do: str | None = None) -> None:
        super().__init__(found)
        self.expected, self.found, self.where, self.do = expected, found, where or None, do or None

    @classmethod
    def of(cls, *, expected: str, found: str, where: str | None = None, do: str | None = None) -> Self:
        """Build the error from its parts; `where` and `do` are left out of the message where they say nothing."""
        return cls(found, expected=expected, where=where, do=do)

    def __str__(self) -> str:
        parts = (("expected", self.expected), ("found", self.found), ("in", self.where), ("to do", self.do))
        return "\n".join(f"{name:<8} {text}" for name, text in parts if text)

    def parts(self) -> dict[str, str | None]:
        """The four parts by name, as JSON values."""
        return {"expected": self.expected, "found": self.found, "where": self.where, "do": self.do}

    def replacing(self, old: str, new: str) -> Self:
        """The same error with `old` replaced by `new` in all its parts, such as a temporary folder by its archive."""
        error = copy(self)
        error.expected, error.found = self.expected.replace(old, new), self.found.replace(old, new)
        error.where, error.do = (text and text.replace(old, new) for text in (self.where, self.do))
        return error


class UsageError(SamtuneError):
    """What was asked for, or the input given, cannot be used."""

    exit_code = 2


class ConfigError(UsageError):
    """An option, a YAML key or a value that no configuration accepts."""


class DataError(UsageError):
    """A dataset, annotation file, image or archive that cannot be used."""


class ModelError(UsageError):
    """A model name, checkpoint or run folder that cannot be used."""


class StorageError(SamtuneError):
    """The disk refused: no space, no permission, a file that vanished while it was in use."""

    exit_code = 2


class RemoteError(SamtuneError):
    """A remote service did not answer as it should."""
