"""The official layout and the official answers, on fixtures the official code made
(`tests/parity/official_side.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from samtune.errors import ModelError
from samtune.model.architecture import MATRIX, MATRIX_COPY, VIDEO, empty_image_model, image_config, video_shapes
from samtune.model.catalogue import BACKBONES, VERSIONS, architecture_name
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.official_layout import CONFIG_KEY, official_name, to_official, to_transformers, widened_config
from samtune.model.preprocess import to_model_input
from tests.answers import check_answers, our_answers, transformers_answers
from tests.tiny_official import TINY_OFFICIAL

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def content() -> dict[str, Tensor]:
    return load_file(FIXTURES / "official_tiny.safetensors")


def under(content: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in content.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def tiny(content: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("official") / "anything.pt"
    torch.save({"model": under(content, "weights/"), CONFIG_KEY: TINY_OFFICIAL}, path)
    return load_model(path)


def test_answers_are_the_official_ones(tiny: LoadedModel, content: dict[str, Tensor]) -> None:
    check_answers(our_answers(tiny, under(content, "cases/")), under(content, "answers/"))


def test_transformers_answers_are_the_official_ones(tiny: LoadedModel, content: dict[str, Tensor]) -> None:
    check_answers(transformers_answers(tiny.model, under(content, "cases/"), 128), under(content, "answers/"))


def test_images_become_the_official_input() -> None:
    """To the last bit: tiny, thin, very long, and shrunk in one direction only."""
    content = load_file(FIXTURES / "official_inputs.safetensors")
    images, expected = under(content, "image/"), under(content, "input/")
    assert {tuple(image.shape[:2]) for image in images.values()} == {(8, 8), (1, 700), (8000, 2), (60, 92), (20, 300)}
    for name, image in images.items():
        assert torch.equal(to_model_input(image.numpy(), 32), expected[name]), name


def test_both_ways_through_the_predictor_are_in_the_fixture(content: dict[str, Tensor]) -> None:
    answers = under(content, "answers/")
    singles = {name: tensor for name, tensor in answers.items() if name.endswith("single/low_res")}
    fell_back = {
        name
        for name, single in singles.items()
        if any(torch.equal(single[0], other) for other in answers[name.replace("single", "multi")])
    }
    assert fell_back
    assert fell_back != singles.keys()


def test_the_way_back_gives_the_same_tensors(tiny: LoadedModel, content: dict[str, Tensor]) -> None:
    state = to_official(tiny.config, tiny.model.state_dict())
    weights = under(content, "weights/")
    assert state.keys() == weights.keys()
    differing = [name for name in state if not torch.equal(state[name], weights[name].float())]
    # The two tensors of a model without memory that nothing reads become zero.
    assert sorted(differing) == ["maskmem_tpos_enc", "no_mem_pos_enc"]


@pytest.mark.parametrize("name", ["configs/sam2.1/sam2.1_hiera_t.yaml", "configs/sam2/sam2_hiera_b+.yaml"])
def test_every_official_tensor_has_its_place_both_ways(name: str) -> None:
    shapes = json.loads((FIXTURES / "official_keys.json").read_text())[name]
    # One number each, stretched to the shape: tells tensors apart without their storage.
    state = {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}
    config, converted = to_transformers(state)
    assert config["enable_occlusion_spatial_embedding"] == ("sam2.1" in name)
    back = to_official(config, converted)
    assert back.keys() == state.keys()
    assert all(
        back[key].shape == state[key].shape and back[key].flatten()[0] == state[key].flatten()[0] for key in back
    )


@pytest.mark.parametrize("size", BACKBONES)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_size_is_recognised_from_its_tensors_and_nothing_is_left_over(version: str, size: str) -> None:
    newer = version == "sam2.1"
    config = {
        "model_type": VIDEO,
        "vision_config": BACKBONES[size].vision_config(),
        "enable_occlusion_spatial_embedding": newer,
        "enable_temporal_pos_encoding_for_object_pointers": newer,
    }
    shapes = {name: tensor.shape for name, tensor in empty_image_model(config).state_dict().items()}
    shapes |= video_shapes(config)
    matrix, points = shapes.pop(MATRIX), shapes.pop("prompt_encoder.point_embed.weight")
    del shapes[MATRIX_COPY]
    prefix = "sam_prompt_encoder."
    state = {f"{prefix}point_embeddings.{i}.weight": torch.Size((1, points[1])) for i in range(points[0])}
    state |= {f"{prefix}pe_layer.positional_encoding_gaussian_matrix": matrix}
    state |= {official_name(name): shape for name, shape in shapes.items()}
    found, tensors = to_transformers({name: torch.tensor(0.5).expand(shape) for name, shape in state.items()})
    assert architecture_name(found) == f"{version}-hiera-{size}"
    assert tensors.keys() == shapes.keys() | {MATRIX, MATRIX_COPY, "prompt_encoder.point_embed.weight"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("sam_mask_decoder.iou_token.weight"), "1 missing (sam_mask_decoder.iou_token.weight)"),
        (lambda state: state.update(extra=torch.zeros(2)), "1 unexpected (extra)"),
        (lambda state: state.update({"no_mem_embed": torch.zeros(3)}), "no_mem_embed [3], not [1, 1, 16]"),
        (lambda state: state.update({"no_mem_embed": torch.zeros(1, 1, 16, dtype=torch.int8)}), "no_mem_embed int8"),
        (lambda state: state.update({"no_mem_embed": torch.full((1, 1, 16), torch.nan)}), "1 with NaN or infinity"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_with_the_list(content: dict[str, Tensor], change, said: str) -> None:
    state = under(content, "weights/")
    change(state)
    with pytest.raises(ModelError) as caught:
        to_transformers(state, TINY_OFFICIAL)
    assert said in str(caught.value)


def test_narrow_decoder_layers_are_widened_without_changing_an_answer(content: dict[str, Tensor]) -> None:
    from transformers import Sam2Model

    narrow = TINY_OFFICIAL | {"mask_decoder_config": {"hidden_size": 16, "mlp_dim": 40, "iou_head_hidden_dim": 24}}
    torch.manual_seed(0)
    model = Sam2Model(image_config(narrow)).eval()
    state = model.state_dict()
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[
        "shared_image_embedding.positional_embedding"
    ].clone()
    model.load_state_dict(state)
    cases = under(content, "cases/")
    wide_config, wide_state = to_transformers(to_official(narrow, state), widened_config(narrow))
    wide = Sam2Model(image_config(wide_config)).eval()
    wide.load_state_dict(wide_state)
    found = transformers_answers(wide, cases, 128)
    for name, expected in transformers_answers(model, cases, 128).items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5)


def test_a_model_the_official_code_cannot_build_is_refused() -> None:
    from transformers import Sam2Model

    config = TINY_OFFICIAL | {"mask_decoder_config": {"hidden_size": 16, "num_attention_heads": 4}}
    state = Sam2Model(image_config(config)).state_dict()
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    with pytest.raises(ModelError, match="num_attention_heads 8"):
        to_official(config, state)


def test_two_position_matrices_are_refused(tiny: LoadedModel) -> None:
    state = tiny.model.state_dict()
    state["prompt_encoder.shared_embedding.positional_embedding"] = torch.zeros(2, 8)
    with pytest.raises(ModelError, match="one position matrix"):
        to_official(tiny.config, state)
