"""What learns, chosen by held-out objects: a real run whose decoder gains nothing goes on to the image encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

import samtune
from samtune.config import OptimizerConfig, TrainableConfig, TrainConfig
from samtune.errors import ConfigError
from samtune.evaluation.paired import PairedDifference
from samtune.model.io.load import load_model
from samtune.training.choice import CANDIDATES, SMALL_CANDIDATES, Trial, advice, swap, winner
from tests.small import make_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice")
    make_dataset(folder / "set", train=3, valid=2, test=0)
    make_dataset(folder / "unjudged", train=3, valid=0, test=2)
    return folder


def settings(tiny_folder, out, **more) -> TrainConfig:
    what = TrainableConfig(train="auto", lora_rank=2, **more)
    optimizer = OptimizerConfig(lr=1e-12, encoder_lr=1e-12)
    return TrainConfig(
        model=str(tiny_folder), out=out, steps=2, eval_every=2, device="auto", trainable=what, optimizer=optimizer
    )


def test_where_the_decoder_gains_nothing_the_encoder_is_tried(place, tiny_folder):
    """At a learning rate of nothing no run is better than another, so the decoder's is kept, and all is said."""
    out = place / "run"
    found = samtune.train(place / "set", settings(tiny_folder, out), quiet=True)
    assert found.folder == out
    load_model(out)
    for train in (*SMALL_CANDIDATES, *CANDIDATES):
        load_model(place / f"run-{train.removeprefix('decoder+')}")
    said = "\n".join(found.lines())
    assert all(train in said for train in (*SMALL_CANDIDATES, *CANDIDATES))
    assert "kept: decoder, since nothing was surely better" in said


def test_folders_beside_a_run_that_are_taken_are_named_before_it_is_trained(place, tiny_folder, tmp_path):
    (tmp_path / "run-lora").mkdir()
    (tmp_path / "run-lora" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="run-lora"):
        samtune.train(place / "set", settings(tiny_folder, tmp_path / "run"), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run-lora"]


def test_nothing_can_be_chosen_without_held_out_objects(place, tiny_folder):
    with pytest.raises(ConfigError, match="validation split"):
        samtune.train(place / "unjudged", settings(tiny_folder, place / "never"), quiet=True)
    assert not (place / "never").exists()


def test_a_run_of_a_small_models_decoder_says_that_there_is_more_to_gain(place, tiny_folder):
    """Without a validation split too, where the last weights are kept and nothing can be compared."""
    config = settings(tiny_folder, place / "small").model_copy(update={"trainable": TrainableConfig(), "steps": 1})
    found = samtune.train(place / "unjudged", config, quiet=True)
    assert "--train all" in found.lines()[-1]


def trial(train: str, changes: list[float]) -> Trial:
    before = [0.5] * len(changes)
    after = [0.5 + change for change in changes]
    groups = [str(row) for row in range(len(changes))]
    return Trial(train, Path(train), PairedDifference.of(before, after, groups))


def test_only_what_is_surely_better_wins():
    doubtful = trial("decoder+lora", [0.3, -0.3, 0.4, -0.3, 0.3, -0.2])
    sure = trial("decoder+encoder-last-2", [0.05, 0.06, 0.05, 0.04, 0.06, 0.05])
    best = trial("decoder+lora", [0.15, 0.16, 0.15, 0.14, 0.16, 0.15])
    assert winner([doubtful]) is None
    assert winner([doubtful, sure]) is sure
    assert winner([sure, best]) is best
    assert "kept: decoder+encoder-last-2" in advice(sure, [doubtful, sure])[-1]
    assert "--trainable.try-encoder" in advice(sure, [])[-1]


def test_trying_the_encoder_goes_with_auto_alone():
    with pytest.raises(ValueError, match="goes with --train auto"):
        TrainConfig(trainable=TrainableConfig(train="lora", try_encoder=True))


def test_the_better_run_gets_the_name_and_the_other_stays(tmp_path):
    for name in ("run", "run-lora"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    swap(tmp_path / "run", tmp_path / "run-lora")
    assert (tmp_path / "run/which").read_text() == "run-lora"
    assert (tmp_path / "run-decoder/which").read_text() == "run"
