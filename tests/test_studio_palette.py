"""The classes' colours, as people see them who lack one kind of cone."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from samtune.studio.state import COLORS

SEEN_BY = {
    "all three kinds": np.eye(3),
    "no red (protanopia)": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green (deuteranopia)": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue (tritanopia)": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""What linear RGB looks like to them: Machado, Oliveira and Fernandes 2009, severity 1."""
LEAST = 15.0
"""Distance in CIELAB from which on two colours are told apart at a glance; 2.3 is just noticeable."""


def as_seen(colors: tuple[str, ...], matrix: np.ndarray) -> np.ndarray:
    """CIELAB of colours written as `#rrggbb`, float `[N, 3]`."""
    srgb = np.array([[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in colors]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(matrix).T, 0, 1)
    back = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(back[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]


@pytest.mark.parametrize("who", SEEN_BY)
def test_classes_can_be_told_apart(who):
    seen = as_seen(COLORS, SEEN_BY[who])
    close = {
        (COLORS[a], COLORS[b]): round(float(np.linalg.norm(seen[a] - seen[b])), 1)
        for a, b in combinations(range(len(COLORS)), 2)
        if np.linalg.norm(seen[a] - seen[b]) < LEAST
    }
    assert close == {}
