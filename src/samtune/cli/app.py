"""The command line, put together: every command in its group, errors mapped to exit codes.

The commands stand in one file per group and use `samtune.api` and `samtune.config` only. A new command is a function
in its group's file and a name in `COMMANDS`.

Exit codes: 0 done, 1 failed, 2 bad input or usage, or a disk that refuses, 130 and 143 interrupted (a training run's
checkpoint is saved).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import cyclopts
import yaml
from cyclopts import App, Group
from cyclopts.config import Yaml
from pydantic import ValidationError

from samtune import __version__
from samtune.cli import data, evaluation, inference, labelling, studio, tools, training
from samtune.errors import SamtuneError, UsageError

INTERRUPTED = 130

COMMANDS = {
    "Data": (data.doctor, data.prepare, data.download),
    "Training": (
        training.train,
        training.sweep,
        training.runs,
        training.find_train,
        training.fit_grid,
        training.embed,
        training.cache,
        training.pretrain,
    ),
    "Evaluation": (evaluation.evaluate, evaluation.compare, evaluation.blend, evaluation.write_prompts),
    "Labelling": (labelling.curve, labelling.next_),
    "Use": (inference.predict, inference.merge, inference.export, studio.studio),
    "Tools": (tools.demo, tools.bench, tools.models),
}
"""Every command and group of commands, by the heading it has in `samtune --help`."""


def build() -> App:
    """The command line with all its commands."""
    app = App(
        name="samtune",
        version=__version__,
        help="Tune Segment Anything 2 on your segmentation dataset, and learn honestly whether it helped.",
    )
    for place, (heading, commands) in enumerate(COMMANDS.items()):
        group = Group(heading, sort_key=place)
        for command in commands:
            if isinstance(command, App):
                command.group = (group,)
                app.command(command)
            else:
                app.command(command, group=group)
    return app


def main(tokens: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with the documented exit code."""
    tokens = sys.argv[1:] if tokens is None else tokens
    app = build()
    try:
        app.config = _config_files(tokens)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_int_as_exit_code_else_zero")
    except SamtuneError as error:
        code = _complain(str(error), error.exit_code)
    except cyclopts.UnusedCliTokensError as error:
        code = _complain(_value_of_no_option(error), UsageError.exit_code)
    except cyclopts.CycloptsError as error:
        code = _complain(_usage_message(error), UsageError.exit_code)
    except KeyboardInterrupt:
        code = _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever reads our output has gone: `samtune doctor X | head`
        sys.stderr.close()
        code = 1
    sys.exit(code)


def _config_files(tokens: Sequence[str]) -> tuple[Yaml, ...]:
    """The YAML file named by --config, whose settings count where no option is given."""
    for name, value in zip(tokens, [*tokens[1:], ""], strict=True):
        if name == "--config" or name.startswith("--config="):
            file = Path(value if name == "--config" else name.removeprefix("--config="))
            if not file.is_file():
                raise UsageError.of(expected="a YAML file with settings", found="no such file", where=str(file))
            try:
                yaml.safe_load(file.read_bytes())
            except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
                found = " ".join(str(error).split())
                raise UsageError.of(expected="a YAML file with settings", found=found, where=str(file)) from error
            return (Yaml(file, use_commands_as_keys=False),)
    return ()


def _usage_message(error: cyclopts.CycloptsError) -> str:
    """What cyclopts or pydantic found wrong with an option or a YAML key, in one line for each mistake."""
    if not isinstance(error.__cause__, ValidationError):
        if str(error).startswith("Cannot combine a value for --prompts with its"):
            return _preset_and_parts()
        return f"{error}\nsee `samtune --help`, or `samtune COMMAND --help`"
    options = _options(error)
    lines: dict[str, str] = {}
    for mistake in error.__cause__.errors(include_url=False):
        # a choice of types, such as a number or `auto`, has a mistake for each, with the type's name at the end
        place = ".".join(str(part) for part in mistake["loc"] if not re.search(r"[\[-]", str(part)))
        name = re.sub(r"\.\d+$", "", place)  # one of several values has its number
        message = mistake["msg"].removeprefix("Value error, ")
        found = f", found {mistake['input']!r}" if name else ""
        option = options.get(name, "--" + name.replace("_", "-"))
        line = f"{option + ': ' if name else ''}{message}{found}"
        if place in lines:
            line = f"{lines[place].removesuffix(found)}, or: {message}{found}"
        lines[place or line] = line
    return "\n".join(lines.values())


def _preset_and_parts() -> str:
    """A preset by its short name beside options for a part of it."""
    return str(
        UsageError.of(
            expected="--prompts NAME, or --prompts.FIELD options",
            found="both",
            do="to change a part of a preset, give its name as a field too: --prompts.preset NAME",
        )
    )


def _options(error: cyclopts.CycloptsError) -> dict[str, str]:
    """What the settings that a mistake was made in are called on the command line, by their dotted names."""
    found: dict[str, str] = {}
    open_ones = list(error.argument.children) if error.argument else []
    while open_ones:
        one = open_ones.pop()
        found[".".join(one.keys)] = one.name
        open_ones += one.children
    return found


def _value_of_no_option(error: cyclopts.UnusedCliTokensError) -> str:
    """A value that belongs to no option, such as a second dataset."""
    return str(
        UsageError.of(
            expected="values that an option or the command takes",
            found=f"{(error.unused_tokens or [''])[0]!r}, which belongs to none",
            do="leave it out, or name its option before it",
        )
    )


def _complain(message: str, code: int) -> int:
    first, *rest = message.splitlines()
    print(f"samtune: {first}", *(f"         {line}" for line in rest), sep="\n", file=sys.stderr)
    return code
