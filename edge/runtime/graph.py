"""The flat graph: one training or prediction step as a list of plain operations on static shapes.

It is lowered once from torch (`trainer.compile`), executed as it is by the numpy runtime, and written as ONNX
and .tflite. Tensors are float32 and in row-major order; images are NCHW; every shape is known. Each node yields
one tensor. Names are unique (static single assignment), nodes are in topological order.

    op              inputs          attributes                      result
    add sub mul div a, b            -                               elementwise, numpy broadcasting
    maximum         a, b            -                               elementwise, numpy broadcasting
    neg exp log sqrt tanh sigmoid relu      x                       elementwise
    relu_grad       g, y            -                               g * (y > 0); y is relu's input or output
    softmax         x               -                               over the last axis
    log_softmax     x               -                               over the last axis
    sum max         x               axes, keepdims                  reduction
    max_grad        g, x, y         axes                            g (keepdims) shared where x equals y
    matmul          a, b            transpose_a, transpose_b        2-D
    gemm            a, b, c         transpose_a, transpose_b, beta  matmul(a, b) + beta * c; c broadcasts to the product
    reshape         x               shape
    transpose       x               perm
    expand          x               shape                           numpy broadcasting to shape
    conv2d          x, w[, b]       stride, padding                 (B,C,H,W), (O,C,h,w)[, (O,)] -> (B,O,H',W')
    conv2d_dx       g, w            stride, padding, shape          gradient on x, shape of x
    conv2d_dw       g, x            stride, padding, shape          gradient on w, shape of w
    max_pool2d      x               size                            stride = size, (H, W) cut to a whole multiple
    max_pool2d_grad g, x, y         size                            g where x is the window's maximum y
    concat          a, b, ...       axis
    slice           x               axis, start, stop

Of equal maxima in a pooling window the first in row-major order takes all of g, as in torch. `axes` are sorted and
not negative. `beta` is a float, everything else ints, lists of ints or booleans. A constant is no node but an entry of
`constants`.

stride, padding and size are pairs (rows, columns). 1-D convolutions are lowered with H = 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)
    """JSON values only: ints, lists of ints, booleans, and gemm's float `beta`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Inputs and outputs are names; `shapes` knows every tensor's shape; `constants` are baked in.

    A train graph's inputs are the state's tensors in the manifest's order, then "x" (B, ...), "target" (B, L) and
    "lr" (); its outputs the new state in the same order, then "loss" () and "logits" (B, L). A predict graph's
    inputs are the parameters and "x"; its output is "logits". Under squared error the target is (B, 2 L).
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, Shape]
    constants: dict[str, FloatArray]
    nodes: tuple[Node, ...]

    def to_json(self) -> str:
        """One node a line, so that a diff of two programs can be read. Constants are small (scalars, masks)."""
        nodes = ",\n  ".join(_node_json(node) for node in self.nodes)
        constants = {name: value.astype(np.float32).ravel().tolist() for name, value in self.constants.items()}
        return (
            "{\n"
            f' "inputs": {json.dumps(list(self.inputs))},\n'
            f' "outputs": {json.dumps(list(self.outputs))},\n'
            f' "shapes": {json.dumps({name: list(shape) for name, shape in self.shapes.items()})},\n'
            f' "constants": {json.dumps(constants)},\n'
            f' "nodes": [\n  {nodes}\n ]\n'
            "}\n"
        )


def parse_graph(text: str) -> Graph:
    """Raises ValueError on anything that is not a graph this version writes."""
    try:
        raw = json.loads(text)
        shapes = {str(name): tuple(int(side) for side in shape) for name, shape in raw["shapes"].items()}
        return Graph(
            inputs=tuple(raw["inputs"]),
            outputs=tuple(raw["outputs"]),
            shapes=shapes,
            constants={
                str(name): np.asarray(value, np.float32).reshape(shapes[name])
                for name, value in raw["constants"].items()
            },
            nodes=tuple(
                Node(op=n["op"], inputs=tuple(n["in"]), output=n["out"], attributes=n.get("at", {}))
                for n in raw["nodes"]
            ),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as problem:
        raise ValueError(f"not a flat graph: {problem}") from problem


def _node_json(node: Node) -> str:
    attributes = {"at": node.attributes} if node.attributes else {}
    return json.dumps({"op": node.op, "in": list(node.inputs), "out": node.output, **attributes})
