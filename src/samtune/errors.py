"""The exception tree: every mistake a user can make ends in one of these, never in a traceback.

A message says four things, in this order: what was expected, what was found, where, and what to do. `SamtuneError.of`
puts them together so that every message reads alike. Bugs in samtune itself raise `AssertionError` or whatever Python
raises; they are not part of this tree.

    SamtuneError            exit code 1: the work was understood but failed
    ├── UsageError          exit code 2: what was asked for, or the input given, cannot be used
    │   ├── ConfigError     an option, a YAML key, a value out of range
    │   ├── DataError       a dataset, an annotation file, an image, an archive
    │   └── ModelError      a model name, a checkpoint, a run folder
    ├── StorageError        exit code 2: no space, no permission, a file that vanished
    └── RemoteError         exit code 1: a service that did not answer as it should
"""

from __future__ import annotations

from typing import Self


class SamtuneError(Exception):
    """Base of all errors samtune reports. `exit_code` is what the command line ends with."""

    exit_code = 1

    @classmethod
    def of(cls, *, expected: str, found: str, where: str | None = None, do: str | None = None) -> Self:
        """Build the error from the parts of its message; `where` and `do` are left out where they say nothing."""
        lines = [f"expected {expected}", f"found    {found}"]
        if where:
            lines.append(f"in       {where}")
        if do:
            lines.append(f"to do    {do}")
        return cls("\n".join(lines))


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
