"""ONNX exports: names, types and shapes of each layout; masks equal to samtune's own; bad input refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from transformers import Sam2Model

from samtune.errors import ConfigError, ModelError, SamtuneError
from samtune.exports.export import export
from samtune.exports.onnx import check, graphs, layouts
from samtune.exports.onnx.modules import DecoderGraph
from samtune.exports.onnx.write import anylabeling_config, transformersjs_configs, write_onnx
from samtune.exports.verify import probe_image
from samtune.inference.predictor import Predictor
from samtune.model.architecture import image_config
from samtune.model.catalogue import BACKBONES
from samtune.model.decoder.reference import decode, select_masks
from samtune.model.encoder.embeddings import encode
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.prompts.batch import PromptBatch

F, INTEGER = "tensor(float)", "tensor(int64)"
EXPECTED = {
    "anylabeling": (
        [("image", F, [1, 3, 384, 384])],
        [
            ("high_res_feats_0", F, [1, 16, 96, 96]),
            ("high_res_feats_1", F, [1, 32, 48, 48]),
            ("image_embed", F, [1, 128, 24, 24]),
        ],
        [
            ("image_embed", F, [1, 128, 24, 24]),
            ("high_res_feats_0", F, [1, 16, 96, 96]),
            ("high_res_feats_1", F, [1, 32, 48, 48]),
            ("point_coords", F, ["N", "P", 2]),
            ("point_labels", F, ["N", "P"]),
            ("mask_input", F, ["N", 1, 96, 96]),
            ("has_mask_input", F, [1]),
        ],
        [("masks", F, ["N", 3, 96, 96]), ("iou_predictions", F, ["N", 3])],
    ),
    "transformersjs": (
        [("pixel_values", F, [1, 3, 384, 384])],
        [
            ("image_embeddings.0", F, [1, 16, 96, 96]),
            ("image_embeddings.1", F, [1, 32, 48, 48]),
            ("image_embeddings.2", F, [1, 128, 24, 24]),
        ],
        [
            ("input_points", F, [1, "point_rows", "P", 2]),
            ("input_labels", INTEGER, [1, "N", "P"]),
            ("input_boxes", F, [1, "boxes", 4]),
            ("image_embeddings.0", F, [1, 16, 96, 96]),
            ("image_embeddings.1", F, [1, 32, 48, 48]),
            ("image_embeddings.2", F, [1, 128, 24, 24]),
        ],
        [
            ("iou_scores", F, [1, "N", 3]),
            ("pred_masks", F, [1, "N", 3, 96, 96]),
            ("object_score_logits", F, [1, "N", 1]),
        ],
    ),
    "rectlabel": (
        [("input", F, [1, 3, 384, 384])],
        [
            ("image_embeddings", F, [1, 128, 24, 24]),
            ("high_res_features1", F, [1, 16, 96, 96]),
            ("high_res_features2", F, [1, 32, 48, 48]),
        ],
        [
            ("image_embeddings", F, [1, 128, 24, 24]),
            ("high_res_features1", F, [1, 16, 96, 96]),
            ("high_res_features2", F, [1, 32, 48, 48]),
            ("point_coords", F, ["N", "P", 2]),
            ("point_labels", F, ["N", "P"]),
            ("mask_input", F, ["N", 1, "mask_height", "mask_width"]),
            ("has_mask_input", F, [1]),
            ("orig_im_size", INTEGER, [2]),
        ],
        [
            ("masks", F, ["N", 4, "H", "W"]),
            ("iou_predictions", F, ["N", 4]),
            ("low_res_masks", F, ["N", 4, 96, 96]),
        ],
    ),
}
"""Inputs and outputs of encoder and decoder, nano's sizes: `[3, S, S]` with S = 384, C = 128."""
UNWANTED = {"Where", "ScatterND", "ScatterElements", "If", "Loop", "NonZero"}
"""Operations that WebGPU rejects or that slow a graph down."""


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


@pytest.fixture(scope="module")
def files(nano, tmp_path_factory):
    """Encoder and decoder of every layout, made from the same two core graphs: exporting those takes a minute."""
    folder = tmp_path_factory.mktemp("onnx")
    cores = [graphs.encoder_core(nano.model, torch.float32, 18), graphs.decoder_core(nano.model, 18)]
    sizes = layouts.Sizes(nano.image_size, nano.model.config.mask_decoder_config.hidden_size)
    written = {}
    for layout in layouts.NAMES:
        written[layout] = folder / f"{layout}.encoder.onnx", folder / f"{layout}.decoder.onnx"
        for core, make, path in zip(cores, (layouts.encoder, layouts.decoder), written[layout], strict=True):
            graphs.save(make(core, layout, sizes), path)
    return written


@pytest.mark.parametrize("layout", layouts.NAMES)
def test_a_layout_has_the_names_types_and_shapes_its_tool_loads(files, layout):
    found = []
    for path in files[layout]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for values in (session.get_inputs(), session.get_outputs()):
            found += [[(value.name, value.type, value.shape) for value in values]]
    assert found == list(EXPECTED[layout])


@pytest.mark.parametrize("layout", layouts.NAMES)
def test_the_mask_a_tool_shows_is_samtunes_own(nano, files, layout):
    tool = check.OnnxPredictor(*files[layout], layout)
    found = check.compare(nano, tool, check.random_prompts(nano, layout, each=4, seed=1), probe_image())
    assert found.prompts in (16, 20)
    assert found.pixels <= 1e-4
    assert found.scores < 1e-5


def test_graphs_are_one_file_of_plain_float_operations(files):
    for pair in files.values():
        for path in pair:
            model = onnx.load(path, load_external_data=False)
            assert {opset.version for opset in model.opset_import} == {18}
            assert not any(tensor.external_data for tensor in model.graph.initializer)
            assert not UNWANTED & {node.op_type for node in model.graph.node}
            assert b"/src/samtune/" not in path.read_bytes()


def test_half_weights_halve_a_decoder_and_keep_its_masks(nano, files, tmp_path):
    """nano's weights are float16 numbers already, those of a tuned model are not: here they are moved a little."""
    random, moved = np.random.default_rng(0), onnx.load(files["anylabeling"][1])
    for weight in moved.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size > 3:
            values = values * (1 + 1e-3 * random.standard_normal(values.shape, np.float32))
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    paths = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    for graph, path in zip((moved, graphs.with_half_weights(moved)), paths, strict=True):
        graphs.save(graph, path)
    assert paths[1].stat().st_size < 0.55 * paths[0].stat().st_size
    whole, half = (check.OnnxPredictor(files["anylabeling"][0], path, "anylabeling") for path in paths)
    features, predictor = whole.embed(probe_image()), Predictor(nano)
    embedded, differing = predictor.embed(probe_image()), []
    for prompt, _ in check.random_prompts(nano, "anylabeling", each=3, seed=1):
        batch = predictor.to_model_frame(embedded, PromptBatch.from_prompts([prompt]))
        shown, other = (tool.show(features, batch, embedded.size)[0] for tool in (whole, half))
        differing.append(np.mean(shown != other))
    assert np.mean(differing) <= 1e-4


def test_many_prompts_at_once_and_padding_change_nothing(nano, files):
    """Three prompts of different lengths in one call, padded with -1, are those of three calls."""
    tool = check.OnnxPredictor(*files["anylabeling"], "anylabeling")
    features = tool.embed(probe_image())
    batch = PromptBatch.cat(
        [
            PromptBatch.from_boxes(torch.tensor([[30.0, 40, 200, 220]])),
            PromptBatch.from_clicks(torch.tensor([[[100.0, 100]]])),
            PromptBatch.from_clicks(torch.tensor([[[100.0, 100], [20, 30], [300, 310]]]), torch.tensor([[1, 0, 1]])),
        ]
    )
    labels = batch.labels.clamp(min=-1).numpy().astype(np.float32)
    blank = {"mask_input": np.zeros((3, 1, 96, 96), np.float32), "has_mask_input": np.zeros(1, np.float32)}
    points = batch.points.numpy()
    together = tool.decoder.run(None, features | {"point_coords": points, "point_labels": labels} | blank)
    for row in range(3):
        real = labels[row] >= 0
        one = {"point_coords": points[row : row + 1, real], "point_labels": labels[row : row + 1, real]}
        alone = tool.decoder.run(None, features | one | {**blank, "mask_input": blank["mask_input"][:1]})
        for many, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(many[row], single[0], atol=1e-4)


def test_boxes_alone_and_clicks_alone_work_in_the_browsers_layout(files):
    tool = check.OnnxPredictor(*files["transformersjs"], "transformersjs")
    features = tool.embed(probe_image())
    boxes = {
        "input_points": np.zeros((1, 1, 0, 2), np.float32),
        "input_labels": np.zeros((1, 2, 0), np.int64),
        "input_boxes": np.array([[[30, 40, 200, 220], [5, 5, 90, 90]]], np.float32),
    }
    clicks = {
        "input_points": np.full((1, 3, 2, 2), 100, np.float32),
        "input_labels": np.ones((1, 3, 2), np.int64),
        "input_boxes": np.zeros((1, 0, 4), np.float32),
    }
    shapes = [value.shape for value in tool.decoder.run(None, features | boxes)]
    assert shapes == [(1, 2, 3), (1, 2, 3, 96, 96), (1, 2, 1)]
    assert tool.decoder.run(None, features | clicks)[1].shape == (1, 3, 3, 96, 96)


def test_labelmes_blank_mask_of_another_size_changes_nothing(files):
    """osam passes 256 x 256 zeros whatever the model's size."""
    tool = check.OnnxPredictor(*files["rectlabel"], "rectlabel")
    given = tool.embed(probe_image()) | {
        "point_coords": np.array([[[30, 40], [200, 220]]], np.float32),
        "point_labels": np.array([[2, 3]], np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array([240, 360], np.int64),
    }
    small, large = (
        tool.decoder.run(None, given | {"mask_input": np.zeros((1, 1, side, side), np.float32)}) for side in (96, 256)
    )
    assert small[0].shape == (1, 4, 240, 360)
    assert all(np.array_equal(a, b) for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize("fall_back", [True, False])
def test_an_unstable_single_mask_gives_way_to_the_best_of_three(nano, fall_back):
    """The graph's arithmetic on 0 and 1 against `select_masks`, with a threshold that half of the masks miss."""
    config = nano.model.mask_decoder.config
    before = config.dynamic_multimask_via_stability, config.dynamic_multimask_stability_thresh
    generator = torch.Generator().manual_seed(3)
    try:
        config.dynamic_multimask_via_stability, config.dynamic_multimask_stability_thresh = fall_back, 0.995
        size = nano.image_size
        boxes = torch.rand(12, 2, generator=generator).repeat(1, 2) * size * 0.5 + torch.tensor([0, 0, 90.0, 70])
        with torch.no_grad():
            embeddings = encode(nano.model, torch.rand(1, 3, size, size, generator=generator))
            prompts = PromptBatch.from_boxes(boxes)
            output = decode(nano.model, embeddings, prompts)
            expected, scores = select_masks(nano.model, output, multimask_output=False)
            found = DecoderGraph(nano.model)(
                *embeddings.tensors, prompts.points, prompts.labels.float(), torch.zeros(12, 1, 96, 96), torch.zeros(1)
            )
        torch.testing.assert_close(found[0], expected.clamp(-32, 32).expand(-1, 4, -1, -1), atol=1e-4, rtol=0)
        torch.testing.assert_close(found[1], scores.expand(-1, 4))
        fell_back = (expected[:, 0] != output.masks[:, 0]).flatten(1).any(1)
        assert fell_back.any() == fall_back
    finally:
        config.dynamic_multimask_via_stability, config.dynamic_multimask_stability_thresh = before


def test_the_files_beside_the_graphs_are_what_the_loaders_want(nano):
    """X-AnyLabeling's loader demands these keys; transformers.js reads the number of feature levels."""
    config = yaml.safe_load(yaml.safe_dump(anylabeling_config("cells", "My cells", "cells.e.onnx", "cells.d.onnx")))
    assert config["type"] == "segment_anything_2"
    assert {"type", "name", "display_name", "encoder_model_path", "decoder_model_path"} <= config.keys()
    files = json.loads(json.dumps(transformersjs_configs(nano)))
    assert files["config.json"]["model_type"] == "sam2"
    assert files["config.json"]["vision_config"]["num_feature_levels"] == 3
    assert files["preprocessor_config.json"]["image_processor_type"] == "Sam2ImageProcessor"
    assert files["preprocessor_config.json"]["size"] == {"height": 384, "width": 384}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "onnx"}, "--layout anylabeling"),
        ({"format": "onnx", "layout": "anylabeling", "opset": 12}, "an opset from 18"),
        ({"format": "onnx", "layout": "cvat"}, "a layout, one of anylabeling"),
        ({"format": "hf", "layout": "anylabeling"}, "--format onnx"),
    ],
)
def test_what_no_tool_could_load_is_refused(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        export("nano", tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_graphs_of_another_model_are_not_kept(nano, files):
    """Fault injected: the comparison runs against a model whose decoder was changed after the export."""
    other = load_model("nano")
    with torch.no_grad():
        for head in other.model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(-1)
            head.proj_out.bias.mul_(-1)
    tool = check.OnnxPredictor(*files["anylabeling"], "anylabeling")
    found = check.compare(other, tool, check.random_prompts(other, "anylabeling", each=1), probe_image())
    with pytest.raises(SamtuneError, match="nothing was kept"):
        check.refuse_if_different(found, "fp32", "here")


@pytest.mark.slow
@pytest.mark.parametrize("layout", layouts.NAMES)
def test_two_hundred_prompts_of_an_official_size(tmp_path, layout):
    """SAM 2.1 tiny's architecture at 1024 px; its weights where the hub's cache has them, else random ones."""
    try:
        loaded = load_model("sam2.1-tiny")
    except ModelError:
        torch.manual_seed(0)
        model = Sam2Model(image_config({"model_type": "sam2", "vision_config": BACKBONES["tiny"].vision_config()}))
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
        save_model(model, tmp_path / "tiny", family="sam2.1-hiera-tiny")
        loaded = load_model(tmp_path / "tiny")
    each = 50 if layout == "transformersjs" else 40
    found = write_onnx(loaded, tmp_path, layout, name="tiny", precision="fp32", opset=18, each=each)
    print(layout, found.difference)
    assert found.difference.prompts == 200
    assert found.difference.pixels <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("layout", layouts.NAMES)
def test_two_hundred_prompts_of_nano(nano, files, layout):
    each = 50 if layout == "transformersjs" else 40
    tool = check.OnnxPredictor(*files[layout], layout)
    found = check.compare(nano, tool, check.random_prompts(nano, layout, each, seed=2), probe_image())
    assert found.prompts == 200
    assert found.pixels <= 1e-4


@pytest.mark.slow
def test_two_hundred_prompts_of_nano_in_fp16(nano, tmp_path):
    found = write_onnx(nano, tmp_path, "anylabeling", name="nano", precision="fp16", opset=18, each=40).difference
    print(found)
    assert found.prompts == 200
    assert found.pixels <= 1e-4
