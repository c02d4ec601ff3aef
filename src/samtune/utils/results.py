"""What commands and API functions return: frozen values that a terminal, a program and a notebook can show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from samtune.utils.text import html_lines


class Result(ABC):
    """Base of all results, which are frozen dataclasses. Subclasses say what to tell the user."""

    __slots__ = ()

    @abstractmethod
    def lines(self) -> list[str]:
        """What to tell the user, line by line."""

    def to_json(self) -> dict[str, Any]:
        """All fields as values that `json.dumps` takes."""
        return cast("dict[str, Any]", plain(self))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_lines(self.lines())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The same with its plain text: Python's own would write each measured object into the notebook's file."""
        return {"text/html": self._repr_html_(), "text/plain": "\n".join(self.lines())}


def plain(value: Any) -> Any:
    """A value as `json.dumps` takes it: dataclasses and settings as dicts, paths as text, tuples as lists.

    Raises:
        TypeError: a value of a kind that has no JSON.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence | Set):
        return [plain(entry) for entry in cast("Sequence[Any]", value)]
    raise TypeError(f"{type(value).__name__} has no JSON")
