"""Clips: frames in both directions, tracking equal to transformers' own session, memory that stays, files, faults."""

from __future__ import annotations

import json
import resource
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from samtune.cli import main
from samtune.config import TrackConfig
from samtune.data.masks import decode_rle, parse_counts
from samtune.data.masks.palette import davis_palette, read_label_image, write_label_image
from samtune.errors import DataError, ModelError, StorageError, UsageError
from samtune.inference.video.clips import Clip, open_clip
from samtune.inference.video.files import track_files
from samtune.inference.video.prompts import ClipPrompt
from samtune.inference.video.track import Tracker, track
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.model.preprocess import to_model_input, upscale_masks
from samtune.model.video import video_model
from samtune.types import Prompt
from tests.clips import HEIGHT, WIDTH, moving_discs, write_frames, write_video
from tests.system import full_disk
from tests.tiny import TINY_SIZE
from tests.tiny_video import tiny_video

BOX = Prompt.box(4, 14, 22, 34)
CLICK = Prompt.clicks([(50.0, 20.0)])


@pytest.fixture(scope="module")
def loaded():
    return tiny_video(seed=0)


@pytest.fixture(scope="module")
def model(loaded):
    return video_model(loaded)


@pytest.fixture(scope="module")
def video_folder(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny-video"
    save_model(loaded, folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames, _ = moving_discs(16)
    return open_clip(write_frames(tmp_path_factory.mktemp("clip") / "frames", frames))


def run(*tokens) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens] + ["--quiet"])
    return int(ended.value.code or 0)


def inputs_of(prompt: Prompt):
    """As transformers' processor prepares them: a box is two points with the labels 2 and 3."""
    scale = torch.tensor([TINY_SIZE / WIDTH, TINY_SIZE / HEIGHT])
    if prompt.input_box is not None:
        points, labels = torch.tensor(prompt.input_box).reshape(2, 2), torch.tensor([2, 3])
    else:
        points, labels = torch.tensor(prompt.input_points), torch.tensor(prompt.input_labels)
    return {"point_coords": (points * scale)[None, None], "point_labels": labels.int()[None, None]}


def transformers_masks(model, images, prompts, start=0):
    """transformers' own session, all frames and objects kept; low-res logits `[N, h, w]` by frame."""
    video = torch.stack([to_model_input(image, TINY_SIZE) for image in images])
    session = Sam2VideoInferenceSession(video=video, video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32)
    for number, prompt in enumerate(prompts):
        session.add_point_inputs(session.obj_id_to_idx(number), start, inputs_of(prompt))
    session.obj_with_new_inputs = list(range(len(prompts)))
    model(inference_session=session, frame_idx=start)
    forward = model.propagate_in_video_iterator(session, start_frame_idx=start)
    return {found.frame_idx: found.pred_masks[:, 0] for found in forward}


def test_masks_are_those_of_transformers_own_session(model, clip):
    images = list(clip.frames(0, len(clip)))
    expected = transformers_masks(model, images, [BOX, CLICK])
    prompts = [ClipPrompt(0, 1, BOX), ClipPrompt(0, 2, CLICK)]
    seen = set()
    for found in track(model, clip, prompts):
        for object_id in (1, 2):
            reference = expected[found.number][object_id - 1]
            torch.testing.assert_close(found.low_res[object_id], reference, atol=1e-4, rtol=1e-4)
        seen.add(bool((expected[found.number] > 0).any()))
        np.testing.assert_array_equal(found.image, images[found.number])
    assert True in seen, "no object is ever seen: the comparison says nothing"


def test_an_object_that_is_prompted_later_is_followed_from_there(model, clip):
    images = list(clip.frames(0, len(clip)))
    alone = transformers_masks(model, images, [CLICK], start=5)
    first = transformers_masks(model, images, [BOX])
    for found in track(model, clip, [ClipPrompt(0, 1, BOX), ClipPrompt(5, 7, CLICK)]):
        assert set(found.low_res) == ({1, 7} if found.number >= 5 else {1})
        torch.testing.assert_close(found.low_res[1], first[found.number][0], atol=1e-4, rtol=1e-4)
        if found.number >= 5:
            torch.testing.assert_close(found.low_res[7], alone[found.number][0], atol=1e-4, rtol=1e-4)


def test_backwards_is_forwards_through_the_reversed_clip(model, clip, tmp_path):
    images = np.array(list(clip.frames(0, len(clip))))
    mirrored = open_clip(write_frames(tmp_path / "mirrored", images[::-1]))
    start = 11
    back = {f.number: f for f in track(model, clip, [ClipPrompt(start, 3, BOX)], backwards=True)}
    forth = {f.number: f for f in track(model, mirrored, [ClipPrompt(len(clip) - 1 - start, 3, BOX)])}
    assert sorted(back) == list(range(len(clip)))
    for number in range(start):
        mirror = forth[len(clip) - 1 - number]
        torch.testing.assert_close(back[number].low_res[3], mirror.low_res[3], atol=1e-4, rtol=1e-4)
        assert back[number].scores[3] == pytest.approx(mirror.scores[3], abs=1e-3)
    assert 3 not in {n for f in track(model, clip, [ClipPrompt(start, 3, BOX)]) if f.number < start for n in f.low_res}


def test_a_correction_changes_its_frame_and_what_follows(model, clip):
    plain = {f.number: f for f in track(model, clip, [ClipPrompt(0, 1, BOX)])}
    fix = ClipPrompt(6, 1, Prompt.clicks([(30.0, 24.0), (5.0, 5.0)], [1, 0]))
    fixed = {f.number: f for f in track(model, clip, [ClipPrompt(0, 1, BOX), fix])}
    for number in range(6):
        assert torch.equal(plain[number].low_res[1], fixed[number].low_res[1])
    assert not torch.allclose(plain[6].low_res[1], fixed[6].low_res[1], atol=1e-2)
    assert not torch.equal(plain[15].low_res[1], fixed[15].low_res[1]), "the corrected frame is remembered"


def test_a_given_mask_is_the_answer_on_its_frame(model, clip):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:34, 4:28] = True
    prompts = [ClipPrompt(0, 1, mask=mask), ClipPrompt(8, 1, mask=mask[:, ::-1].copy())]
    found = {f.number: f for f in track(model, clip, prompts)}
    for number, expected in ((0, mask), (8, mask[:, ::-1])):
        answer = found[number].masks()[1]
        assert (answer & expected).sum() / (answer | expected).sum() > 0.85


def test_memory_does_not_grow(model, clip):
    images = list(clip.frames(0, len(clip)))
    tracker = Tracker(model, clip, [ClipPrompt(0, 1, BOX), ClipPrompt(3, 2, CLICK)], reverse=False)
    kept = []
    for number, image in enumerate(images):
        tracker.show(number, image)
        kept.append([session.stored_bytes for session in tracker.sessions.values()])
    assert kept[10] == kept[-1]
    memories, pointers = model.config.num_maskmem, model.config.max_object_pointers_in_encoder
    for session in tracker.sessions.values():
        outputs = session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        assert len(outputs) == max(memories, pointers)
        assert sum("maskmem_features" in output for output in outputs.values()) == memories
        assert list(session.processed_frames) == [len(clip) - 1]


class DrawnAsNeeded(Clip):
    """A clip of any length whose frames are drawn when they are asked for."""

    def __init__(self, length: int) -> None:
        self.path, self.size, self.rate = Path("drawn"), (HEIGHT, WIDTH), 24.0
        self.names = tuple(f"{number:05}.png" for number in range(length))
        self._frames, _ = moving_discs(40)

    def frames(self, start, stop):
        for number in range(start, stop):
            yield np.roll(self._frames[number % 40], number // 40, axis=1)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_memory_is_flat_over_2000_frames(model):
    clip = DrawnAsNeeded(2000)
    kept = {}
    tracker = Tracker(model, clip, [ClipPrompt(0, 1, BOX), ClipPrompt(0, 2, CLICK)], reverse=False)
    for number, image in enumerate(clip.frames(0, 2000)):
        tracker.show(number, image).labels()
        kept[number] = (sum(one.stored_bytes for one in tracker.sessions.values()), resident_bytes())
    growth = kept[1999][1] - kept[200][1]
    print(f"stored {kept[200][0]} bytes at frame 200, {kept[1999][0]} at 1999; grown by {growth / 2**20:.1f} MiB")
    assert kept[20][0] == kept[1999][0]
    assert growth < 24 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("length", [300, 2000])
def test_long_clips_have_the_masks_of_transformers_own_session(model, length):
    clip = DrawnAsNeeded(length)
    expected = transformers_masks(model, clip.frames(0, length), [BOX, CLICK])
    differing = 0
    for found in track(model, clip, [ClipPrompt(0, 1, BOX), ClipPrompt(0, 2, CLICK)]):
        reference = (upscale_masks(expected[found.number], clip.size) > 0).numpy()
        differing += np.count_nonzero(np.stack(list(found.masks().values())) != reference)
    print(f"{differing} of {length * 2 * HEIGHT * WIDTH} pixels differ")
    assert differing <= 1e-5 * length * 2 * HEIGHT * WIDTH


def test_labels_give_a_pixel_to_the_object_with_the_higher_logit(model, clip):
    for found in track(model, clip, [ClipPrompt(0, 1, BOX), ClipPrompt(0, 9, CLICK)]):
        masks, labels = found.masks(), found.labels()
        assert set(np.unique(labels)) <= {0, 1, 9}
        np.testing.assert_array_equal(labels > 0, masks[1] | masks[9])
        assert (masks[1] | (labels != 1)).all()


@given(labels=st.lists(st.integers(0, 255), min_size=6, max_size=6))
@settings(max_examples=25, deadline=None)
def test_label_images_come_back(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "a.png"
    pixels = np.array(labels, np.uint8).reshape(2, 3)
    write_label_image(path, pixels)
    np.testing.assert_array_equal(read_label_image(path), pixels)
    with Image.open(path) as image:
        assert image.mode == "P"


def test_the_palette_is_that_of_pascal_voc():
    """The colours that its development kit lists for background, aeroplane, bicycle, bird, person and void."""
    found = davis_palette()[[0, 1, 2, 3, 15, 255]].tolist()
    assert found == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [192, 128, 128], [224, 224, 192]]


@pytest.mark.parametrize("key_every", [1, 5, 40])
def test_a_video_file_has_the_frames_that_were_written_in_both_directions(tmp_path, key_every):
    frames, _ = moving_discs(40)
    clip = open_clip(write_video(tmp_path / "a.mkv", frames, key_every=key_every))
    assert len(clip) == 40 and clip.size == (HEIGHT, WIDTH) and clip.rate == 24
    np.testing.assert_array_equal(np.array(list(clip.frames(0, 40))), frames)
    np.testing.assert_array_equal(np.array(list(clip.frames(17, 29))), frames[17:29])
    np.testing.assert_array_equal(np.array(list(clip.backwards(37))), frames[37::-1])


def test_predict_follows_objects_and_writes_masks_results_and_a_video(tmp_path, video_folder, monkeypatch, capsys):
    frames, _ = moving_discs(8)
    write_video(tmp_path / "clip.mp4", frames)
    prompts = [
        {"frame": 0, "object": 1, "box": [4, 14, 22, 34]},
        {"frame": "00004", "object": 2, "points": [[32, 20], [3, 3]], "labels": [1, 0]},
        {"frame": 6, "object": 1, "points": [[40, 24]]},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    arguments = ["predict", "clip.mp4", "--model", str(video_folder), "--prompts", "prompts.json", "--backwards"]
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "--out", "out") == 0
    assert "2 objects in 8 frames" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [(row["frame"], row["object_id"]) for row in rows] == [(f, o) for f in range(8) for o in (1, 2)]
    for frame in range(8):
        labels = read_label_image(tmp_path / f"out/masks/{frame:05}.png")
        whole = np.zeros((HEIGHT, WIDTH), bool)
        for row in rows[2 * frame : 2 * frame + 2]:
            assert row["file_name"] == f"{frame:05}.png" and row["segmentation"]["size"] == [HEIGHT, WIDTH]
            whole |= decode_rle(parse_counts(row["segmentation"]["counts"], HEIGHT, WIDTH))
        np.testing.assert_array_equal(labels > 0, whole)
    with av.open(str(tmp_path / "out/overlay.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
    assert shown == [(HEIGHT, WIDTH, 3)] * 8


def test_boxes_of_one_track_are_one_object(tmp_path, video_folder, monkeypatch):
    frames, _ = moving_discs(5)
    write_frames(tmp_path / "frames", frames)
    images = [{"id": n, "file_name": f"frames/{n:05}.png", "width": WIDTH, "height": HEIGHT} for n in range(5)]
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [4, 14, 18, 20], "attributes": {"track_id": 3}},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [30, 14, 18, 20], "attributes": {"track_id": 3}},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [24, 12, 16, 16]},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    arguments = ["predict", "frames", "--video", "--model", str(video_folder), "--boxes", "boxes.json"]
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "--out", "out") == 0
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [(row["frame"], row["object_id"]) for row in rows if row["object_id"] == 2] == [(2, 2), (3, 2), (4, 2)]
    assert {row["object_id"] for row in rows} == {1, 2}


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Runs `predict` on what must be refused, and returns the message."""

    def refused(*arguments) -> str:
        monkeypatch.chdir(tmp_path)
        assert run("predict", *arguments, "--out", "out") == 2
        assert not list(tmp_path.glob("*out*")), "nothing half-written"
        return capsys.readouterr().err

    return refused


def test_mistakes_are_named_and_leave_nothing_behind(tmp_path, video_folder, tiny_folder, fails):
    frames, _ = moving_discs(4)
    clip = write_frames(tmp_path / "frames", frames)
    model = str(video_folder)
    no_memory = fails("frames", "--video", "--model", str(tiny_folder), "--box", "4,4,20,20")
    assert "video weights" in no_memory and "sam2.1-tiny" in no_memory
    beyond = fails("frames", "--frame", "4", "--model", model, "--box", "4,4,20,20")
    assert "frames 0 to 3" in beyond
    outside = fails("frames", "--video", "--model", model, "--point", "90,90")
    assert "inside the image" in outside and "frame 0, object 1" in outside
    assert "--everything" in fails("frames", "--video", "--everything", "--model", model)
    (tmp_path / "prompts.json").write_text('[{"frame": 1, "object": 0, "box": [1, 2, 3, 4]}]')
    assert "object" in fails("frames", "--model", model, "--prompts", "prompts.json")
    (tmp_path / "prompts.json").write_text('[{"frame": "x", "object": 1, "box": [1, 2, 30, 40]}]')
    assert "'x'" in fails("frames", "--model", model, "--prompts", "prompts.json")
    (tmp_path / "prompts.json").write_text('[{"frame": 1, "object": 1, "mask": "../secret.png"}]')
    assert "in the folder of the prompts" in fails("frames", "--model", model, "--prompts", "prompts.json")
    Image.fromarray(frames[0][:, :40]).save(clip / "00002.png")
    changed = fails("frames", "--video", "--model", model, "--box", "4,4,20,20")
    assert "64 x 48" in changed and "40 x 48" in changed and "frame 2 (00002.png)" in changed
    data = (clip / "00001.png").read_bytes()
    Image.fromarray(frames[2]).save(clip / "00002.png")
    (clip / "00001.png").write_bytes(data[:60] + b"\xff" * 400 + data[460:])
    broken = fails("frames", "--video", "--model", model, "--box", "4,4,20,20")
    assert "00001.png" in broken


def test_a_damaged_video_names_the_frame(tmp_path):
    frames, _ = moving_discs(40)
    path = write_video(tmp_path / "a.mkv", frames, key_every=1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    clip = open_clip(path)
    path.write_bytes(data[: len(data) // 4])
    with pytest.raises(DataError, match=r"frame \d+") as raised:
        list(clip.frames(0, len(clip)))
    assert "ffmpeg" in str(raised.value)
    path.write_bytes(b"no video at all")
    with pytest.raises(DataError, match="a video file"):
        open_clip(path)


def test_a_video_whose_size_changes_names_the_frame(tmp_path):
    """Two H.264 encoders into one stream, as a broadcast has it where a programme changes."""
    frames, _ = moving_discs(6)
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        other = av.CodecContext.create("libx264", "w")
        other.time_base, other.options = Fraction(1, 25), {"bf": "0"}
        for encoder, width in ((stream, WIDTH), (other, 40)):
            encoder.width, encoder.height, encoder.pix_fmt = width, HEIGHT, "yuv420p"
        for number, frame in enumerate(frames):
            encoder, width = (stream, WIDTH) if number < 4 else (other, 40)
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:, :width]), format="rgb24")
            image.pts, image.time_base = number, Fraction(1, 25)
            last = number in (3, 5)
            for packet in [*encoder.encode(image), *(encoder.encode(None) if last else [])]:
                packet.stream = stream
                container.mux(packet)
    clip = open_clip(path)
    with pytest.raises(DataError, match="40 x 48") as raised:
        list(clip.frames(0, len(clip)))
    assert "frame 4 (00004.png)" in str(raised.value)


def test_a_video_without_pyav_says_what_to_install(tmp_path, monkeypatch, clip, loaded):
    frames, _ = moving_discs(2)
    path = write_video(tmp_path / "a.mkv", frames)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"samtune\[video\]"):
        open_clip(path)
    found = track_files(clip, loaded, tmp_path / "out", TrackConfig(box=("4,4,30,30",)))
    assert "samtune[video]" in found.note
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", "predictions.json"]


@pytest.mark.parametrize("size", [50, 1500])
def test_a_full_disk_leaves_nothing_behind(tmp_path, clip, loaded, size):
    with full_disk(size), pytest.raises(StorageError):
        track_files(clip, loaded, tmp_path / "out", TrackConfig(box=("4,4,30,30",), frame=2, backwards=True))
    assert list(tmp_path.iterdir()) == []


def test_a_playlist_in_a_video_file_reaches_no_network(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError, match="a video file"):
        open_clip(path)


def test_a_model_without_memory_is_refused_by_name(tiny_folder):
    with pytest.raises(ModelError, match=r"sam2\.1-tiny"):
        video_model(load_model(tiny_folder))


def test_video_weights_survive_the_way_through_a_folder(model, video_folder):
    again = video_model(load_model(video_folder)).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_prompts_need_frames(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder with images"):
        open_clip(tmp_path / "empty")
    (tmp_path / "clip.txt").write_text("hm")
    with pytest.raises(UsageError, match=r"\.txt"):
        open_clip(tmp_path / "clip.txt")
