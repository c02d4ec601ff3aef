"""The video model: transformers' `Sam2VideoModel` with a loaded model's image part and the memory weights beside it.

Tuning leaves the memory weights as they are, so a tuned model tracks with its own decoder and its base's memory.
"""

from __future__ import annotations

import torch
from transformers import Sam2VideoModel

from samtune.errors import ModelError
from samtune.model.architecture import video_config
from samtune.model.io.loaded import LoadedModel


def video_model(loaded: LoadedModel) -> Sam2VideoModel:
    """The model that tracks, in eval mode and frozen; it shares the image model's tensors.

    Raises:
        ModelError: the model has no memory weights.
    """
    require_video(loaded)
    with torch.random.fork_rng(devices=[]):  # the initial weights, which are replaced, take nobody's random numbers
        model = Sam2VideoModel(video_config(loaded.config))
    image = loaded.model.state_dict()
    like = next(iter(image.values()))
    memory = {name: tensor.to(device=like.device, dtype=like.dtype) for name, tensor in loaded.video_state.items()}
    model.load_state_dict(image | memory, assign=True)
    return model.to(like.device).requires_grad_(False).eval()


def require_video(loaded: LoadedModel) -> None:
    """Refuse a model that cannot track.

    Raises:
        ModelError: it has no memory weights.
    """
    if not loaded.video_state:
        raise ModelError.of(
            expected="a model with video weights (memory attention and memory encoder), which clips need",
            found=f"an image model without any ({loaded.family})",
            where=loaded.name,
            do="tune from sam2.1-tiny, sam2.1-small, sam2.1-base-plus, sam2.1-large or their sam2 versions, whose "
            "checkpoints have them and whose runs keep them",
        )
