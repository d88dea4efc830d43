"""Where the nodes of an ONNX graph are collected, and in which layouts a tensor of the flat graph is at hand.

A tensor is computed in one of two layouts and converted when another is asked for, once:

    PLAIN     as in the flat graph: row-major, the batch first
    (1, 1)    batch last, two-dimensional: (B, C, H, W) as (C, H W B), (B, F) as (F, B)
    (h, w)    batch last, one tensor (C, H/h W/w B) for each place of a pooling window, in row-major order

Batch last, a convolution of the whole batch is one matrix product and a window's places are whole tensors
(docs/adr/0004-conv-gradients-on-onnx.md has the measurements).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge.runtime.graph import Graph, Node, Shape

Window: TypeAlias = tuple[int, int]
Layout: TypeAlias = Window | None
PLAIN: Layout = None
WHOLE: Window = (1, 1)

_WIDTHS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
}


class Emitter:
    """Collects nodes and constants in order; the same calls give the same bytes."""

    def __init__(self, graph: Graph, layouts: Mapping[str, Window]) -> None:
        """`layouts`: the tensors that are computed batch last."""
        self.graph = graph
        self.layouts = layouts
        self.producers: dict[str, Node] = {node.output: node for node in graph.nodes}
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._known_constants: dict[tuple[str, Shape, bytes], str] = {}
        self._at_hand: dict[tuple[str, Layout], tuple[str, ...]] = {}
        self._derived: dict[tuple[Any, ...], Any] = {}
        for name in (*graph.inputs, *graph.constants):
            self._at_hand[name, PLAIN] = (name,)
        self.constants.extend(numpy_helper.from_array(value, name) for name, value in graph.constants.items())

    def shape(self, name: str) -> Shape:
        return self.graph.shapes[name]

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out if out is not None else f"t/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known_constants:
            name = f"c/{len(self._known_constants)}"
            self._known_constants[key] = name
            self.constants.append(numpy_helper.from_array(array, name))
        return self._known_constants[key]

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, np.int64))

    def reshape(self, value: str, shape: Sequence[int], out: str | None = None) -> str:
        return self.op("Reshape", value, self.ints(*shape), out=out)

    def reshaped(self, name: str) -> str:
        """What the tensor is a reshape of, or itself."""
        producer = self.producers.get(name)
        return producer.inputs[0] if producer is not None and producer.op == "reshape" else name

    def needed(self) -> tuple[list[NodeProto], list[TensorProto]]:
        """The nodes and constants without those whose result nobody reads."""
        read, nodes = set(self.graph.outputs), []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(node.input)
                nodes.append(node)
        return nodes[::-1], [constant for constant in self.constants if constant.name in read]

    def once(self, key: tuple[Any, ...], value: Any = None) -> Any:
        """What was stored under the key, or None; with a value: store it."""
        if value is not None:
            self._derived[key] = value
        return self._derived.get(key)

    def put(self, name: str, layout: Layout, values: Sequence[str]) -> None:
        self._at_hand[name, layout] = tuple(values)

    def drop(self, name: str, layout: Layout) -> None:
        del self._at_hand[name, layout]

    def has(self, name: str, layout: Layout) -> bool:
        return (name, layout) in self._at_hand

    def plain(self, name: str) -> str:
        """The tensor as in the flat graph."""
        if not self.has(name, PLAIN):
            (value,) = self.batch_last(name)
            shape = self.shape(name)
            rows = self.op("Transpose", self.reshape(value, (-1, shape[0])), perm=[1, 0])  # (F, B) -> (B, F)
            self.put(name, PLAIN, [self.reshape(rows, shape, out=name)])
        return self._at_hand[name, PLAIN][0]

    def batch_last(self, name: str, window: Window = WHOLE) -> tuple[str, ...]:
        """The tensor as (C, H W B), or one such tensor for each place of the window."""
        if not self.has(name, window):
            source = self.home(name) if self.has(name, self.home(name)) else WHOLE
            if source == window:
                self.put(name, WHOLE, [self._transposed(name)])
            else:
                self.put(name, window, Rows(self, name, source).split(window))
        return self._at_hand[name, window]

    def home(self, name: str) -> Window:
        """The batch-last layout in which the tensor is computed."""
        return self.layouts.get(name, WHOLE)

    def _transposed(self, name: str) -> str:
        shape = self.shape(name)
        flat = self.plain(name) if len(shape) == 2 else self.reshape(self.plain(name), (shape[0], -1))
        turned = self.op("Transpose", flat, perm=[1, 0])  # (B, F) -> (F, B)
        return turned if len(shape) == 2 else self.reshape(turned, (shape[1], -1))


def gathered(
    e: Emitter, rows: str, channel: NDArray[np.int64], line: NDArray[np.int64], column: NDArray[np.int64],
    *, last: int | None,
) -> str:  # fmt: skip
    """Of rows of B numbers those numbered channel (C,) + line (h, H') + column (w, W') -> (C h w, H' W' B).

    `last` is the row of zeros, if any: larger numbers mean it too. Written as a sum of three terms a table of indices
    costs a few hundred bytes in the file; onnxruntime folds the sum to a constant when it loads the model.
    """
    (h, height), (w, width) = line.shape, column.shape
    terms = (channel.reshape(-1, 1, 1, 1, 1) + line.reshape(1, h, 1, height, 1), column.reshape(1, 1, w, 1, width))
    index = e.op("Add", *(e.constant(term.astype(np.int32)) for term in terms))
    if last is not None:
        index = e.op("Min", index, e.constant(np.asarray(last, np.int32)))
    count = len(channel) * h * w
    picked = e.op("Gather", rows, e.reshape(index, (count, height * width)), axis=0)  # (C h w, H' W', B)
    return e.reshape(picked, (count, -1))


class Rows:
    """An image tensor as rows of B numbers, from which `Gather` picks: (C, H, W) pixels, then a row of zeros."""

    def __init__(self, emitter: Emitter, name: str, window: Window) -> None:
        self.e = emitter
        self.name = name
        self.window = window
        self.B, self.C, self.H, self.W = emitter.shape(name)
        h, w = window
        self.lines, self.columns = self.H // h, self.W // w
        self.count = h * w * self.C * self.lines * self.columns  # rows of pixels; the next one is zeros

    def line(self, y: NDArray[np.int64]) -> NDArray[np.int64]:
        """Terms of lines y, `count` where y lies outside."""
        h, w = self.window
        term = (y % h) * w * (self.count // (h * w)) + (y // h) * self.columns
        return np.where((y >= 0) & (y < self.lines * h), term, self.count)

    def column(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        h, w = self.window
        term = (x % w) * (self.count // (h * w)) + x // w
        return np.where((x >= 0) & (x < self.columns * w), term, self.count)

    def gather(self, lines: NDArray[np.int64], columns: NDArray[np.int64]) -> str:
        """Lines (h, H') and columns (w, W') that each tap sees from each output pixel -> (C h w, H' W' B)."""
        channel = np.arange(self.C) * self.lines * self.columns
        a, b = self.line(lines), self.column(columns)
        outside = bool((a == self.count).any() or (b == self.count).any())
        return gathered(self.e, self._pixels(outside), channel, a, b, last=self.count if outside else None)

    def split(self, window: Window) -> list[str]:
        """One tensor (C, H/h W/w B) for each place of the window; what no window covers is left out."""
        h, w = window
        lines, columns = np.arange(self.H // h) * h, np.arange(self.W // w) * w
        return [self.gather((lines + i)[None], (columns + j)[None]) for i in range(h) for j in range(w)]

    def _pixels(self, zeros: bool) -> str:
        """(count, B), or (count + 1, B) with the row of zeros."""
        key = ("pixels", self.name, self.window, zeros)
        known = self.e.once(key)
        if known is not None:
            return str(known)
        parts = [self.e.reshape(part, (-1, self.B)) for part in self.e.batch_last(self.name, self.window)]
        if zeros:
            parts.append(self.e.constant(np.zeros((1, self.B), np.float32)))
        joined = parts[0] if len(parts) == 1 else self.e.op("Concat", *parts, axis=0)
        self.e.once(key, joined)
        return joined
