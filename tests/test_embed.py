"""Embeddings ahead of training: what one process stores another finds, and training from them changes no weight."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from samtune.config import CacheConfig, EmbedConfig, OptimizerConfig, TrainableConfig, TrainConfig
from samtune.data.views import AS_IS, MIRRORED
from samtune.embeddings.dataset import DatasetEmbeddings, View, embed_dataset
from samtune.embeddings.prefetch import Prefetcher
from samtune.embeddings.store import cache_info
from samtune.errors import DataError
from samtune.model.io.load import load_model
from samtune.training.loop import train
from samtune.training.run import new
from tests.small import make_dataset


@pytest.fixture(scope="module")
def model(tiny_folder):
    return str(tiny_folder)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "set")


def embed(dataset, model, **settings):
    told: list[tuple[int, int]] = []
    config = EmbedConfig(model=model, device="cpu", **settings)
    report = embed_dataset(dataset.root, config, progress=lambda *at: told.append(at))
    assert told[-1] == (report.encoded, report.encoded)
    return report


@pytest.mark.parametrize("processes", [1, 2])
def test_training_finds_what_was_embedded(dataset, model, tmp_path, processes):
    report = embed(dataset, model, processes=processes, flip=True)
    images = len(dataset.images)
    mirrored = len(dataset.split("train").images)
    assert (report.wanted, report.encoded) == (images + mirrored, images + mirrored)
    assert cache_info(report.folder).sets[0].entries == images + mirrored

    run = new(dataset.root, TrainConfig(model=model, out=tmp_path / "run", steps=4, device="cpu", flip=True))
    train(run)
    assert run.embeddings.cache is not None
    assert run.embeddings.cache.counts.encoded == 0
    assert run.embeddings.cache.counts.found > 0


def test_only_what_is_missing_is_computed(dataset, model):
    valid = len(dataset.split("valid").images)
    first = embed(dataset, model, split="valid")
    assert (first.wanted, first.encoded) == (valid, valid)
    assert f"embedded   {valid} images" in first.lines()[0]
    rest = embed(dataset, model)
    assert rest.encoded == len(dataset.images) - valid
    assert embed(dataset, model).encoded == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_images_made_with_those_before_them_are_the_same(dataset, model, tmp_path, batch):
    """Read ahead in a thread, and several at once through the encoder, as on a GPU."""
    views = [View(image, change) for image in dataset.images for change in (AS_IS, MIRRORED)]
    loaded = load_model(model)
    loaded.model.requires_grad_(False)
    found = []
    for name, size in (("one by one", 1), ("ahead", batch)):
        config = CacheConfig(cache_dir=tmp_path / name, cache_dtype="fp32")
        source = replace(DatasetEmbeddings.open(dataset, loaded, config, torch.device("cpu"), "no"), batch=size)
        then = (lambda at: views[at + 1 :]) if name == "ahead" else (lambda at: ())
        found.append([source([view], then(at)) for at, view in enumerate(views)])
        assert source.cache is not None
        assert source.cache.counts.encoded == len(views)
    for ours, theirs in zip(*found, strict=True):
        for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
            torch.testing.assert_close(mine, other, atol=0 if batch == 1 else 1e-5, rtol=0)


def test_what_reading_ahead_raises_is_raised_where_it_is_asked_for():
    def read(key):
        if key == "broken":
            raise DataError("no such image")
        return torch.full((1,), len(key))

    pixels = Prefetcher(read, threads=1, most=2)
    pixels.prefetch(["broken", "a", "bb"])
    pixels.prefetch(["broken", "bb"])  # nobody wants "a" any more, so there is room
    assert [int(pixels(key)) for key in ("bb", "a", "ccc")] == [2, 1, 3]
    with pytest.raises(DataError, match="no such image"):
        pixels("broken")


def test_processes_of_a_launcher_share_the_images(dataset, model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    counts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        counts.append(embed(dataset, model).encoded)
    assert sum(counts) == len(dataset.images)
    assert max(counts) - min(counts) <= 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert embed(dataset, model).encoded == 0


def test_an_image_that_cannot_be_read_is_named_and_the_others_stay(dataset, model):
    broken = dataset.root / dataset.split("test").images[-1].image_path
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    with pytest.raises(DataError, match=broken.name):
        embed(dataset, model, processes=1)
    broken.write_bytes(whole)
    assert embed(dataset, model).encoded < len(dataset.images)


def test_cached_and_uncached_training_give_the_same_weights(dataset, model, tmp_path):
    """200 steps in fp32: the same prompts, the encoder run once per image or once per step."""
    weights = []
    for name in ("cached", "uncached"):
        config = TrainConfig(
            model=model,
            out=tmp_path / name,
            steps=200,
            eval_every=200,
            images_per_step=2,
            device="cpu",
            precision="fp32",
            cache_dtype="fp32",
            optimizer=OptimizerConfig(lr=1e-3, clip=1.0),
        )
        run = new(dataset.root, config)
        if name == "uncached":
            run = replace(run, embeddings=replace(run.embeddings, cache=None))
        train(run)
        weights.append({key: parameter.detach().clone() for key, parameter in run.parameters.items()})
    for key, cached in weights[0].items():
        torch.testing.assert_close(cached, weights[1][key], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stored", "most"), [("bf16", 5e-3), ("int8", 2e-2)])
def test_what_rounding_costs_is_bounded(dataset, model, tmp_path, stored, most):
    """Relative to the embedding's own size; what it costs in IoU is measured in docs/results.md."""
    exact = new(dataset.root, TrainConfig(model=model, out=tmp_path / "exact", steps=1, device="cpu", cache=False))
    rounded = new(
        dataset.root, TrainConfig(model=model, out=tmp_path / stored, steps=1, device="cpu", cache_dtype=stored)
    )
    view = View(dataset.images[0])
    for found, expected in zip(rounded.embed([view]).tensors, exact.embed([view]).tensors, strict=True):
        assert 0 < (found - expected).norm() / expected.norm() < most


@pytest.mark.parametrize(
    ("train", "cache", "expected"),
    [
        ("decoder", True, "conv_s0 and conv_s1 of the decoder stay frozen, cached embeddings contain them"),
        ("decoder+encoder-last-1", True, "the embedding cache is off: what it would keep is learning"),
        ("decoder", False, None),
    ],
)
def test_a_run_says_what_the_cache_means_for_it(dataset, model, tmp_path, train, cache, expected):
    settings = TrainConfig(
        model=model, out=tmp_path / "run", device="cpu", cache=cache, trainable=TrainableConfig(train=train)
    )
    run = new(dataset.root, settings)
    assert (run.embeddings.cache is None) == (expected is None or "off" in expected)
    learning = {name for name in run.parameters if "conv_s" in name}
    assert bool(learning) == (expected is None or "off" in expected)
    notes = json.loads(run.folder.about.read_text())["notes"]
    assert notes == list(run.notes)
    told = "; ".join(notes)
    assert expected in told if expected else "cache" not in told
