"""Text for people: counted things; tables on a terminal, as HTML in a notebook, as CSV; an exception in one line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO

from pydantic import ValidationError


def counted(number: int, noun: str) -> str:
    """A number of things: `1 step`, `2 steps`, `0 steps`; for nouns whose plural ends in a plain s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns are as wide as they need; the first column is left-aligned, the others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as HTML; all cells are escaped."""
    aligned = ["left", *["right"] * (len(head) - 1)]

    def line(cells: Sequence[str], tag: str) -> str:
        columns = zip(cells, aligned, strict=True)
        return "".join(f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in columns)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows, the first one the head, as CSV with line feeds."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def html_lines(lines: Sequence[str]) -> str:
    """Lines as HTML that keeps their columns; everything is escaped."""
    return f'<pre style="white-space: pre-wrap">{escape(chr(10).join(lines))}</pre>'


def one_line(error: Exception) -> str:
    """What was wrong with a file, in one line: a missing key, a value of the wrong type, the system's refusal."""
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)
