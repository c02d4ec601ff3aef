"""Image embeddings as a value: the numbers transformers has, and the operations on them."""

from __future__ import annotations

import pytest
import torch

from samtune.model.decoder.reference import decode
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from samtune.prompts.batch import PromptBatch
from tests.tiny import TINY_SIZE


@pytest.fixture
def pixels():
    return torch.randn(3, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(1))


def test_encode_gives_what_transformers_gives(tiny_model, pixels):
    with torch.no_grad():
        ours = encode(tiny_model, pixels)
        s0, s1, image = tiny_model.get_image_embeddings(pixels)
    for found, expected in zip(ours.tensors, (image, s0, s1), strict=True):
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_images_can_be_taken_out_and_put_together(tiny_model, pixels):
    with torch.no_grad():
        three = encode(tiny_model, pixels)
    assert len(three) == 3
    again = ImageEmbeddings.cat([three[0], three[-2], three[[2]]])
    for found, expected in zip(again.tensors, three.tensors, strict=True):
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert len(three[1:]) == 2
    with pytest.raises(IndexError):
        three[3]


def test_conversion_changes_precision_and_nothing_else(tiny_model, pixels):
    with torch.no_grad():
        half = encode(tiny_model, pixels).to(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.device.type == "cpu"
    assert half.high_resolution_features[0].is_contiguous(memory_format=torch.channels_last)


def test_gradients_collected_at_leaves_are_those_of_one_pass(tiny_model, pixels):
    """Prompts one by one into leaves, then one pass through the encoder: the same as everything in one graph."""
    prompts = PromptBatch.from_boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0], [10.0, 10.0, 20.0, 30.0]]))
    weight = tiny_model.vision_encoder.backbone.blocks[0].mlp.proj_in.weight.requires_grad_()
    embeddings = encode(tiny_model, pixels[:1])
    assert embeddings.requires_grad
    decode(tiny_model, embeddings, prompts).masks.square().sum().backward()
    expected, weight.grad = weight.grad, None

    embeddings = encode(tiny_model, pixels[:1])
    leaves = embeddings.as_leaves()
    for row in range(2):
        decode(tiny_model, leaves, prompts.select(slice(row, row + 1))).masks.square().sum().backward()
    embeddings.backward(leaves)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_backward_without_gradients_does_nothing(tiny_model, pixels):
    with torch.no_grad():
        embeddings = encode(tiny_model, pixels[:1])
    assert not embeddings.requires_grad
    embeddings.backward(embeddings.as_leaves())
    assert not embeddings.detach().requires_grad
