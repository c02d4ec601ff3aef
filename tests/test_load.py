"""Every way a model comes in, and every file that must not: refused by name, nothing executed, exit code 2."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from samtune.errors import ModelError, StorageError
from samtune.model.architecture import MATRIX, MATRIX_COPY
from samtune.model.catalogue import ALIASES, BACKBONES, COSTS, NANO_FOLDER, catalogue
from samtune.model.cost import cost
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.official_layout import CONFIG_KEY, to_official
from samtune.model.io.save import save_model
from tests.hub import Hub, running
from tests.system import full_disk, without_rights
from tests.tiny_official import TINY_OFFICIAL, tiny_official


def refused(name: str | Path) -> str:
    """The message `load_model` refuses something with; it must be meant for users."""
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("expected ")
    assert lines[1].startswith("found ")
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in Hugging Face layout."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_official(0), path, family="tiny", base="nothing")
    return path


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the official layout."""
    loaded = load_model(folder)
    path = tmp_path_factory.mktemp("official") / "model.pt"
    torch.save({"model": to_official(loaded.config, loaded.model.state_dict()), CONFIG_KEY: TINY_OFFICIAL}, path)
    return path


# What must load.


def test_a_folder_gives_a_frozen_model_in_eval_mode(folder: Path) -> None:
    loaded = load_model(folder)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())
    assert (loaded.image_size, loaded.mask_size) == (128, 32)
    assert (loaded.family, loaded.base, loaded.video_state) == ("tiny", "nothing", {})
    original = tiny_official(0).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in loaded.model.state_dict().items())


def test_every_way_in_gives_the_same_model(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    state = content["model"]
    ways = {
        "raw.pt": dict(state),
        "module.pt": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        "trainer.pt": {
            "model": state,
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
            "epoch": 3,
            "loss": {"all": {}},
            "steps": {"train": 7},
            "time_elapsed": 1.5,
            "best_meter_values": {},
        },
        "double.pt": {"model": {name: tensor.double() for name, tensor in state.items()}},
    }
    fingerprint = load_model(folder).fingerprint()
    assert load_model(checkpoint).fingerprint() == fingerprint
    for name, saved in ways.items():
        torch.save(saved | {CONFIG_KEY: TINY_OFFICIAL}, tmp_path / name)
        assert load_model(tmp_path / name).fingerprint() == fingerprint, name
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_model(tmp_path / "old.pt").fingerprint() == fingerprint


def test_a_run_stands_for_its_best_weights(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "last").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "checkpoints" / "last" / "state.safetensors").write_bytes(b"")
    assert "has not saved any yet" in refused(run)
    shutil.copytree(folder, run / "checkpoints" / "best")
    assert load_model(run).source == str(run / "checkpoints" / "best")
    assert load_model(run / "checkpoints" / "best").fingerprint() == load_model(run).fingerprint()
    assert "only resumes the run" in refused(run / "checkpoints" / "last")


def test_a_run_is_found_again_after_a_death_between_two_moves(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    shutil.copytree(folder, run / "checkpoints" / ".best.old")
    assert load_model(run).fingerprint() == load_model(folder).fingerprint()


def test_one_of_the_two_position_matrices_is_enough(folder: Path, tmp_path: Path) -> None:
    """Files saved by older transformers hold only one of them."""
    for left_out in (MATRIX, MATRIX_COPY):
        shutil.copytree(folder, tmp_path / left_out)
        tensors = load_file(folder / "model.safetensors")
        del tensors[left_out]
        save_file(tensors, tmp_path / left_out / "model.safetensors")
        assert load_model(tmp_path / left_out).fingerprint() == load_model(folder).fingerprint()


def test_weights_in_several_files_are_one_model(folder: Path, tmp_path: Path) -> None:
    Sam2Model.from_pretrained(folder).save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    assert load_model(tmp_path / "sharded").fingerprint() == load_model(folder).fingerprint()
    next((tmp_path / "sharded").glob("model-00002*")).unlink()
    assert "missing" in refused(tmp_path / "sharded")


def test_dtype_and_name_are_as_asked(folder: Path) -> None:
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.bfloat16}
    assert loaded.name == str(folder)
    assert loaded.fingerprint() != load_model(folder).fingerprint()


def test_a_saved_model_may_be_read_by_whoever_may_read_its_folder(folder: Path) -> None:
    modes = {file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert len(modes) == 1
    assert modes != {0o600}


def test_the_fingerprint_changes_with_one_bit(folder: Path) -> None:
    loaded = load_model(folder)
    before = loaded.fingerprint()
    weight = loaded.model.mask_decoder.conv_s0.weight
    weight.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert loaded.fingerprint() != before


def tiny_video() -> Sam2VideoModel:
    parts = {name: TINY_OFFICIAL[name] for name in TINY_OFFICIAL if name != "model_type"}
    config = Sam2VideoConfig(
        **parts,
        image_size=128,
        memory_attention_hidden_size=16,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=16,
        memory_encoder_output_channels=8,
        mask_downsampler_embed_dim=16,
        memory_fuser_embed_dim=16,
        memory_fuser_intermediate_dim=16,
    )
    torch.manual_seed(0)
    return Sam2VideoModel(config)


def test_video_weights_travel_untouched(tmp_path: Path) -> None:
    original = tiny_video()
    original.save_pretrained(tmp_path / "video")
    loaded = load_model(tmp_path / "video", dtype=torch.bfloat16)
    whole = original.state_dict()
    assert loaded.video_state
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded.video_state.items())
    assert loaded.video_state.keys() | loaded.model.state_dict().keys() == whole.keys()
    save_model(loaded, tmp_path / "again")
    _, info = Sam2VideoModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())
    again = load_model(tmp_path / "again")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.video_state.items())


def test_a_video_model_with_half_its_memory_is_refused(tmp_path: Path) -> None:
    tiny_video().save_pretrained(tmp_path / "video")
    tensors = load_file(tmp_path / "video" / "model.safetensors")
    del tensors["memory_encoder.projection.weight"]
    save_file(tensors, tmp_path / "video" / "model.safetensors")
    assert "1 missing (memory_encoder.projection.weight)" in refused(tmp_path / "video")


# What must not.


class Attack:
    """Unpickled without care, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_pickle_with_code_in_it_is_named_and_not_run(tmp_path: Path, suffix: str) -> None:
    harm = tmp_path / "harm"
    path = tmp_path / f"model{suffix}"
    torch.save({"model": {"no_mem_embed": torch.zeros(1)}, "extra": Attack(harm)}, path)
    assert "system" in refused(path)
    path.write_bytes(pickle.dumps(Attack(harm), protocol=2))
    assert "system" in refused(path)
    path.write_bytes(pickle.dumps(Attack(harm)))
    refused(path)
    assert not harm.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(checkpoint: Path, folder: Path, tmp_path: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: int(share * len(content))])
    assert str(tmp_path / "cut.pt") in refused(tmp_path / "cut.pt")
    shutil.copytree(folder, tmp_path / "cut")
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(content[: int(share * len(content))])
    assert "model.safetensors" in refused(tmp_path / "cut")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["image_encoder.blocks.0.attn.rel_pos_h", "mask_decoder.iou_token.weight"], "SAM 1"),
        (["image_encoder.layers.0.c.weight", "mask_decoder.iou_token.weight"], "MobileSAM"),
        (["image_encoder.blocks.0.norm1.weight", "mask_decoder.hf_token.weight"], "HQ-SAM"),
        (["image_encoder.trunk.body.stem.weight", "sam_mask_decoder.iou_token.weight"], "EdgeTAM"),
        (["detector.backbone.weight", "tracker.weight"], "SAM 3"),
        (["vision_encoder.neck.convs.0.weight"], "without their config.json"),
        (["layer1.0.conv.weight", "fc.bias"], "2 tensors of another kind (fc.bias, layer1.0.conv.weight, ...)"),
    ],
)
def test_another_models_checkpoint_is_named(tmp_path: Path, names: list[str], said: str) -> None:
    torch.save({"model": {name: torch.zeros(2) for name in names}}, tmp_path / "model.pt")
    assert said in refused(tmp_path / "model.pt")


def test_a_size_nobody_knows_is_described(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"model": torch.load(checkpoint, weights_only=True)["model"]}, tmp_path / "model.pt")
    message = refused(tmp_path / "model.pt")
    assert "stages of [1, 1, 2, 1] blocks" in message
    assert "tiny, small, base-plus, large" in message


def test_weights_of_another_size_than_their_config_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["backbone_config"]["blocks_per_stage"] = [1, 1, 3, 1]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    message = refused(tmp_path / "model")
    assert "missing (vision_encoder.backbone.blocks.5." in message
    assert "of another shape" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_floats_are_refused(checkpoint: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["no_mem_embed"] = content["model"]["no_mem_embed"].to(dtype)
    torch.save(content, tmp_path / "model.pt")
    assert f"1 of another type (no_mem_embed {str(dtype).removeprefix('torch.')})" in refused(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path, value: float) -> None:
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["no_memory_embedding"][0, 0, 3] = value
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    assert "1 with NaN or infinity (no_memory_embedding)" in refused(tmp_path / "model")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "a folder with model.safetensors"),
        ("{", "Expecting"),
        ("[]", "found    list"),
        ("{}", "model_type None"),
        ('{"model_type": "sam"}', "model_type 'sam'"),
        ('{"model_type": "sam2", "prompt_encoder_config": {"hidden_size": "wide"}}', "hidden_size"),
        ('{"model_type": "sam2", "prompt_encoder_config": {"image_size": 100}}', "image_size 100"),
        ('{"model_type": "sam2", "vision_config": {"backbone_config": {"model_type": "resnet"}}}', "found    "),
        ('{"model_type": "sam2", "vision_config": 7}', "found    "),
    ],
)
def test_a_folder_without_a_sound_config_is_refused(
    folder: Path, tmp_path: Path, config: str | None, said: str
) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(folder / "model.safetensors", tmp_path / "model")
    if config is not None:
        (tmp_path / "model" / "config.json").write_text(config)
    assert said in refused(tmp_path / "model")


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "model")
    assert "a folder with model.safetensors" in refused(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    assert "a folder with nothing" in refused(tmp_path / "empty")


def test_what_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate(({"model": {}}, {"epoch": 3}, [1, 2], {"model": "weights"})):
        torch.save(content, tmp_path / f"{number}.pt")
        assert "tensors under 'model'" in refused(tmp_path / f"{number}.pt")
    for text, said in {
        "not a checkpoint": "a file of another kind",
        "": "an empty file",
        "<!DOCTYPE html><html>": "a web page",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9": "a Git LFS pointer",
    }.items():
        for name in ("text.pt", "text.safetensors"):
            (tmp_path / name).write_text(text)
            assert said in refused(tmp_path / name) or (text and name == "text.safetensors")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "archive.pt")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    assert "loop.pt" in refused(tmp_path / "loop.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "neither a file nor a folder" in refused(tmp_path / "pipe.pt")
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nowhere.pt")
    assert "dangling.pt" in refused(tmp_path / "dangling.pt")


@pytest.mark.parametrize("locked", ["model.pt", "model.safetensors", "hf", "hf/config.json", "hf/model.safetensors"])
def test_what_may_not_be_read_is_refused_by_name(checkpoint: Path, folder: Path, locked: str) -> None:
    with TemporaryDirectory() as name:  # pytest's own folders are closed to everybody else
        root = Path(name)
        root.chmod(0o755)
        shutil.copy(checkpoint, root / "model.pt")
        shutil.copy(folder / "model.safetensors", root / "model.safetensors")
        shutil.copytree(folder, root / "hf")
        (root / locked).chmod(0)
        with without_rights():
            message = refused(root / locked.split("/")[0])
        assert "Permission denied" in message
        assert str(root / locked) in message
        (root / locked).chmod(0o755)


def test_names_that_are_almost_right_are_understood(tmp_path: Path) -> None:
    assert "did you mean 'sam2.1-tiny'?" in refused("sam2.1-tny")
    assert "did you mean 'nano'?" in refused("nanno")
    (tmp_path / "mymodel").mkdir()
    assert "did you mean" in refused(tmp_path / "mymodl")
    assert "`samtune models`" in refused("something else")


WAYS = ("--model nano", "a folder", ".pt", "HF_HUB_OFFLINE=1", "HF_TOKEN")
"""What helps where the hub does not."""


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and an empty cache."""
    with running(Hub(folder, "facebook/sam2.1-hiera-tiny")) as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        files = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 2)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield found


@pytest.mark.parametrize("name", ["sam2.1-tiny", "SAM2.1-hiera-tiny", "facebook/sam2.1-hiera-tiny"])
def test_a_model_comes_from_the_hub_once_and_then_from_its_cache(
    hub: Hub, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(name)
    assert loaded.source == "hub:facebook/sam2.1-hiera-tiny"
    assert loaded.fingerprint() == load_model(folder).fingerprint()
    assert any(path.endswith("model.safetensors") for path in hub.asked)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model(name).fingerprint() == loaded.fingerprint()
    assert hub.asked == []


def test_a_private_model_wants_the_token_of_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.name, hub.token = "someone/private", "sesame"
    message = refused("someone/private")
    assert "(401)" in message
    assert "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "sesame")
    assert load_model("someone/private").source == "hub:someone/private"


def test_a_model_the_hub_does_not_have_is_said(hub: Hub) -> None:
    message = refused("someone/other")
    assert "no such file or folder, and a hub that has no such model" in message
    assert "(404)" in message


def test_a_download_that_breaks_off_is_said_and_leaves_nothing_that_would_load(hub: Hub) -> None:
    hub.cut = True
    assert "cannot be reached" in refused("sam2.1-tiny")
    hub.cut = False
    assert load_model("sam2.1-tiny").family == "tiny"


@pytest.mark.parametrize("name", ["sam2.1-tiny", "facebook/sam2.1-hiera-large", "someone/their-model"])
def test_a_hub_that_must_not_be_asked_is_said_with_the_ways_around_it(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused(name)
    assert "HF_HUB_OFFLINE forbids to ask" in message
    assert all(way in message for way in WAYS)
    assert hub.asked == []


def test_a_hub_that_does_not_answer_is_said_with_the_ways_around_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    message = refused("sam2.1-tiny")
    assert "cannot be reached" in message
    assert all(way in message for way in WAYS)


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(hub: Hub) -> None:
    assert "no file, folder or known name" in refused("models/mine.pt")
    assert hub.asked == []


def test_a_full_disk_is_said_and_leaves_what_was_there(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    loaded = load_model(folder)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with full_disk(100_000), pytest.raises(StorageError) as caught:
        save_model(loaded, target)
    assert str(target) in str(caught.value)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


# What is known by name.


def test_every_known_name_leads_to_one_repository() -> None:
    assert ALIASES["sam2.1-tiny"] == ALIASES["sam2.1-hiera-tiny"] == "facebook/sam2.1-hiera-tiny"
    assert ALIASES["facebook/sam2-hiera-base-plus"] == "facebook/sam2-hiera-base-plus"
    assert len(set(ALIASES.values())) == 8
    official = [row for row in catalogue() if row.source.startswith("facebook/")]
    assert {ALIASES[row.name] for row in official} == set(ALIASES.values())


@pytest.mark.parametrize("size", ["tiny", pytest.param("large", marks=pytest.mark.slow)])
def test_the_catalogues_figures_are_those_counted_again(size: str) -> None:
    counted = cost({"model_type": "sam2", "vision_config": BACKBONES[size].vision_config()})
    assert COSTS[size].parameters == counted.parameters
    assert COSTS[size].encoder_gflops == pytest.approx(counted.encoder_gflops, rel=1e-3)
    assert COSTS[size].decoder_gflops == pytest.approx(counted.decoder_gflops, rel=1e-3)


@pytest.mark.skipif(not (NANO_FOLDER / "config.json").exists(), reason="this source tree does not hold nano")
def test_nano_comes_with_the_package() -> None:
    loaded: LoadedModel = load_model("nano")
    row = next(row for row in catalogue() if row.name == "nano")
    assert (loaded.family, loaded.base, loaded.image_size) == ("nano", "nano", row.image_size)
    assert row.cost.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    assert (NANO_FOLDER / "model.safetensors").stat().st_size <= 12e6


def test_a_loaded_model_is_taken_where_a_name_is(folder: Path) -> None:
    loaded = load_model(folder)
    assert load_model(loaded) is loaded
    half = load_model(loaded, dtype=torch.float16)
    assert half.model.dtype == torch.float16
    assert loaded.model.dtype == torch.float32
