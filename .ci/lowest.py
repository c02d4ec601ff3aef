"""Print the lowest allowed version of every dependency as a pip constraint: `python .ci/lowest.py > lowest.txt`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)")


def main() -> None:
    """Print one `NAME==VERSION.*` a line: the newest patch of the lowest version."""
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    for requirement in wanted:
        match = REQUIREMENT.match(requirement)
        assert match, f"{requirement} has no lower bound"
        print(f"{match[1]}=={match[2]}.*")


if __name__ == "__main__":
    main()
