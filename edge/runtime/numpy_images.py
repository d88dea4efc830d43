"""Convolution and pooling in numpy: unfoldings and matrix products on images that lie batch-last.

`plan_images` replaces a graph's image ops by the internal ones of this module. With g the gradient on y:

    unfold            x                  (K, N) columns: for each tap of the kernel the pixel that each output sees
    product           columns, w[, b]    y = w (O, K) x columns
    unfolded_dw       g, columns         dw = g (O, N) x columns^T
    unfold, of g      g                  (O h w, H W B) columns: for each tap, last first, the output that saw the pixel
    folded_dx         columns, w         dx = w (C, O h w), turned round, x columns of g
    folded_dw         x, columns         dw = x (C, H W B) x columns^T of g; both where O < C, which is less to unfold
    conv2d_dx         g, w               otherwise: what each output gives each of its taps, added up

Images are views (B,C,H,W) of memory that lies (C,H,W,B): unfolding then copies runs of W' B numbers instead of W', and
each product is one large one instead of B small ones. Elementwise ops keep the order of what they are given. An image
that is only pooled lies in places, (C, h w, H/h, W/w, B): one part for each place of the window, so that a pooling's
numpy calls run over whole parts and not over B numbers at a time. Memory is kept from step to step (`KEEPS_MEMORY`):
getting megabytes from the system and giving them back cost more than filling them. Measurements: docs/adr/0035.

Letters: B batch, C and O channels in and out, (H, W) and (H', W') image in and out, (h, w) kernel or window,
K = C h w, N = H' W' B, P = h w places of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from edge.runtime.graph import FloatArray, Graph, Node, Shape

Kernel: TypeAlias = Callable[..., FloatArray]
Shapes: TypeAlias = dict[str, Shape]
Bind: TypeAlias = Callable[[Node, Shapes], Kernel]
"""Reads a node's attributes and shapes once, returns what runs at every step."""
Pair: TypeAlias = tuple[int, int]

ONE: Pair = (1, 1)


def last(x: FloatArray) -> FloatArray:
    """(B,C,H,W) -> (C,H,W,B), a view."""
    return x.transpose(1, 2, 3, 0)


def _first(x: FloatArray) -> FloatArray:
    """(C,H,W,B) -> (B,C,H,W), a view."""
    return x.transpose(3, 0, 1, 2)


def _pair(values: Sequence[int]) -> Pair:
    first, second = values
    return int(first), int(second)


# ---------------------------------------------------------------- convolution


def _bind_unfold(node: Node, shapes: Shapes) -> Kernel:
    """From x (B,C,H,W) to columns (K, N), the outputs in the order of `places`."""
    B, C, H, W = shapes[node.inputs[0]]
    (sy, sx), (py, px), (h, w), (ph, pw) = (
        _pair(node.attributes[k]) for k in ("stride", "padding", "kernel", "places")
    )
    rows, columns = ((H + 2 * py - h) // sy + 1) // ph, ((W + 2 * px - w) // sx + 1) // pw  # of one place
    padded = np.zeros((C, H + 2 * py, W + 2 * px, B), np.float32)
    inside = padded[:, py : py + H, px : px + W]
    out = np.empty((C, h, w, ph, pw, rows, columns, B), np.float32)

    def seen(tap: int, place: int, outputs: int, stride: int, places: int) -> slice:
        start, step = tap + place * stride, stride * places
        return slice(start, start + step * (outputs - 1) + 1, step)

    moves = [
        (out[:, i, j, a, b], padded[:, seen(i, a, rows, sy, ph), seen(j, b, columns, sx, pw)])
        for i in range(h) for j in range(w) for a in range(ph) for b in range(pw)
    ]  # fmt: skip

    def kernel(x: FloatArray) -> FloatArray:
        np.copyto(inside, last(x))
        for target, source in moves:
            np.copyto(target, source)
        return out.reshape(C * h * w, -1)

    return kernel


def _bind_product(node: Node, shapes: Shapes) -> Kernel:
    """From columns (K, N), w (O,C,h,w)[, b (O,)] to an image (B,O,H',W'), or to (O, P, N') in places."""
    B, O, rows, columns_out = shapes[node.output]  # noqa: E741
    places = _pair(node.attributes["places"])
    y = np.empty((O, rows * columns_out * B), np.float32)
    image = _first(y.reshape(O, rows, columns_out, B)) if places == ONE else y.reshape(O, places[0] * places[1], -1)

    def kernel(columns: FloatArray, w: FloatArray, b: FloatArray | None = None) -> FloatArray:
        np.matmul(w.reshape(O, -1), columns, out=y)  # (O,K) (K,N) -> (O,N)
        if b is not None:
            np.add(y, b[:, None], out=y)
        return image

    return kernel


def _bind_unfolded_dw(node: Node, shapes: Shapes) -> Kernel:
    """From g (B,O,H',W') or (O, P, N'), columns (K, N) to (O,C,h,w)."""
    shape = shapes[node.output]

    def kernel(g: FloatArray, columns: FloatArray) -> FloatArray:
        rows = (g if g.ndim == 3 else last(g)).reshape(shape[0], -1)
        return np.asarray((rows @ columns.T).reshape(shape))  # (O,N) (N,K) -> (O,K)

    return kernel


def _bind_folded_dx(node: Node, shapes: Shapes) -> Kernel:
    """From columns of g (O h w, N), w (O,C,h,w) to (B,C,H,W)."""
    B, C, H, W = shapes[node.output]
    dx = np.empty((C, H * W * B), np.float32)
    image = _first(dx.reshape(C, H, W, B))

    def kernel(columns: FloatArray, w: FloatArray) -> FloatArray:
        turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(C, -1)
        np.matmul(turned, columns, out=dx)  # (C, O h w) (O h w, N) -> (C,N)
        return image

    return kernel


def _bind_folded_dw(node: Node, shapes: Shapes) -> Kernel:
    """From x (B,C,H,W), columns of g (O h w, N) to (O,C,h,w)."""
    O, C, h, w = shapes[node.output]  # noqa: E741

    def kernel(x: FloatArray, columns: FloatArray) -> FloatArray:
        dw = (last(x).reshape(C, -1) @ columns.T).reshape(C, O, h, w)  # (C,N) (N, O h w)
        return np.ascontiguousarray(dw[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))

    return kernel


def _bind_matmul_last(node: Node, shapes: Shapes) -> Kernel:
    """A product (B,F) that is reshaped to an image: computed transposed, for the image to lie batch-last."""
    del shapes
    flip_a, flip_b = bool(node.attributes["transpose_a"]), bool(node.attributes["transpose_b"])
    return lambda a, b: ((b if flip_b else b.T) @ (a if flip_a else a.T)).T


def _bind_conv2d_dx(node: Node, shapes: Shapes) -> Kernel:
    """From g (B,O,H',W'), w (O,C,h,w) to (B,C,H,W): fold the columns' gradient back."""
    B, O, rows, columns = shapes[node.inputs[0]]  # noqa: E741
    _, C, h, w = shapes[node.inputs[1]]
    _, _, H, W = shapes[node.output]
    (sy, sx), (py, px) = (_pair(node.attributes[key]) for key in ("stride", "padding"))

    parts = np.empty((C, h, w, rows, columns, B), np.float32)
    folded = parts.reshape(C * h * w, -1)
    dx = np.zeros((C, H + 2 * py, W + 2 * px, B), np.float32)
    image = _first(dx[:, py : py + H, px : px + W])

    def kernel(g: FloatArray, weight: FloatArray) -> FloatArray:
        np.matmul(weight.reshape(O, -1).T, last(g).reshape(O, -1), out=folded)  # (K,O) (O,N) -> (K,N)
        dx.fill(0)
        for i in range(h):
            for j in range(w):
                dx[:, i : i + sy * rows : sy, j : j + sx * columns : sx] += parts[:, i, j]
        return image

    return kernel


# ---------------------------------------------------------------- pooling


def _window(x: FloatArray, size: Pair, out: Pair) -> list[FloatArray]:
    """The h w strided views of x (B,C,H,W), each (B,C,H',W'), in row-major order of the window."""
    (h, w), (rows, columns) = size, out
    return [x[:, :, i : h * rows : h, j : w * columns : w] for i in range(h) for j in range(w)]


def _bind_max_pool2d(node: Node, shapes: Shapes) -> Kernel:
    size, (rows, columns) = _pair(node.attributes["size"]), _pair(shapes[node.output][2:])
    B, C, *_ = shapes[node.output]
    y = _first(np.empty((C, rows, columns, B), np.float32))

    def kernel(x: FloatArray) -> FloatArray:
        _largest(_window(x, size, (rows, columns)), y)
        return y

    return kernel


def _largest(parts: list[FloatArray], y: FloatArray) -> None:
    """Into y, element by element."""
    np.copyto(y, parts[0])
    for part in parts[1:]:
        np.maximum(y, part, out=y)


def _bind_max_pool2d_grad(node: Node, shapes: Shapes) -> Kernel:
    size, out = _pair(node.attributes["size"]), _pair(shapes[node.inputs[0]][2:])
    B, C, H, W = shapes[node.output]
    dx = _first(np.zeros((C, H, W, B), np.float32))  # what the windows cut off stays zero
    left, targets = _first(np.empty((C, *out, B), np.float32)), _window(dx, size, out)

    def kernel(g: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        np.copyto(left, g)
        _share(left, _window(x, size, out), y, targets)
        return dx

    return kernel


def _share(left: FloatArray, parts: list[FloatArray], y: FloatArray, targets: list[FloatArray]) -> None:
    """Into `targets`: the first part that equals the maximum y takes all that is left, and the last one the rest."""
    for part, target in zip(parts[:-1], targets, strict=False):
        np.multiply(left, part == y, out=target)
        left -= target
    np.copyto(targets[-1], left)


def _bind_places_max(node: Node, shapes: Shapes) -> Kernel:
    """max_pool2d, from (C, P, N') to an image (B,C,H',W')."""
    B, C, rows, columns = shapes[node.output]
    y = np.empty((C, rows * columns * B), np.float32)
    image = _first(y.reshape(C, rows, columns, B))

    def kernel(x: FloatArray) -> FloatArray:
        _largest(list(x.swapaxes(0, 1)), y)
        return image

    return kernel


def _bind_places_max_grad(node: Node, shapes: Shapes) -> Kernel:
    """max_pool2d_grad, from g (B,C,H',W'), x (C, P, N'), y (B,C,H',W') to (C, P, N')."""
    B, C, rows, columns = shapes[node.inputs[0]]
    h, w = _pair(node.attributes["size"])
    dx = np.empty((C, h * w, rows * columns * B), np.float32)
    left, targets = np.empty((C, rows * columns * B), np.float32), list(dx.swapaxes(0, 1))

    def kernel(g: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        np.copyto(left, last(g).reshape(C, -1))
        _share(left, list(x.swapaxes(0, 1)), last(y).reshape(C, -1), targets)
        return dx

    return kernel


def _bind_whole(node: Node, shapes: Shapes) -> Kernel:
    """From (C, P, N') to an image (B,C,H,W)."""
    B, C, H, W = shapes[node.output]
    h, w = _pair(node.attributes["places"])
    out = np.empty((C, H // h, h, W // w, w, B), np.float32)
    image = _first(out.reshape(C, H, W, B))

    def kernel(x: FloatArray) -> FloatArray:
        np.copyto(out, x.reshape(C, h, w, H // h, W // w, B).transpose(0, 3, 1, 4, 2, 5))
        return image

    return kernel


BINDERS: dict[str, Bind] = {
    "unfold": _bind_unfold,
    "product": _bind_product,
    "unfolded_dw": _bind_unfolded_dw,
    "folded_dx": _bind_folded_dx,
    "folded_dw": _bind_folded_dw,
    "matmul_last": _bind_matmul_last,
    "conv2d_dx": _bind_conv2d_dx,
    "max_pool2d": _bind_max_pool2d,
    "max_pool2d_grad": _bind_max_pool2d_grad,
    "places_max": _bind_places_max,
    "places_max_grad": _bind_places_max_grad,
    "whole": _bind_whole,
}

KEEPS_MEMORY = frozenset({"product", "folded_dx", "conv2d_dx", "max_pool2d", "max_pool2d_grad", "places_max"})
"""Ops of a graph's own tensors whose result the next step overwrites: where one is a graph's output, it is copied."""

# ---------------------------------------------------------------- the plan


def plan_images(graph: Graph) -> tuple[list[Node], Shapes]:
    """-> nodes with the image ops replaced, and the shapes of what they yield as the graph sees it."""
    plan = _Plan(graph)
    for node in graph.nodes:
        plan.add(node)
    return plan.nodes, plan.shapes


_IN_PLACES = {"max_pool2d": "places_max", "max_pool2d_grad": "places_max_grad"}


class _Plan:
    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = []
        self.shapes = dict(graph.shapes)
        self._graph = graph
        self._places = in_places(graph)
        self._to_images = {n.inputs[0] for n in graph.nodes if n.op == "reshape" and len(self.shapes[n.output]) > 2}
        self._made: dict[str, str] = {}

    def add(self, node: Node) -> None:
        if node.op == "conv2d":
            x, w, *bias = node.inputs
            places = self._places.get(node.output, ONE)
            columns = self._unfold(node, x, self.shapes[w][2:], places)
            self._put(node, "product", columns, w, *bias, places=list(places))
        elif node.op == "conv2d_dw":
            self._add_dw(node)
        elif node.op == "conv2d_dx":
            g, w = self._whole(node.inputs[0]), node.inputs[1]
            if self._folds(node):
                self._put(node, "folded_dx", self._fold(node, g, self.shapes[w][2:]), w)
            else:
                self.nodes.append(replace(node, inputs=(g, w)))
        elif node.op == "matmul" and node.output in self._to_images:
            self._put(node, "matmul_last", *node.inputs, **node.attributes)
        elif node.op in _IN_PLACES and {*node.inputs, node.output} & {*self._places}:
            self._put(node, _IN_PLACES[node.op], *node.inputs, **node.attributes)
        else:
            self.nodes.append(node)

    def _add_dw(self, node: Node) -> None:
        g, x = node.inputs
        kernel = self.shapes[node.output][2:]
        other = next((n for n in self._graph.nodes if n.op == "conv2d_dx" and n.inputs[0] == g), None)
        if other is not None and self._folds(other):
            self._put(node, "folded_dw", x, self._fold(node, self._whole(g), kernel))
        else:
            columns = self._unfold(node, x, kernel, self._places.get(g, ONE))
            self._put(node, "unfolded_dw", g, columns)

    def _folds(self, node: Node) -> bool:
        """Whether an input's gradient is a product with the columns of g."""
        O, C, h, w = self.shapes[node.inputs[1]]  # noqa: E741
        py, px = node.attributes["padding"]
        return _pair(node.attributes["stride"]) == ONE and py < h and px < w and O < C

    def _fold(self, node: Node, g: str, kernel: Shape) -> str:
        padding = [side - 1 - pad for side, pad in zip(kernel, node.attributes["padding"], strict=True)]
        return self._unfold(replace(node, attributes={"stride": [1, 1], "padding": padding}), g, kernel, ONE)

    def _unfold(self, node: Node, x: str, kernel: Shape, places: Pair) -> str:
        """Once for each input, kernel, stride, padding and order of outputs."""
        attributes = {key: list(node.attributes[key]) for key in ("stride", "padding")}
        return self._once("unfold", x, **attributes, kernel=list(kernel), places=list(places))

    def _whole(self, name: str) -> str:
        """The image, if it is in places."""
        if name not in self._places:
            return name
        whole = self._once("whole", name, places=list(self._places[name]))
        self.shapes[whole] = self.shapes[name]
        return whole

    def _once(self, op: str, x: str, **attributes: Any) -> str:
        key = f"{op} {x} {attributes}"
        if key not in self._made:
            self._made[key] = f"{x}/{op}{len(self._made)}"
            self.nodes.append(Node(op=op, inputs=(x,), output=self._made[key], attributes=attributes))
        return self._made[key]

    def _put(self, node: Node, op: str, *inputs: str, **attributes: Any) -> None:
        self.nodes.append(Node(op=op, inputs=inputs, output=node.output, attributes=attributes))


def in_places(graph: Graph) -> dict[str, Pair]:
    """Convolutions that are only pooled, without a rest, and their gradients: with the window."""
    readers: dict[str, list[Node]] = {name: [] for name in graph.shapes}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    makers = {node.output: node for node in graph.nodes}
    found: dict[str, Pair] = {}
    for node in graph.nodes:
        if node.op != "max_pool2d":
            continue
        (x,) = node.inputs
        size = _pair(node.attributes["size"])
        H, W = graph.shapes[x][2:]
        gradients = [reader.output for reader in readers[x] if reader.op == "max_pool2d_grad"]
        good = x in makers and makers[x].op == "conv2d" and size != ONE and not (H % size[0] or W % size[1])
        good = good and all(n.op in _IN_PLACES and n.attributes == node.attributes for n in readers[x])
        good = good and all(n.op in {"conv2d_dw", "conv2d_dx"} for name in gradients for n in readers[name])
        if good and not {x, *gradients} & {*graph.outputs}:
            found |= dict.fromkeys((x, *gradients), size)
    return found
