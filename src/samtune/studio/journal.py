"""The studio's journal: one JSON object per line, on the disk before anybody is told that it is kept.

A process that is killed, or a machine that loses power, can leave its last line unfinished; nobody was told that this
line is kept, so it is cut off when the journal is opened. Damage anywhere else is never passed over in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samtune.errors import DataError, StorageError
from samtune.utils.files import new_file, storage_error, storage_errors

NUMBER = "n"
"""Each event has a number of its own, one higher than the one before it."""


class Journal:
    """An append-only file of events.

    Args:
        path: the file; made when it does not exist.
        after: number of the last event that is kept elsewhere; events up to it are passed over.

    Raises:
        DataError: a line that is no event, other than an unfinished last one.
        StorageError: the disk refused.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        self.path = path
        self.cut_off = 0
        """Bytes of an unfinished last line that were cut off when the file was opened."""
        self.events: list[dict[str, Any]] = []
        """What was there when the file was opened, beyond `after`, in order."""
        with storage_errors(path):
            path.touch()
            data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        self._number = after
        for line, text in enumerate(data[:whole].splitlines(), start=1):
            self._take(text, line, after)
        self.cut_off = len(data) - whole
        with storage_errors(path):
            self._file = path.open("r+b", buffering=0)
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        self._size = whole

    def append(self, event: Mapping[str, Any]) -> None:
        """Write an event, and wait until it is on the disk.

        Raises:
            StorageError: the disk refused; the event is not in the journal.
        """
        line = json.dumps({NUMBER: self._number + 1, **event}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            self._file.seek(self._size)
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            self._take_back()
            raise storage_error(error, self.path) from error
        self._size += len(line)
        self._number += 1

    @property
    def number(self) -> int:
        """Number of the last event."""
        return self._number

    def restart(self) -> None:
        """Begin anew after everything so far is kept elsewhere; numbers go on.

        Raises:
            StorageError: the disk refused; everything is still there.
        """
        self._file.close()
        try:
            with new_file(self.path):
                pass
        finally:
            self._file = self.path.open("r+b", buffering=0)
            self._size = self.path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _take(self, text: bytes, line: int, after: int) -> None:
        try:
            event = json.loads(text)
            number = event[NUMBER]
            fits = isinstance(number, int) and (number <= after or number == self._number + 1)
        except (ValueError, TypeError, KeyError, RecursionError):
            fits, number, event = False, 0, {}
        if not fits:
            raise DataError.of(
                expected=f"event {self._number + 1} of a studio's journal",
                found="damage",
                where=f"{self.path}, line {line}",
                do="bring the file back from a copy; the lines before this one are sound",
            )
        if number > after:
            self._number = number
            self.events.append(event)

    def _take_back(self) -> None:
        """Remove what a failed append may have left behind."""
        try:
            self._file.truncate(self._size)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError.of(
                expected="a journal that can be written",
                found=(error.strerror or str(error)).lower(),
                where=str(self.path),
                do="end the studio, mend the disk, and start it again: what was accepted before is there",
            ) from error
