"""What the memory of one object needs, and nothing else: transformers' session, bounded.

transformers' own session keeps for every frame and object the mask at the model's full input (4 MiB at 1024 px), the
low-res mask, the memory and all frames of the clip. The memory attention looks at the frames that were prompted, the
last `num_maskmem` - 1 memories and the last `max_object_pointers_in_encoder` - 1 object pointers; this keeps those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache, Sam2VideoInferenceSession

UNUSED = ("high_res_masks",)
"""What the model hands to a session and never asks back."""
ONLY_OF_PROMPTED = ("pred_masks", "object_score_logits")
"""What it asks back of frames that were prompted, and of no other."""
MEMORY = ("maskmem_features", "maskmem_pos_enc")
"""The memory of a frame, the larger part of what is kept."""


class ObjectSession(Sam2VideoInferenceSession):
    """The memory of one object.

    One session per object, where transformers keeps all objects in one: there, an object that is prompted on a later
    frame would be asked for without a prompt on the first, and the masks of all objects would enter the memory
    as hard masks as soon as one of them was prompted on that frame. The official predictor goes object by object too.

    Args:
        model: decides how far back is looked.
        length: frames of the clip.
        cache: the current frame's features, shared by all objects.
    """

    def __init__(self, model: Sam2VideoModel, length: int, cache: Sam2VideoInferenceCache) -> None:
        super().__init__(
            inference_device=model.device,
            inference_state_device=model.device,
            video_storage_device=model.device,
            dtype=model.dtype,
        )
        config: Any = model.config
        self._length, self.cache = length, cache
        self._memories: int = config.num_maskmem - 1
        self._pointers: int = max(config.num_maskmem, config.max_object_pointers_in_encoder) - 1
        self.obj_id_to_idx(0)

    @property
    def num_frames(self) -> int:
        """Frames of the clip, of which this holds one."""
        return self._length

    def show(self, frame: int, pixels: Tensor) -> None:
        """Make `pixels`, `[3, S, S]`, frame `frame`, and forget what is too far from it to be looked at."""
        self.processed_frames = {frame: pixels}
        kept: dict[int, dict[str, Any]] = self._outputs["non_cond_frame_outputs"]
        for number in [number for number in kept if abs(frame - number) > self._pointers]:
            del kept[number]
        for number, output in kept.items():
            if abs(frame - number) > self._memories:
                for name in MEMORY:
                    output.pop(name, None)
        self.frames_tracked_per_obj[0].clear()

    def store_output(
        self,
        obj_idx: int,
        frame_idx: int,
        output_key: str | None = None,
        output_value: Tensor | dict[str, Any] | None = None,
        is_conditioning_frame: bool = True,
    ) -> None:
        """As in transformers, without what is never asked back."""
        unused = UNUSED if is_conditioning_frame else (*UNUSED, *ONLY_OF_PROMPTED)
        if output_key not in unused:
            super().store_output(obj_idx, frame_idx, output_key, output_value, is_conditioning_frame)

    def become_prompted(self, frame: int) -> None:
        """Forget that `frame` was tracked, because it has been corrected and stands among those that were prompted."""
        self._outputs["non_cond_frame_outputs"].pop(frame, None)

    @property
    def stored_bytes(self) -> int:
        """Memory of all tensors kept."""
        tensors = [
            value
            for outputs in self._outputs.values()
            for output in outputs.values()
            for value in output.values()
            if isinstance(value, Tensor)
        ]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    @property
    def _outputs(self) -> dict[str, dict[int, dict[str, Any]]]:
        return self.output_dict_per_obj[0]


def new_cache(device: torch.device) -> Sam2VideoInferenceCache:
    """A place for one frame's features."""
    return Sam2VideoInferenceCache(inference_device=device, inference_state_device=device)
