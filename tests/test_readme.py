"""What the README tells people to type runs: its shell commands and its Python, one after the other in one folder.

Two things stand in for what a test has no time or network for, here and nowhere else: `nano` for `sam2.1-tiny`, and 3
steps where the README leaves the default. `pip`, `uv` and `make` lines are run by `.ci/run`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

import samtune
from samtune.cli import main
from tests.small import write_export

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
IN_PLACE_OF = {"sam2.1-tiny": "nano"}
SHORTER = ["--steps", "3"]
RUN_BY_CI = {"pip", "uv", "make"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [tokens for line in lines if (tokens := shlex.split(line, comments=True))]


def run(tokens: list[str]) -> None:
    tokens = [IN_PLACE_OF.get(token, token) for token in tokens]
    if tokens[0] == "train" and "--resume" not in tokens:
        tokens += SHORTER
    with pytest.raises(SystemExit) as ended:
        main(tokens)
    assert ended.value.code == 0, " ".join(tokens)


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_export(Path("my-export"), side=96)
    shutil.copytree("my-export/test", "new-images")
    shutil.move("new-images/_annotations.coco.json", "boxes.json")
    commands = shell_commands()
    assert {"doctor", "prepare", "train", "compare", "predict", "export"} <= {
        tokens[1] for tokens in commands if tokens[0] == "samtune"
    }
    for program, *tokens in commands:
        if program == "samtune":
            run(tokens)
        else:
            assert program in RUN_BY_CI, f"nobody runs {program!r}"
    assert Path("comparison/report.html").is_file() and Path("tuned.pt").is_file()
    assert list(Path("masks/masks").glob("*.png"))

    original = samtune.TrainConfig
    monkeypatch.setattr(samtune, "TrainConfig", lambda **given: original(**{"steps": 3} | given))
    for code in blocks("python"):
        for name, other in IN_PLACE_OF.items():
            code = code.replace(name, other)
        exec(compile(code, "README.md", "exec"), {})
    assert "(96, 96)" in capsys.readouterr().out


def test_the_table_of_a_run_folder_is_true(tmp_path, monkeypatch, tiny_folder):
    """Every file that the README lists is in a run folder, and `config.yaml` starts the same run again."""
    monkeypatch.chdir(tmp_path)
    write_export(Path("my-export"))
    samtune.prepare("my-export", "dataset", quiet=True)
    config = samtune.TrainConfig(model=str(tiny_folder), steps=2, device="cpu")
    folder = samtune.train("dataset", config, quiet=True).folder
    rows = README.split("## A run folder")[1].split("Exit codes")[0].splitlines()
    listed = [name for row in rows if row.startswith("| `") for name in re.findall(r"`(\S+)`", row.split("|")[1])]
    assert len(listed) >= 7
    missing = [name for name in listed if not (folder / name).exists()]
    assert missing == []
    assert yaml.safe_load((folder / "config.yaml").read_text())["steps"] == 2
