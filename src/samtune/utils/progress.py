"""Progress on screen: a bar on a terminal, plain lines elsewhere, nothing when asked to be quiet. Always on stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]
"""Called with what is done and the total, in whatever unit the work has."""

PLAIN_LINE_EVERY_SECONDS = 5.0


def is_main_process() -> bool:
    """Whether this is the one process that prints, of those that `torchrun` has started; known without torch."""
    return os.environ.get("RANK", "0") == "0"


def stderr_console(*, quiet: bool = False) -> Console:
    """Where progress and notes go, so that results on stdout stay clean."""
    return Console(stderr=True, quiet=quiet or not is_main_process())


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Advance]:
    """A bar named `label`, moved by calling what this yields."""
    console = stderr_console(quiet=quiet)
    if console.is_terminal and not quiet:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _plain_lines(label, console)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Bars one after the other: calling with another name ends one and starts the next."""
    with ExitStack() as current:
        name = ""
        advance: Advance | None = None

        def move(what: str, done: int, total: int) -> None:
            nonlocal name, advance
            if what != name or advance is None:
                current.close()
                name, advance = what, current.enter_context(progress(what, quiet=quiet))
            advance(done, total)

        yield move


def _plain_lines(label: str, console: Console) -> Advance:
    last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_LINE_EVERY_SECONDS:
            last = time.monotonic()
            console.print(f"{label}: {done} of {total}", highlight=False, markup=False)

    return advance
