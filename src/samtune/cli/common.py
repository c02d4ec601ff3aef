"""What all commands share: types of options, and how results are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from samtune.utils.progress import is_main_process
from samtune.utils.results import Result

Flat = Parameter(name="*", consume_multiple=True)
"""The fields of a config become options of their own: `--steps`, not `--config.steps`."""
Out: TypeAlias = Annotated[Path, Parameter(help="Folder to write.")]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="Print everything as JSON.")]
Quiet: TypeAlias = Annotated[bool, Parameter(negative="", help="Show no progress.")]


def say(*lines: str) -> None:
    """Print lines to stdout; of several processes under `torchrun` the main one does."""
    if is_main_process():
        for line in lines:
            print(line, flush=True)


def show(result: Result, *, as_json: bool = False) -> None:
    """Print a result, for people or as JSON."""
    say(*([dumps(result.to_json())] if as_json else result.lines()))


def dumps(value: Any) -> str:
    """JSON for programs that read our output."""
    return json.dumps(value, indent=2)
