"""From modules to ONNX graphs with fixed names, and small edits of such graphs: operations before and after the core.

PyTorch's exporter (dynamo) writes one core graph for the encoder and one for the decoder. What layouts add around them
(other names, integer labels, resizing) are a few ONNX operations each, written here by hand.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim
from transformers import Sam2Model

from samtune.exports.onnx.modules import DecoderGraph, EncoderGraph
from samtune.model.architecture import input_size

FEATURES = ("image_embeddings", "features_s0", "features_s1")
"""Values between the core graphs: `[1, C, h, w]`, `[1, C/8, 4h, 4w]`, `[1, C/4, 2h, 2w]`."""
DECODER_INPUTS = (*FEATURES, "points", "labels", "mask", "has_mask")
DECODER_OUTPUTS = ("masks", "scores", "present")
IR_VERSION = 10
"""Of the file format: what onnxruntime 1.18 and its web builds read."""
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_LARGE = 512
"""Values of a weight that is worth halving."""


def encoder_core(model: Sam2Model, dtype: torch.dtype, opset: int) -> onnx.ModelProto:
    """`pixels` float32 `[1, 3, S, S]` to `FEATURES`."""
    size = input_size(model)
    module = EncoderGraph(_copy(model, dtype), dtype).eval()
    return export_graph(module, (torch.zeros(1, 3, size, size),), ("pixels",), FEATURES, None, opset)


def decoder_core(model: Sam2Model, opset: int) -> onnx.ModelProto:
    """`DECODER_INPUTS` to `DECODER_OUTPUTS`, see `DecoderGraph`; the numbers of prompts N and points P are free."""
    copied = _copy(model, torch.float32)
    module = DecoderGraph(copied).eval()
    config: Any = copied.config.mask_decoder_config
    channels, size = int(config.hidden_size), input_size(model)
    side, low = size // 16, size // 4
    arguments = (
        torch.zeros(1, channels, side, side),
        torch.zeros(1, channels // 8, low, low),
        torch.zeros(1, channels // 4, low // 2, low // 2),
        torch.zeros(3, 4, 2),  # any numbers but 1, which the exporter would fix
        torch.zeros(3, 4),
        torch.zeros(3, 1, low, low),
        torch.zeros(1),
    )
    n, p = Dim("N"), Dim("P")
    free = (None, None, None, {0: n, 1: p}, {0: n, 1: p}, {0: n}, None)
    return export_graph(module, arguments, DECODER_INPUTS, DECODER_OUTPUTS, free, opset)


def with_half_weights(core: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its large weights kept as float16, half the size; the arithmetic stays in float32.

    The runtime makes them float32 again when it loads the graph.
    """
    halved = deepcopy(core)
    graph, casts = halved.graph, []
    for weight in graph.initializer:
        name, values = weight.name, numpy_helper.to_array(weight)
        if weight.data_type == FLOAT and values.size >= _LARGE:
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved


class Editor:
    """Changes a graph: renames its inputs and outputs, puts operations before and after it.

    Args:
        core: left as it is; the changed graph is `model`.
    """

    def __init__(self, core: onnx.ModelProto) -> None:
        self.model = deepcopy(core)
        self.graph = self.model.graph
        self._before: list[onnx.NodeProto] = []

    def rename(self, old: str, new: str) -> None:
        """Give an input or output of the graph another name."""
        for node in self.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new
        for value in (*self.graph.input, *self.graph.output, *self.graph.value_info):
            if value.name == old:
                value.name = new

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add a constant int64 vector; returns its name."""
        return self.constant(name, np.array(values, np.int64))

    def before(self, operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add an operation before all of the core's; returns the name of its result."""
        self._before.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def after(self, operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add an operation after all others; returns the name of its result."""
        self.graph.node.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def set_inputs(self, *values: tuple[str, int, Sequence[int | str]]) -> None:
        """Declare the graph's inputs in order: name, element type, shape with names for free dimensions."""
        self._declare(self.graph.input, values)

    def set_outputs(self, *values: tuple[str, int, Sequence[int | str]]) -> None:
        """Declare the graph's outputs in order."""
        self._declare(self.graph.output, values)

    def finished(self) -> onnx.ModelProto:
        """The changed graph, checked.

        Raises:
            onnx.checker.ValidationError: it is no valid graph; a bug.
        """
        nodes = [*self._before, *self.graph.node]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        del self.graph.value_info[:]  # the core's shapes carry its own names
        self.model.ir_version = IR_VERSION
        onnx.checker.check_model(self.model)
        return self.model

    @staticmethod
    def _declare(declared: Any, values: Sequence[tuple[str, int, Sequence[int | str]]]) -> None:
        del declared[:]
        declared.extend(helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in values)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph as one file, weights inside."""
    onnx.save_model(model, path, save_as_external_data=False)


def _copy(model: Sam2Model, dtype: torch.dtype) -> Sam2Model:
    copied: Any = deepcopy(model)
    return copied.to(device="cpu", dtype=dtype).eval().requires_grad_(False)


def export_graph(
    module: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    free: Any,
    opset: int,
) -> onnx.ModelProto:
    """A module's graph by PyTorch's exporter, without paths of this machine.

    Args:
        module: in eval mode, on the CPU.
        arguments: of its shapes.
        inputs, outputs: their names in the graph.
        free: which dimensions are free, as `torch.onnx.export` takes them; None for none.
        opset: of the operations.
    """
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=free,
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    del proto.metadata_props[:]
    for node in proto.graph.node:  # stack traces with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter's progress and advice to its developers are not shown."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
