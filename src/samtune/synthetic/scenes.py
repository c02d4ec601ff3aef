"""Procedural scenes: images drawn by chance, with exact masks, for pre-training the small model and for the demo.

`random_scene` draws what pre-training sees: still lifes, scatterings, dense packings of hundreds of small objects and
"dead leaves" (shapes of all sizes covering each other, which share much of the statistics of photographs; see Baradad
et al., "Learning to See by Looking at Noise", 2021), with textures, shading, shadows, occlusion, transparency, thin
objects, holes, nested parts, blur, noise, colour casts and JPEG artefacts. `microscope_scene` draws cells as a
microscope shows them; pre-training never sees those, so that the demo has something to learn.

A scene depends only on the generator it is given. Units are pixels; shapes are drawn in a unit frame, about -1 to 1.
"""

from __future__ import annotations

import numpy as np

from samtune.synthetic.backgrounds import new_canvas
from samtune.synthetic.canvas import Scene
from samtune.synthetic.layouts import LAYOUT_WEIGHTS, LAYOUTS


def random_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draw a scene of the kind pre-training uses.

    Args:
        rng: the only source of randomness.
        size: side of the square image in pixels, 32 or more.

    Returns:
        A scene; it may hold hundreds of objects, and on rare occasions none.
    """
    layout = LAYOUTS[rng.choice(len(LAYOUTS), p=LAYOUT_WEIGHTS)]
    canvas = new_canvas(rng, size)
    layout(rng, canvas)
    return canvas.finished(rng)
