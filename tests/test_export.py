"""Exports: loaded again by the tools they are for, the same masks, a card that says where they come from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import Sam2Model

from samtune.config import TrainableConfig
from samtune.errors import ConfigError, ModelError, SamtuneError, StorageError
from samtune.exports.export import Format, export
from samtune.exports.verify import ExportDifference, answers, check, difference
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import save_model
from samtune.model.trainable import Trainable, merged, save_adapter, select_trainable
from tests.system import full_disk
from tests.tiny_official import tiny_official


def tuned(folder: Path, train: str, *, steps: int = 2) -> tuple[Path, LoadedModel, Trainable]:
    """A base folder, and a run on it as training leaves one behind."""
    save_model(tiny_official(seed=3), folder / "base")
    base = load_model(folder / "base")
    trainable = select_trainable(base.model, TrainableConfig(train=train))
    for _ in range(steps):
        output = _answers_with_gradients(trainable.model)
        output.square().mean().backward()
        with torch.no_grad():
            for parameter in trainable.parameters.values():
                if parameter.grad is not None:
                    parameter -= 0.02 * parameter.grad.sign()
                    parameter.grad = None
    run = folder / "run"
    loaded = replace(base, model=merged(trainable))
    save_model(loaded, run / "checkpoints" / "best")
    if trainable.adapter is not None:
        save_adapter(trainable, run / "checkpoints" / "adapter", base.name)
    about = {
        "base": {"name": base.name, "source": base.source, "family": base.family},
        "trainable": {"what": train, "parameters": trainable.trainable, "frozen": trainable.frozen},
    }
    (run / "run.json").write_text(json.dumps(about))
    (run / "config.yaml").write_text(yaml.safe_dump({"dataset": "/home/someone/secret/my|cells", "steps": 40}))
    (run / "results.csv").write_text("step,valid/box,best\n0,0.61000,1\n20,0.72000,1\n40,0.70000,0\n")
    return run, loaded, trainable


def _answers_with_gradients(model: Sam2Model) -> torch.Tensor:
    from samtune.model.decoder.reference import decode
    from samtune.model.encoder.embeddings import encode
    from samtune.prompts.batch import PromptBatch

    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    prompts = PromptBatch.from_boxes(torch.tensor([[10.0, 12.0, 80.0, 100.0]]))
    return decode(model, encode(model, pixels), prompts).masks


@pytest.fixture(scope="module")
def decoder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tuned"), "decoder")[0]


def test_the_official_export_loads_again_with_the_runs_masks(decoder_run: Path, tmp_path: Path) -> None:
    report = export(decoder_run, tmp_path / "out", "official")
    assert report.difference.logits < 1e-6
    assert report.difference.masks == 32
    content = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert {"sam_mask_decoder.iou_token.weight", "image_encoder.trunk.pos_embed"} <= content["model"].keys()
    config = yaml.safe_load((tmp_path / "out" / "model.yaml").read_text())["model"]
    assert config["image_size"] == 128
    assert config["image_encoder"]["trunk"]["stages"] == [1, 1, 2, 1]
    again = load_model(tmp_path / "out" / "model.pt")
    assert difference(answers(again.model), answers(load_model(decoder_run).model)).logits < 1e-6
    assert any("build_sam2('model.yaml', 'model.pt')" in line for line in report.lines())


def test_the_official_export_can_be_one_file(decoder_run: Path, tmp_path: Path) -> None:
    report = export(decoder_run, tmp_path / "mine.pt", "official")
    assert report.path == tmp_path / "mine.pt"
    assert {file.name for file in tmp_path.iterdir()} == {"mine.pt", "mine.yaml"}


def test_the_hugging_face_export_loads_in_transformers(decoder_run: Path, tmp_path: Path) -> None:
    report = export(decoder_run, tmp_path / "out", "hf")
    assert report.difference.logits < 1e-6
    model, info = Sam2Model.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    found = difference(answers(model.eval()), answers(load_model(decoder_run).model))
    assert found.logits < 1e-6
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 128, "width": 128}


def judged(folder: Path, weights: str) -> Path:
    """What of a comparison's folder an export reads."""
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps({"split": "test", "verdict": "tuned is better by 0.1."}))
    (folder / "tuned.json").write_text(json.dumps({"weights": weights}))
    return folder


def test_a_verdict_on_other_weights_is_not_passed_on(decoder_run: Path, tmp_path: Path) -> None:
    other = judged(tmp_path / "judged", "0" * 64)
    with pytest.raises(ModelError, match="one of other weights"):
        export(decoder_run, tmp_path / "out", "hf", comparison=other)
    assert not (tmp_path / "out").exists()
    run = tmp_path / "run"
    shutil.copytree(decoder_run, run)
    for weights, passed_on in (("0" * 64, False), (load_model(run).fingerprint(), True)):
        shutil.rmtree(run / "comparison", ignore_errors=True)
        judged(run / "comparison", weights)
        export(run, tmp_path / f"out-{passed_on}", "hf")
        assert ("tuned is better" in (tmp_path / f"out-{passed_on}" / "README.md").read_text()) == passed_on


def test_the_card_states_base_data_and_measurements_and_no_local_path(decoder_run: Path, tmp_path: Path) -> None:
    comparison = judged(tmp_path / "judged", load_model(decoder_run).fingerprint())
    export(decoder_run, tmp_path / "out", "hf", comparison=comparison)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "dataset `my/cells`" in text
    assert "| valid/box | 0.61000 | 0.72000 |" in text
    assert "test split: tuned is better by 0.1." in text
    assert "decoder, " in text
    with pytest.raises(ModelError, match="samtune compare"):
        export(decoder_run, tmp_path / "again", "hf", comparison=tmp_path)
    assert not (tmp_path / "again").exists()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0"
    for part in ("/home/someone", str(decoder_run.parent)):
        assert part not in text
        assert part not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft, on transformers
def test_the_adapter_export_on_its_base_is_the_run(tmp_path: Path) -> None:
    run, loaded, _ = tuned(tmp_path, "lora")
    assert difference(answers(loaded.model), answers(load_model(tmp_path / "base").model)).logits > 1e-2
    report = export(run, tmp_path / "out", "adapter")
    assert report.difference.logits < 1e-5
    adapted = PeftModel.from_pretrained(load_model(tmp_path / "base").model, str(tmp_path / "out"))
    assert difference(answers(adapted.get_base_model()), answers(loaded.model)).logits < 1e-5
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


@pytest.mark.parametrize("train", ["decoder", "decoder+lora"])
def test_an_adapter_that_would_not_be_the_run_is_refused(tmp_path: Path, train: str) -> None:
    run, _, _ = tuned(tmp_path, train, steps=0)
    with pytest.raises(ModelError, match="--format hf"):
        export(run, tmp_path / "out", "adapter")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft, on transformers
def test_an_export_that_answers_differently_is_not_kept(tmp_path: Path) -> None:
    run, loaded, _ = tuned(tmp_path, "lora")
    with torch.no_grad():
        loaded.model.mask_decoder.mask_tokens.weight.add_(0.5)
    save_model(loaded, run / "checkpoints" / "best")
    with pytest.raises(SamtuneError, match="nothing was kept"):
        export(run, tmp_path / "out", "adapter")
    assert {entry.name for entry in tmp_path.iterdir()} == {"base", "run"}


def test_a_difference_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(SamtuneError):
        check(ExportDifference(masks=1, logits=float("nan"), scores=0.0, pixels=0.0), "here")


def test_an_export_never_replaces_anything(decoder_run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    (tmp_path / "mine.yaml").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "mine.yaml", tmp_path / "mine.pt"):
        with pytest.raises(ConfigError, match="new or empty"):
            export(decoder_run, out, "official")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "mine.pt").exists()


@pytest.mark.parametrize(("format", "out"), [("official", "out.pt"), ("official", "out"), ("hf", "out")])
def test_an_export_without_space_is_said_and_leaves_nothing(
    decoder_run: Path, tmp_path: Path, format: Format, out: str
) -> None:
    with full_disk(100_000), pytest.raises(StorageError) as caught:
        export(decoder_run, tmp_path / out, format)
    assert caught.value.exit_code == 2
    assert f"in       {tmp_path / out}\n" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
