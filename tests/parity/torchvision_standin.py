"""Stand-ins for the few torchvision operators the official `sam2` package imports, written from their documentation.

The official package needs three transforms and two box operators; torchvision itself is not needed (torch's CPU build
has no matching one). `register()` puts them where `import torchvision...` finds them, and does nothing where the real
package is installed.
"""

import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import torch
from torch import Tensor, nn


class ToTensor:
    """uint8 `[H, W, 3]` array or Pillow image to float32 `[3, H, W]` in 0 to 1."""

    def __call__(self, image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Resize(nn.Module):
    """Bilinear resize with antialiasing of `[..., H, W]` tensors, torchvision's default."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height = int(size[0])
        self.width = int(size[1])

    def forward(self, image: Tensor) -> Tensor:
        size = [self.height, self.width]
        return nn.functional.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation, per channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean = torch.tensor(mean)[:, None, None]
        self.std = torch.tensor(std)[:, None, None]

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


def box_area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes `[N, 4]`."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression among boxes of equal `idxs`; indices kept, best score first."""
    order = scores.argsort(descending=True)
    kept: list[Tensor] = []
    area = box_area(boxes)
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        corner = torch.minimum(boxes[best, 2:], boxes[rest, 2:]) - torch.maximum(boxes[best, :2], boxes[rest, :2])
        overlap = corner.clamp(min=0).prod(dim=1)
        iou = overlap / (area[best] + area[rest] - overlap)
        order = rest[(iou <= iou_threshold) | (idxs[rest] != idxs[best])]
    return torch.stack(kept) if kept else order


def register() -> None:
    """Make `import torchvision` find the stand-ins, unless torchvision is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    parts = {
        "torchvision": {},
        "torchvision.transforms": {"ToTensor": ToTensor, "Resize": Resize, "Normalize": Normalize},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
    }
    for name, members in parts.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        vars(module).update(members)
        sys.modules[name] = module
