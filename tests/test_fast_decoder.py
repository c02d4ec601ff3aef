"""The fast decoder against the plain one and against transformers' own forward: logits, and every gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.model.decoder import fast, reference, two_way, upscaling
from samtune.model.decoder.reference import DecoderOutput, select_masks
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.prompts.batch import PADDING, PromptBatch
from samtune.runtime import matmul
from tests.tiny import TINY_SIZE, tiny_config, tiny_sam2

CHANNELS = tiny_config().mask_decoder_config.hidden_size


def random_embeddings(images: int, generator: torch.Generator, size: int = TINY_SIZE) -> ImageEmbeddings:
    def features(channels: int, stride: int) -> torch.Tensor:
        return torch.randn(images, channels, size // stride, size // stride, generator=generator)

    return ImageEmbeddings(features(CHANNELS, 16), (features(CHANNELS // 8, 4), features(CHANNELS // 4, 8)))


def random_prompt(kind: str, clicks: int, masked: bool, generator: torch.Generator) -> PromptBatch:
    points = torch.rand(1, clicks, 2, generator=generator) * TINY_SIZE
    prompt = PromptBatch.from_clicks(points, torch.randint(0, 2, (1, clicks), generator=generator))
    if kind == "box":
        box = PromptBatch.from_boxes((torch.rand(1, 4, generator=generator) * TINY_SIZE).sort(dim=1).values)
        prompt = PromptBatch(torch.cat([box.points, prompt.points], 1), torch.cat([box.labels, prompt.labels], 1))
    if masked:
        prompt = prompt.with_masks(4 * torch.randn(1, 1, TINY_SIZE // 4, TINY_SIZE // 4, generator=generator))
    return prompt


def answers_and_gradients(decode, model, embeddings, prompts, index):
    model.zero_grad()
    leaves = embeddings.as_leaves()
    output = decode(model, leaves, prompts, index)
    weights = torch.Generator().manual_seed(1)
    values = (output.masks, output.iou_scores, output.object_score_logits)
    sum((value * torch.randn(value.shape, generator=weights)).sum() for value in values).backward()
    learned = dict(model.named_parameters()) | dict(zip(("image", "finer", "fine"), leaves.tensors, strict=True))
    gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone() for name, value in learned.items()
    }
    return output, gradients


def assert_equal_decoders(model, embeddings, prompts, index, decode=fast.decode):
    plain, expected = answers_and_gradients(reference.decode, model, embeddings, prompts, index)
    found, gradients = answers_and_gradients(decode, model, embeddings, prompts, index)
    for name in ("masks", "iou_scores", "object_score_logits"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), atol=1e-5, rtol=1e-5)
    scale = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in gradients.items():
        error = float((gradient - expected[name]).norm())
        # the second term is rounding noise: gradients that are zero in exact arithmetic, such as key biases
        assert error <= 1e-3 * float(expected[name].norm()) + 1e-6 * scale, name


@pytest.fixture(scope="module")
def learning():
    model = tiny_sam2(seed=0)
    model.prompt_encoder.requires_grad_(True)
    model.mask_decoder.requires_grad_(True)
    return model


prompt_kinds = st.tuples(st.sampled_from(["box", "clicks"]), st.integers(1, 4), st.booleans(), st.integers(0, 2))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(prompt_kinds, min_size=1, max_size=9), st.integers(0, 2**31))
def test_any_mixture_of_prompts_and_images(learning, kinds, seed):
    """Boxes, clicks, masks, different lengths, ragged counts, images nobody asks about, any order."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = random_embeddings(3, generator)
    prompts = PromptBatch.cat([random_prompt(kind, clicks, masked, generator) for kind, clicks, masked, _ in kinds])
    index = torch.tensor([image for *_, image in kinds])
    assert_equal_decoders(learning, embeddings, prompts, index)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.lists(prompt_kinds, max_size=4), min_size=1, max_size=3), st.booleans(), st.integers(0, 2**31))
def test_a_grid_of_prompts_and_padding(learning, images, masked, seed):
    """The grid's answers to real prompts, and their gradients, are those of the prompts by themselves."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, *map(len, images))
    padding = PromptBatch(torch.zeros(1, 1, 2), torch.full((1, 1), PADDING))
    if masked:
        padding = padding.with_masks(torch.zeros(1, 1, TINY_SIZE // 4, TINY_SIZE // 4))
    rows = []
    for kinds in images:
        rows += [random_prompt(kind, clicks, masked, generator) for kind, clicks, *_ in kinds]
        rows += [padding] * (each - len(kinds))
    grid = PromptBatch.cat(rows)
    real = torch.tensor([place < len(kinds) for kinds in images for place in range(each)])
    index = torch.arange(len(images)).repeat_interleave(each)

    def on_the_grid(model, embeddings, prompts, index):
        output = fast.decode_grid(model, embeddings, grid)
        return DecoderOutput(*(getattr(output, name)[real] for name in DecoderOutput.__dataclass_fields__))

    if real.any():
        embeddings = random_embeddings(len(images), generator)
        assert_equal_decoders(learning, embeddings, grid.select(real), index[real], on_the_grid)


def test_both_ways_through_attention_are_taken(learning):
    """One prompt projects its tokens, many prompts and long prompts project the pixels: the choice is exercised."""
    attention = learning.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    chosen = set()
    for count in (1, 12):
        generator = torch.Generator().manual_seed(count)
        embeddings = random_embeddings(1, generator)
        positions = torch.zeros((TINY_SIZE // 16) ** 2, CHANNELS)
        image = two_way.ImageRows(embeddings, positions, count)
        chosen.add(two_way.PixelRows(image.rows, image.placed, torch.zeros(CHANNELS), image).projects(attention, 3))
        prompts = PromptBatch.cat([random_prompt("clicks", 1, False, generator) for _ in range(count)])
        assert_equal_decoders(learning, embeddings, prompts, torch.zeros(count, dtype=torch.int64))
    assert chosen == {True, False}


def test_a_larger_input(learning):
    model = tiny_sam2(seed=1, size=128)
    model.mask_decoder.requires_grad_(True)
    generator = torch.Generator().manual_seed(3)
    prompts = PromptBatch.from_boxes(torch.rand(3, 4, generator=generator) * 128)
    assert_equal_decoders(model, random_embeddings(2, generator, 128), prompts, torch.tensor([1, 0, 1]))


@pytest.mark.parametrize("multimask", [True, False])
def test_it_gives_what_transformers_gives(tiny_model, multimask):
    generator = torch.Generator().manual_seed(4)
    embeddings = random_embeddings(1, generator)
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [10.0, 10.0, 20.0, 30.0], [1.0, 30.0, 60.0, 63.0]])
    image, finer, fine = embeddings.tensors
    with torch.no_grad():
        reference = tiny_model(
            image_embeddings=[finer, fine, image], input_boxes=boxes[None], multimask_output=multimask
        )
        output = fast.decode(tiny_model, embeddings, PromptBatch.from_boxes(boxes))
        masks, scores = select_masks(tiny_model, output, multimask_output=multimask)
    torch.testing.assert_close(masks, reference.pred_masks[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores, reference.iou_scores[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.object_score_logits, reference.object_score_logits[0, :, 0], atol=1e-5, rtol=1e-5)


def test_memory_order_of_the_embeddings_does_not_matter(tiny_model):
    generator = torch.Generator().manual_seed(5)
    embeddings = random_embeddings(1, generator)
    rows = ImageEmbeddings(
        *[
            embeddings.image_embeddings.contiguous(memory_format=torch.channels_last),
            tuple(t.contiguous(memory_format=torch.channels_last) for t in embeddings.high_resolution_features),
        ]
    )
    prompts = PromptBatch.from_boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0]]))
    with torch.no_grad():
        a, b = (fast.decode(tiny_model, value, prompts) for value in (embeddings, rows))
    torch.testing.assert_close(a.masks, b.masks, atol=1e-6, rtol=1e-6)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.detach().float() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("upstream", [False, True])
def test_bf16_is_nearer_to_fp32_than_the_plain_decoder_in_bf16(learning, upstream):
    """Under autocast everything that has pixels is bf16, whatever the embeddings are, and tokens are fp32 on a CPU."""
    generator = torch.Generator().manual_seed(7)
    exact = random_embeddings(2, generator)
    kinds = [("box", 1, False), ("clicks", 3, True), ("box", 2, False)] * 2
    prompts = PromptBatch.cat([random_prompt(*kind, generator) for kind in kinds])
    index = torch.tensor([0, 0, 1, 1, 0, 1])
    given = exact if upstream else exact.to(dtype=torch.bfloat16)
    for tensor in given.tensors:
        tensor.requires_grad_(upstream)

    def in_bf16(decode):
        def run(*arguments):
            with torch.autocast("cpu", torch.bfloat16):
                return decode(*arguments)

        return answers_and_gradients(run, learning, given, prompts, index)

    expected, gradients = answers_and_gradients(fast.decode, learning, exact, prompts, index)
    (found, fast_gradients), (plain, plain_gradients) = in_bf16(fast.decode), in_bf16(reference.decode)
    assert found.masks.dtype == torch.bfloat16
    assert found.iou_scores.dtype == found.object_score_logits.dtype == torch.float32
    for name in ("masks", "iou_scores", "object_score_logits"):
        exactly = getattr(expected, name)
        assert 0 < relative(getattr(found, name), exactly) < relative(getattr(plain, name), exactly)
    names = [name for name in gradients if upstream or "." in name]
    far, near, true = (
        torch.cat([part[name].flatten() for name in names]) for part in (plain_gradients, fast_gradients, gradients)
    )
    assert 0 < relative(near, true) < relative(far, true)


def test_the_library_that_multiplies_makes_no_difference(learning):
    before = torch.get_float32_matmul_precision()
    try:
        matmul.choose_matmul_library(torch.device("cpu"))
        generator = torch.Generator().manual_seed(8)
        prompts = PromptBatch.cat([random_prompt(kind, 2, False, generator) for kind in ("box", "clicks", "box")])
        assert_equal_decoders(learning, random_embeddings(2, generator), prompts, torch.tensor([0, 1, 1]))
    finally:
        torch.set_float32_matmul_precision(before)


def test_gradients_at_pixels_are_those_of_the_plain_formulas():
    """`TokenToImage` and `ImageToToken` against autograd, for shared pixels and for separate ones."""
    generator = torch.Generator().manual_seed(9)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    positions = drawn(5, 3).detach()
    for images in (1, 2, 4):
        rows, keys, values, offset = drawn(images, 5, 3), drawn(4, 6, 3), drawn(4, 6, 3), drawn(4, 6, 1)

        def image_to_token(rows, keys, offset, values):
            return two_way.ImageToToken.apply(keys, offset, values, rows, rows.detach() + positions, 2)

        def token_to_image(rows, keys):
            together = keys.reshape(len(rows), -1, 3)
            return torch.cat(two_way.TokenToImage.apply(together, rows, rows.detach() + positions), dim=1)

        # positions are constants, so that the gradient at `placed` is the one at `rows`, which gradcheck demands
        assert torch.autograd.gradcheck(image_to_token, (rows, keys, offset, values), check_undefined_grad=False)
        assert torch.autograd.gradcheck(token_to_image, (rows, keys), check_undefined_grad=False)


def test_masks_one_by_one_are_those_of_all_together(learning):
    """Upscaling by the function with its own backward pass against autograd: values and every gradient, in fp64."""
    decoder = copy.deepcopy(learning.mask_decoder).double()
    generator = torch.Generator().manual_seed(10)
    size, images, each = (4, 4), 2, 3

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    rows, heads = drawn(images * each, 16, CHANNELS), drawn(images * each, 4, CHANNELS // 8)
    fine, finer = drawn(images, CHANNELS // 4, 8, 8), drawn(images, CHANNELS // 8, 16, 16)
    norm, first, second = decoder.upscale_layer_norm, decoder.upscale_conv1, decoder.upscale_conv2
    matrices = (upscaling.row_halves(layer.weight) for layer in (first, second))
    weights = upscaling.Weights(*matrices, first.bias, second.bias, norm.weight, norm.bias)
    order = upscaling.strips(fine, 1), upscaling.strips(finer, 2)
    together = upscaling.masks_together(rows, heads, *order, size, norm.eps, weights)
    one_by_one = upscaling.MaskByMask.apply(rows, heads, *order, size, norm.eps, True, *weights)
    torch.testing.assert_close(one_by_one, together)

    factors = drawn(*together.shape).detach()
    learned = [rows, heads, fine, finer, *(layer.weight for layer in (first, second)), *weights[2:]]
    found, expected = (
        torch.autograd.grad((masks * factors).sum(), learned, retain_graph=True) for masks in (one_by_one, together)
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_upscaling_is_that_of_the_convolutions(learning):
    """Both orders, the features' and the masks', against transformers' modules on images."""
    decoder, generator = learning.mask_decoder, torch.Generator().manual_seed(11)
    size = (3, 5)
    rows = torch.randn(2, 15, CHANNELS, generator=generator)
    heads = torch.randn(2, 4, CHANNELS // 8, generator=generator)
    fine = torch.randn(1, CHANNELS // 4, 6, 10, generator=generator)
    finer = torch.randn(1, CHANNELS // 8, 12, 20, generator=generator)
    with torch.no_grad():
        found = upscaling.masks(decoder, rows, heads, upscaling.strips(fine, 1), upscaling.strips(finer, 2), size)
        pixels = rows.transpose(1, 2).unflatten(2, size)
        pixels = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(pixels) + fine))
        pixels = decoder.activation(decoder.upscale_conv2(pixels) + finer)
        expected = torch.einsum("nmc,nchw->nmhw", heads, pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", [[1, 0], [1, 0, 1, 0], [2, 0, 2, 0, 1], [0, 0, 2]])
@pytest.mark.parametrize("masked", [False, True])
def test_answers_come_in_the_order_of_the_prompts(learning, index, masked):
    """Also where all go through in one grid, which sorts them by image."""
    generator = torch.Generator().manual_seed(12)
    prompts = PromptBatch.cat([random_prompt("clicks", 1, masked, generator) for _ in index])
    assert_equal_decoders(learning, random_embeddings(3, generator), prompts, torch.tensor(index))


@pytest.mark.parametrize("counts", [(1, 1), (4, 4, 4, 4), (3, 0, 3, 1), (40, 2)])
def test_prompts_go_through_in_as_few_grids_as_there_are_counts(counts):
    """Each prompt once, with those of its image, and no more at a time than a chunk."""
    index = torch.cat([torch.full((count,), image) for image, count in enumerate(counts)])
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
    prompts = PromptBatch.from_boxes(torch.zeros(len(index), 4))
    grids = list(fast.prompt_grids(prompts, index))
    assert sorted(torch.cat([rows for rows, *_ in grids]).tolist()) == list(range(len(index)))
    for rows, images, masked in grids:
        assert not masked
        assert len(rows) <= fast.CHUNK
        torch.testing.assert_close(index[rows], torch.tensor(images).repeat_interleave(len(rows) // len(images)))
    if max(counts) <= 4:
        assert len(grids) == len(set(counts) - {0})
