"""The compiled mask functions of faster-coco-eval, loaded without the package around them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from typing import Any

_NATIVE = "faster_coco_eval.mask_api_new_cpp"


def _load_native() -> Any:
    """The compiled module of faster-coco-eval alone; the package around it would load OpenCV, for plots."""
    if _NATIVE in sys.modules:
        return sys.modules[_NATIVE]
    package = importlib.util.find_spec(_NATIVE.partition(".")[0])
    assert package is not None, "faster-coco-eval is installed"
    spec = importlib.machinery.PathFinder.find_spec(_NATIVE, package.submodule_search_locations)
    assert spec is not None and spec.loader is not None, "faster-coco-eval has its compiled module"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_NATIVE] = module
    return module


NATIVE: Any = _load_native()
