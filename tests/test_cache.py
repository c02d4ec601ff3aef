"""The embedding cache: exact where it says so, never stale, never damaged, safe in company, bounded."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from samtune.config import CacheConfig
from samtune.embeddings.cache import CachedView, EmbeddingCache
from samtune.embeddings.store import cache_info, clear_cache
from samtune.errors import DataError
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from tests.cache_worker import fill, pixels_of


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"image{i}.bin" for i in range(6)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i, 1, 2, 0]))
    return [CachedView(path) for path in paths]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def ask(cache, views, model, **options):
    return cache.get_or_encode(views, pixels_of, lambda pixels: encode(model, pixels), **options)


def direct(views, model):
    with torch.no_grad():
        return encode(model, torch.stack([pixels_of(view) for view in views]))


def assert_same(found: ImageEmbeddings, expected: ImageEmbeddings):
    for a, b in zip(found.tensors, expected.tensors, strict=True):
        assert torch.equal(a, b)


def assert_near(found: ImageEmbeddings, expected: ImageEmbeddings, share: float):
    """Within a share of each tensor's largest value."""
    for a, b in zip(found.tensors, expected.tensors, strict=True):
        assert (a - b).abs().max() <= share * b.abs().max()


def entry_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def long_ago(paths):
    """Make files look settled, so that the cache may remember having checked them."""
    for path in paths:
        os.utime(path, (1.0e9, 1.0e9))


def test_fp32_is_exact_cold_and_warm_and_in_another_process_s_eyes(folder, images, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="fp32")
    expected = ImageEmbeddings.cat([direct([view], tiny_model) for view in images])
    assert_same(ask(cache, images, tiny_model), expected)
    assert_same(ask(cache, images, tiny_model), expected)
    another = EmbeddingCache(folder, tiny_model, stored="fp32")
    assert_same(ask(another, images, tiny_model), expected)
    assert (cache.counts.encoded, cache.counts.found) == (6, 6)
    assert (another.counts.encoded, another.counts.found) == (0, 6)
    assert another.missing(images) == []


@pytest.mark.parametrize(("stored", "share"), [("bf16", 1 / 256), ("int8", 1 / 250)])
def test_smaller_types_are_near_and_the_same_cold_and_warm(folder, images, tiny_model, stored, share):
    cache = EmbeddingCache(folder, tiny_model, stored=stored)
    cold = ask(cache, images[:2], tiny_model)
    warm = ask(cache, images[:2], tiny_model)
    assert_same(warm, cold)
    assert warm.dtype == torch.float32
    assert_near(cold, direct(images[:2], tiny_model), share)
    assert ask(cache, images[:1], tiny_model, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_what_is_stored_as_it_is_wanted_is_mapped_not_copied(folder, images, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="bf16")
    ask(cache, images[:1], tiny_model)
    found = ask(cache, images[:1], tiny_model, dtype=torch.bfloat16)
    maps = Path("/proc/self/maps").read_text().splitlines()
    places = [line.split()[0].split("-") for line in maps if line.endswith(str(entry_files(folder)[0]))]
    for tensor in found.tensors:
        assert any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in places)
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_entries_take_the_space_that_is_promised(folder, images, tiny_model):
    sizes = {}
    for stored in ("fp32", "bf16", "int8"):
        ask(EmbeddingCache(folder / stored, tiny_model, stored=stored), images[:1], tiny_model)
        sizes[stored] = entry_files(folder / stored)[0].stat().st_size
    values = sum(tensor.numel() for tensor in direct(images[:1], tiny_model).tensors)
    for stored, each in (("fp32", 4), ("bf16", 2), ("int8", 1)):
        assert values * each < sizes[stored] < values * each + 1200


def test_views_repeat_and_come_in_batches(folder, images, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="fp32")
    flipped = CachedView(images[0].path, "flipped")
    views = [images[1], images[0], images[1], flipped]
    found = ask(cache, views, tiny_model, batch=2)
    assert cache.counts.encoded == 3
    assert_near(found, direct(views, tiny_model), 1e-5)
    assert not torch.equal(found.image_embeddings[1], found.image_embeddings[3])
    assert found.image_embeddings.is_contiguous(memory_format=torch.channels_last)


def test_a_changed_image_is_encoded_again_and_its_copy_is_not(folder, images, tiny_model, tmp_path):
    cache = EmbeddingCache(folder, tiny_model, stored="fp32")
    before = ask(cache, images[:1], tiny_model)
    copy = CachedView(tmp_path / "copy.bin")
    copy.path.write_bytes(images[0].path.read_bytes())
    assert_same(ask(cache, [copy], tiny_model), before)
    assert cache.counts.encoded == 1
    images[0].path.write_bytes(bytes([99, 9, 9, 0]))  # as many bytes as before, within the same moment
    after = ask(cache, images[:1], tiny_model)
    assert cache.counts.encoded == 2
    assert_same(after, direct(images[:1], tiny_model))


def test_only_weights_that_decide_the_value_make_another_set(folder, images, tiny_model):
    def encodes() -> int:
        cache = EmbeddingCache(folder, tiny_model, stored="fp32")
        assert_same(ask(cache, images[:1], tiny_model), direct(images[:1], tiny_model))
        return cache.counts.encoded

    assert encodes() == 1
    with torch.no_grad():
        tiny_model.mask_decoder.iou_token.weight.add_(1)
    assert encodes() == 0
    decisive = [
        tiny_model.vision_encoder.backbone.pos_embed,
        tiny_model.no_memory_embedding,
        tiny_model.mask_decoder.conv_s0.weight,
        tiny_model.mask_decoder.conv_s1.bias,
    ]
    for weight in decisive:
        with torch.no_grad():
            weight.view(-1)[0] += 0.5
        assert encodes() == 1


def test_settings_that_decide_the_value_make_another_set(folder, images, tiny_model):
    for options in ({}, {"stored": "fp32"}, {"stored": "int8"}, {"arithmetic": "bf16"}):
        cache = EmbeddingCache(folder, tiny_model, **options)
        ask(cache, images[:1], tiny_model)
        assert cache.counts.encoded == 1
    assert len(cache_info(folder).sets) == 4


def test_no_damage_is_ever_handed_out(folder, images, tiny_model):
    """300 files cut off or with one bit flipped, in the eyes of a process that knew them and of one that did not."""
    cache = EmbeddingCache(folder, tiny_model, stored="fp32")
    expected = ask(cache, images[:1], tiny_model)
    (path,) = entry_files(folder)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    for turn in range(300):
        position = rng.randrange(len(whole)) if turn % 3 else rng.randrange(header)
        damaged = bytearray(whole)
        if turn % 2:
            damaged = damaged[:position]
        else:
            damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        reader = cache if turn % 5 else EmbeddingCache(folder, tiny_model, stored="fp32")
        before = reader.counts.encoded
        assert_same(ask(reader, images[:1], tiny_model), expected)
        if turn % 2 or position >= header:
            assert reader.counts.encoded == before + 1
            assert_same(ask(reader, images[:1], tiny_model), expected)
            assert reader.counts.encoded == before + 1


def test_a_file_in_another_s_place_is_not_used(folder, images, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="fp32")
    ask(cache, images[:2], tiny_model)
    first, second = entry_files(folder)
    first.write_bytes(second.read_bytes())
    again = EmbeddingCache(folder, tiny_model, stored="fp32")
    assert_same(ask(again, images[:2], tiny_model), ImageEmbeddings.cat([direct([v], tiny_model) for v in images[:2]]))
    assert again.counts.encoded == 1


def test_a_known_file_that_is_replaced_is_checked_again(folder, images, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="fp32")
    expected = ask(cache, images[:1], tiny_model)
    (path,) = entry_files(folder)
    long_ago([path])
    ask(cache, images[:1], tiny_model)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 64
    path.write_bytes(damaged)
    assert_same(ask(cache, images[:1], tiny_model), expected)
    assert cache.counts.encoded == 2


def test_eight_processes_encode_each_view_once_and_see_the_same(folder, images):
    views = [*images, *(CachedView(view.path, "flipped") for view in images)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cache_worker"])
    with ProcessPoolExecutor(8, mp_context=context) as pool:
        results = list(pool.map(fill, [folder] * 8, [views] * 8))
    assert sum(encoded for encoded, _ in results) == len(views)
    assert len({total for _, total in results}) == 1
    assert len(entry_files(folder)) == len(views)
    assert not list(folder.rglob(".*"))


def test_the_limit_holds_and_the_least_recently_used_go_first(folder, images, tiny_model):
    ask(EmbeddingCache(folder / "probe", tiny_model), images[:1], tiny_model)
    size = entry_files(folder / "probe")[0].stat().st_size
    limit = int(size * 4.5)
    cache = EmbeddingCache(folder / "real", tiny_model, limit=limit)
    known: set[Path] = set()
    for second, view in enumerate(images[:4]):
        ask(cache, [view], tiny_model)
        for path in set(entry_files(folder / "real")) - known:  # used one second after the other, long ago
            os.utime(path, (second, path.stat().st_mtime))
            known.add(path)
    ask(cache, images[:1], tiny_model)  # now the second is the least recently used
    ask(cache, images[4:5], tiny_model)
    assert sum(path.stat().st_size for path in entry_files(folder / "real")) <= limit
    assert images[0] not in cache.missing(images[:5])
    assert images[1] in cache.missing(images[:5])
    ask(cache, images, tiny_model)
    assert sum(path.stat().st_size for path in entry_files(folder / "real")) <= limit


def test_a_limit_smaller_than_one_entry_means_no_cache(folder, images, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="fp32", limit=1000)
    assert_same(ask(cache, images[:1], tiny_model), direct(images[:1], tiny_model))
    assert entry_files(folder) == []


def test_a_folder_that_cannot_be_made_only_costs_time(tmp_path, images, tiny_model, caplog):
    (tmp_path / "file").write_text("not a folder")
    cache = EmbeddingCache(tmp_path / "file" / "cache", tiny_model, stored="fp32")
    for _ in range(2):
        assert_same(ask(cache, images[:1], tiny_model), direct(images[:1], tiny_model))
    assert cache.counts.encoded == 2
    assert len(caplog.records) == 1
    assert "takes no more entries" in caplog.text


def test_entries_stay_on_the_device_while_there_is_room(folder, images, tiny_model):
    size = sum(tensor.nbytes for tensor in direct(images[:1], tiny_model).tensors)
    cache = EmbeddingCache(folder, tiny_model, stored="fp32", resident=int(1.5 * size))
    expected = ask(cache, images[:2], tiny_model)
    for path in entry_files(folder):
        path.unlink()
    assert_same(ask(cache, images[:2], tiny_model), expected)
    assert cache.counts.encoded == 3  # the first was kept, the second had no room


def test_info_and_clear_know_what_is_theirs(folder, images, tiny_model):
    assert cache_info(folder).bytes == 0
    assert clear_cache(folder).sets == ()
    ask(EmbeddingCache(folder, tiny_model, name="tiny one"), images[:3], tiny_model)
    info = cache_info(folder)
    assert info.bytes == sum(path.stat().st_size for path in entry_files(folder))
    (only,) = info.sets
    assert (only.model, only.stored, only.image_size, only.entries) == ("tiny one", "bf16", 64, 3)
    assert "3 entries" in "\n".join(info.lines())

    (folder / "notes.txt").write_text("mine")
    (folder / only.set_id / "ab").mkdir(exist_ok=True)
    (folder / only.set_id / "ab" / "mine.safetensors").write_text("mine")
    assert clear_cache(folder) == info
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == [f"{only.set_id}/ab/mine.safetensors", "notes.txt"]
    cache = EmbeddingCache(folder, tiny_model)
    ask(cache, images[:1], tiny_model)
    assert cache.counts.encoded == 1


def test_about_says_what_made_the_numbers(folder, tiny_model):
    cache = EmbeddingCache(folder, tiny_model, stored="int8", arithmetic="bf16")
    about = json.loads((folder / cache.set_id / "about.json").read_text())
    assert (about["stored"], about["arithmetic"], about["image_size"]) == ("int8", "bf16", 64)


@pytest.mark.parametrize(
    ("text", "size"), [("40GB", 40 * 10**9), ("1.5 tb", 15 * 10**11), ("500M", 5 * 10**8), ("123", 123), ("9B", 9)]
)
def test_sizes(text, size):
    assert CacheConfig(cache_limit=text).cache_bytes == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "-1GB", "ten", "1 GB left", "nan", "1e9"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="40GB"):
        CacheConfig(cache_limit=text)


def test_a_missing_image_is_named(folder, tiny_model, tmp_path):
    cache = EmbeddingCache(folder, tiny_model)
    with pytest.raises(DataError, match=r"gone\.jpg"):
        ask(cache, [CachedView(tmp_path / "gone.jpg")], tiny_model)
