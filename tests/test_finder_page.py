"""What docs/finder.md tells people to type runs: its shell commands, and its Python on an exported finder.

`RUN`, `IMAGES` and `DATASET` are folders of these names here. One thing stands in for what a test has no time for:
30 steps of a narrow network where the page leaves the default, and two looks whatever validation says.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samtune import api
from samtune.cli import main
from samtune.config import TrainConfig
from samtune.data.table import Dataset
from samtune.finder.finding import Looks, look
from samtune.finder.naming import Voices, likelihoods
from samtune.finder.proposals import propose
from samtune.finder.storage import load_finder
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from tests.small import make_dataset

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "finder.md").read_text(encoding="utf-8")
SHORTER = {"find-train": ["--steps", "30", "--width", "16", "--looks", "2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """A folder with `RUN`, a run without a finder yet, `DATASET` and `IMAGES`."""
    root = tmp_path_factory.mktemp("page")
    dataset = make_dataset(root / "DATASET", train=6, valid=3, test=2)
    api.train(dataset.root, TrainConfig(model=str(tiny_folder), out=root / "RUN", steps=1), quiet=True)
    shutil.copytree(root / "DATASET" / "images", root / "IMAGES")
    return root


def test_of_two_equal_neighbours_either_may_be_the_peak():
    finder = pytest.importorskip("samtune.exports.onnx.finder", reason="the extra onnx is not installed")
    heat = torch.tensor([[[0.1, 0.2, 0.2 + 1e-7, 0.1], [0.1, 0.1, 0.1, 0.0]]])
    right, left = np.zeros((2, 1, 2, 4), np.float32)
    right[0, 0, 2] = left[0, 0, 1] = 0.2
    assert finder.peaks_gap(right, right, heat) == 0 and finder.peaks_gap(left, right, heat) < 1e-6
    wrong = right.copy()
    wrong[0, 1, 3] = 0.05
    assert finder.peaks_gap(wrong, right, heat) > 0.1
    assert finder.peaks_gap(right * np.float32(0.9), right, heat) == pytest.approx(0.02)


def shell_commands() -> list[list[str]]:
    (block,) = [code for code in re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S) if code.startswith("samtune ")]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_page_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = shell_commands()
    assert [tokens[:2] for tokens in commands] == [["samtune", name] for name in ("find-train", "predict", "evaluate")]
    for _, *tokens in commands:
        with pytest.raises(SystemExit) as ended:
            main([*tokens, *SHORTER.get(tokens[0], [])])
        assert ended.value.code == 0, " ".join(tokens)
    assert Path("RUN/finder/finder.safetensors").is_file() and Path("found/counts.csv").is_file()

    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    api.export("RUN", "export", "hf")
    dataset, predictor = Dataset.open(Path("DATASET")), Predictor(load_model("RUN"))
    seen = Looks.by(predictor, dataset.read_image(dataset.split("test").images[0]), 2)
    assert seen.mirrored is not None
    names = ("image_embeddings", "features_s0", "features_s1")
    names = (*names, *(f"mirrored_{name}" for name in names))
    tensors = (*seen.embedded.embeddings.tensors, *seen.mirrored.embeddings.tensors)
    features = [tensor.contiguous().numpy() for tensor in tensors]
    monkeypatch.chdir("export")
    boxes, company = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    known: dict[str, Any] = {"features": dict(zip(names, features, strict=True))}
    exec(compile(boxes, "finder.md", "exec"), known)
    finder = load_finder(folder / "RUN")
    ours = (propose(look(finder.head, seen), 0, finder.most).boxes * 4).numpy()
    proposed = known["proposed"]
    assert len(ours) and len(proposed) >= len(ours)
    assert np.allclose(proposed[0], ours[0], atol=0.1)
    assert all(np.abs(proposed - box).max(1).min() < 0.1 for box in ours)

    voices = Voices(1.0, 0.0, 10.0, (0.7, 0.3))
    logits, trust = torch.randn(20, 2), torch.rand(20)
    about = {"company": voices.company, "usual": list(voices.usual)}
    known |= {"names": logits.numpy(), "trust": trust.numpy(), "about": about}
    exec(compile(company, "finder.md", "exec"), known)
    assert np.allclose(known["chances"], likelihoods(logits, torch.zeros(20, 2), trust, voices), atol=1e-5)
