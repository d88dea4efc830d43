"""One small function an aten op: how torch's traced step is said in the ops of `edge.runtime.graph`.

A handler takes the builder and the aten op's arguments, tensors given by their names in the flat graph, and returns
the result's name (a tuple of names where the op has several results, None for one that is not computed).

Letters: B batch, C and O channels, (H, W) image, (h, w) window.
"""

# ruff: noqa: PLR0917 - a handler has the arguments of its aten op

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from torch.fx import GraphModule
from torch.fx import Node as FxNode

from edge.runtime.graph import Shape
from trainer.compile.builder import Builder

Result: TypeAlias = str | tuple[str | None, ...]
Handler: TypeAlias = Callable[..., Result]
H = TypeVar("H", bound=Callable[..., Result])

SUPPORTED = (
    "Linear, Conv1d and Conv2d (groups 1, dilation 1), ReLU, Tanh, Sigmoid, GELU(approximate='tanh'), MaxPool and "
    "AvgPool (stride = kernel, no padding), adaptive average pooling to 1, Flatten, LayerNorm, sums and products"
)


class Unsupported(ValueError):  # noqa: N818 - named by what it says; the caller changes the module
    """The module cannot be said in the op table: change the module."""


def lower_trace(trace: GraphModule, b: Builder, inputs: Sequence[str]) -> list[str]:
    """Append the trace's nodes to the builder, its placeholders being `inputs`; -> names of its outputs, in order."""
    trace.graph.eliminate_dead_code()  # such as the unused indices of a 1-D pooling
    values: dict[FxNode, Any] = {}
    left = iter(inputs)
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(left)
        elif node.op == "get_attr":
            values[node] = b.constant(getattr(trace, node.target).detach().numpy())
        elif node.op == "call_function":
            values[node] = _lower_node(b, node, values)
        else:
            return [str(value) for value in _look_up(node.args[0], values)]
    raise AssertionError("a trace ends with its output")


def _look_up(argument: Any, values: dict[FxNode, Any]) -> Any:
    if isinstance(argument, FxNode):
        return values[argument]
    if isinstance(argument, list | tuple):
        return [_look_up(item, values) for item in argument]
    return argument


def _lower_node(b: Builder, node: FxNode, values: dict[FxNode, Any]) -> Any:
    arguments = [_look_up(argument, values) for argument in node.args]
    if node.target is operator.getitem:
        return arguments[0][arguments[1]]
    handler = _HANDLERS.get(str(node.target))
    if handler is None:
        raise Unsupported(f"{node.target} has no counterpart in the op table{_where(node)}. Supported: {SUPPORTED}")
    keywords = {key: _look_up(value, values) for key, value in node.kwargs.items() if key not in _MEMORY}
    try:
        return handler(b, *arguments, **keywords)
    except (Unsupported, ValueError, TypeError) as problem:
        raise Unsupported(f"{node.target}{_where(node)}: {problem}. Supported: {SUPPORTED}") from problem


_MEMORY = frozenset({"pin_memory", "memory_format", "layout", "device", "dtype"})
"""Keyword arguments about where a tensor lies: everything here is float32, row-major."""


def _where(node: FxNode) -> str:
    trace = node.meta.get("stack_trace") or node.stack_trace
    if not trace:
        return ""
    line = trace.strip().splitlines()[-1].strip()
    return f" (at `{line}`)"


_HANDLERS: dict[str, Handler] = {}


def _handles(*names: str) -> Callable[[H], H]:
    def register(handler: H) -> H:
        _HANDLERS.update(dict.fromkeys((f"aten.{name}" for name in names), handler))
        return handler

    return register


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Unsupported(message)


# ---------------------------------------------------------------- elementwise


def _tensor(b: Builder, value: Any) -> str:
    """A tensor's name, or a new scalar constant."""
    return value if isinstance(value, str) else b.scalar(float(value))


def _binary(op: str) -> Handler:
    def handler(b: Builder, x: Any, y: Any, *, alpha: float = 1) -> str:
        scaled = _tensor(b, y) if alpha == 1 else b.op("mul", _tensor(b, y), b.scalar(float(alpha)))
        return b.op(op, _tensor(b, x), scaled)

    return handler


def _unary(op: str) -> Handler:
    return lambda b, x: b.op(op, x)


for _name in ("add", "sub", "mul", "div"):
    _handles(f"{_name}.Tensor", f"{_name}.Scalar")(_binary(_name))
_handles("maximum.default")(_binary("maximum"))
for _name in ("neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"):
    _handles(f"{_name}.default")(_unary(_name))


@_handles("rsub.Scalar", "rsub.Tensor")
def _rsub(b: Builder, x: str, y: Any) -> str:
    return b.op("sub", _tensor(b, y), x)


@_handles("reciprocal.default")
def _reciprocal(b: Builder, x: str) -> str:
    return b.op("div", b.scalar(1.0), x)


@_handles("pow.Tensor_Scalar")
def _pow(b: Builder, x: str, exponent: float) -> str:
    _require(exponent in {1, 2, 3}, f"the power {exponent}; write powers 1, 2 and 3, or use sqrt and exp")
    y = x
    for _ in range(int(exponent) - 1):
        y = b.op("mul", y, x)
    return y


@_handles("threshold_backward.default")
def _threshold_backward(b: Builder, g: str, y: str, threshold: float) -> str:
    _require(threshold == 0, f"a threshold of {threshold}")
    return b.op("relu_grad", g, y)


@_handles("tanh_backward.default")
def _tanh_backward(b: Builder, g: str, y: str) -> str:
    return b.op("mul", g, b.op("sub", b.scalar(1.0), b.op("mul", y, y)))


@_handles("sigmoid_backward.default")
def _sigmoid_backward(b: Builder, g: str, y: str) -> str:
    return b.op("mul", g, b.op("mul", y, b.op("sub", b.scalar(1.0), y)))


_GELU_SLOPE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715  # the tanh approximation's two numbers (arXiv 1606.08415)


def _gelu_tanh(b: Builder, x: str, approximate: str) -> str:
    """tanh(slope (x + cube x^3))."""
    _require(approximate == "tanh", "the exact GELU needs erf, which .tflite has not; use nn.GELU(approximate='tanh')")
    inner = b.op("mul", x, b.op("add", b.scalar(1.0), b.op("mul", b.op("mul", x, x), b.scalar(_GELU_CUBE))))
    return b.op("tanh", b.op("mul", inner, b.scalar(_GELU_SLOPE)))


@_handles("gelu.default")
def _gelu(b: Builder, x: str, *, approximate: str = "none") -> str:
    half = b.op("mul", x, b.scalar(0.5))
    return b.op("mul", half, b.op("add", b.scalar(1.0), _gelu_tanh(b, x, approximate)))


@_handles("gelu_backward.default")
def _gelu_backward(b: Builder, g: str, x: str, *, approximate: str = "none") -> str:
    t = _gelu_tanh(b, x, approximate)
    slope = b.op("mul", b.scalar(3 * _GELU_SLOPE * _GELU_CUBE), b.op("mul", x, x))
    slope = b.op("mul", b.op("mul", x, b.op("add", slope, b.scalar(_GELU_SLOPE))), b.scalar(0.5))
    bend = b.op("mul", slope, b.op("sub", b.scalar(1.0), b.op("mul", t, t)))
    level = b.op("mul", b.op("add", t, b.scalar(1.0)), b.scalar(0.5))
    return b.op("mul", g, b.op("add", level, bend))


@_handles("_log_softmax.default")
def _log_softmax(b: Builder, x: str, axis: int, half: bool) -> str:
    del half
    _require(axis in {-1, len(b.shape(x)) - 1}, "a softmax over another axis than the last")
    return b.op("log_softmax", x)


@_handles("_softmax.default")
def _softmax(b: Builder, x: str, axis: int, half: bool) -> str:
    return b.op("exp", _log_softmax(b, x, axis, half))  # shares the log_softmax of the loss, or becomes `softmax`


@_handles("_log_softmax_backward_data.default")
def _log_softmax_backward(b: Builder, g: str, y: str, axis: int, dtype: Any) -> str:
    del axis, dtype
    total = b.op("sum", g, axes=[len(b.shape(g)) - 1], keepdims=True)
    return b.op("sub", g, b.op("mul", b.op("exp", y), total))


# ---------------------------------------------------------------- constants and shapes


def _filled(b: Builder, shape: Shape, value: float) -> str:
    scalar = b.scalar(value)
    return b.op("expand", scalar, shape=list(shape)) if shape else scalar


@_handles("ones_like.default")
def _ones_like(b: Builder, x: str) -> str:
    return _filled(b, b.shape(x), 1.0)


@_handles("zeros_like.default")
def _zeros_like(b: Builder, x: str) -> str:
    return _filled(b, b.shape(x), 0.0)


@_handles("zeros.default")
def _zeros(b: Builder, shape: Sequence[int]) -> str:
    return _filled(b, tuple(shape), 0.0)


@_handles("full.default", "new_full.default")
def _full(b: Builder, *arguments: Any) -> str:
    shape, value = arguments[-2:]
    return _filled(b, tuple(shape), float(value))


@_handles("scalar_tensor.default")
def _scalar_tensor(b: Builder, value: float) -> str:
    return b.scalar(float(value))


@_handles("detach.default", "alias.default", "clone.default", "lift_fresh_copy.default", "contiguous.default")
def _same(b: Builder, x: str) -> str:
    del b
    return x


@_handles("view.default", "_unsafe_view.default", "reshape.default", "_reshape_alias.default", "view_copy.default")
def _view(b: Builder, x: str, shape: Sequence[int], *rest: Any) -> str:
    del rest
    known = math.prod(side for side in shape if side != -1)
    size = math.prod(b.shape(x))
    return b.op("reshape", x, shape=[size // known if side == -1 else side for side in shape])


@_handles("squeeze.dim", "squeeze.dims", "squeeze.default")
def _squeeze(b: Builder, x: str, axes: int | Sequence[int] | None = None) -> str:
    shape = b.shape(x)
    asked = range(len(shape)) if axes is None else _axes(axes, len(shape))
    return b.op("reshape", x, shape=[side for axis, side in enumerate(shape) if side != 1 or axis not in asked])


@_handles("unsqueeze.default")
def _unsqueeze(b: Builder, x: str, axis: int) -> str:
    shape = list(b.shape(x))
    shape.insert(axis % (len(shape) + 1), 1)
    return b.op("reshape", x, shape=shape)


@_handles("t.default")
def _t(b: Builder, x: str) -> str:
    return b.op("transpose", x, perm=[1, 0]) if len(b.shape(x)) == 2 else x


@_handles("transpose.int")
def _swap(b: Builder, x: str, first: int, second: int) -> str:
    perm = list(range(len(b.shape(x))))
    perm[first], perm[second] = perm[second], perm[first]
    return b.op("transpose", x, perm=perm)


@_handles("permute.default")
def _permute(b: Builder, x: str, perm: Sequence[int]) -> str:
    return b.op("transpose", x, perm=_axes(perm, len(perm)))


@_handles("expand.default")
def _expand(b: Builder, x: str, shape: Sequence[int]) -> str:
    old = (1,) * (len(shape) - len(b.shape(x))) + b.shape(x)
    return b.op("expand", x, shape=[was if side == -1 else side for side, was in zip(shape, old, strict=True)])


@_handles("cat.default")
def _cat(b: Builder, parts: Sequence[str], axis: int = 0) -> str:
    return b.op("concat", *parts, axis=axis % len(b.shape(parts[0])))


@_handles("slice.Tensor")
def _slice(b: Builder, x: str, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> str:
    _require(step == 1, f"a slice of step {step}")
    axis %= len(b.shape(x))
    first, last, _ = slice(start, stop).indices(b.shape(x)[axis])
    return b.op("slice", x, axis=axis, start=first, stop=last)


@_handles("slice_backward.default")
def _slice_backward(b: Builder, g: str, shape: Sequence[int], axis: int, start: int, stop: int, step: int) -> str:
    _require(step == 1, f"a slice of step {step}")
    axis %= len(shape)
    first, last, _ = slice(start, stop).indices(shape[axis])
    return _padded(b, g, axis, first, shape[axis] - last)


def _padded(b: Builder, x: str, axis: int, before: int, after: int) -> str:
    """Zeros before and after, along one axis."""

    def zeros(side: int) -> list[str]:
        shape = b.shape(x)
        return [_filled(b, (*shape[:axis], side, *shape[axis + 1 :]), 0.0)] if side else []

    parts = [*zeros(before), x, *zeros(after)]
    return b.op("concat", *parts, axis=axis) if len(parts) > 1 else x


# ---------------------------------------------------------------- reductions and products


def _axes(axes: int | Sequence[int], rank: int) -> list[int]:
    return [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]


@_handles("sum.default", "sum.dim_IntList")
def _sum(b: Builder, x: str, axes: Sequence[int] | None = None, keepdims: bool = False) -> str:
    rank = len(b.shape(x))
    asked = sorted(_axes(axes, rank)) if axes else list(range(rank))
    return b.op("sum", x, axes=asked, keepdims=keepdims) if asked else x


@_handles("mean.default", "mean.dim")
def _mean(b: Builder, x: str, axes: Sequence[int] | None = None, keepdims: bool = False) -> str:
    total = _sum(b, x, axes, keepdims)
    count = math.prod(b.shape(x)) // math.prod(b.shape(total))
    return b.op("mul", total, b.scalar(1.0 / count))


@_handles("amax.default")
def _amax(b: Builder, x: str, axes: Sequence[int], keepdims: bool = False) -> str:
    return b.op("max", x, axes=sorted(_axes(axes, len(b.shape(x)))), keepdims=keepdims)


@_handles("mm.default")
def _mm(b: Builder, x: str, y: str) -> str:
    return b.op("matmul", x, y, transpose_a=False, transpose_b=False)


@_handles("addmm.default")
def _addmm(b: Builder, c: str, x: str, y: str, *, beta: float = 1, alpha: float = 1) -> str:
    _require(beta == 1 and alpha == 1, "a scaled addmm")
    return b.op("add", _mm(b, x, y), c)


# ---------------------------------------------------------------- convolution and pooling; 1-D as 2-D of height 1


def _flat_image(b: Builder, x: str) -> str:
    """(B, C, W) -> (B, C, 1, W)."""
    shape = b.shape(x)
    return b.op("reshape", x, shape=[*shape[:2], 1, shape[2]])


def _lift(b: Builder, rank: int, *tensors: str) -> list[str]:
    return [_flat_image(b, x) if rank == 3 else x for x in tensors]


def _drop(b: Builder, rank: int, y: str) -> str:
    shape = b.shape(y)
    return b.op("reshape", y, shape=[*shape[:2], shape[3]]) if rank == 3 else y


def _convolution_attributes(
    rank: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool, groups: int
) -> dict[str, list[int]]:
    _require(not transposed, "a transposed convolution")
    _require(groups == 1, f"a convolution in {groups} groups")
    _require(set(dilation) == {1}, f"a convolution with dilation {list(dilation)}")
    dims = rank - 2
    _require(dims in {1, 2}, f"a convolution over {dims} dimensions")
    stride, padding = (list(v) * dims if len(v) == 1 else list(v) for v in (stride, padding))
    return {"stride": [1, *stride][-2:], "padding": [0, *padding][-2:]}


@_handles("convolution.default")
def _convolution(
    b: Builder, x: str, w: str, bias: str | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int,
) -> str:  # fmt: skip
    del output_padding
    rank = len(b.shape(x))
    attributes = _convolution_attributes(rank, stride, padding, dilation, transposed, groups)
    image, kernel = _lift(b, rank, x, w)
    return _drop(b, rank, b.op("conv2d", image, kernel, *([bias] if bias else []), **attributes))


@_handles("convolution_backward.default")
def _convolution_backward(
    b: Builder, g: str, x: str, w: str, bias_sizes: Any, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int, wanted: list[bool],
) -> Result:  # fmt: skip
    del bias_sizes, output_padding
    rank = len(b.shape(x))
    attributes = _convolution_attributes(rank, stride, padding, dilation, transposed, groups)
    gradient, image, kernel = _lift(b, rank, g, x, w)
    dx = dw = db = None
    if wanted[0]:
        dx = _drop(b, rank, b.op("conv2d_dx", gradient, kernel, **attributes, shape=list(b.shape(image))))
    if wanted[1]:
        dw = _drop(b, rank, b.op("conv2d_dw", gradient, image, **attributes, shape=list(b.shape(kernel))))
    if wanted[2]:
        db = b.op("sum", gradient, axes=[0, 2, 3], keepdims=False)
    return dx, dw, db


def _check_window(size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    pair = list(size) * 2 if len(size) == 1 else list(size)
    strides = list(stride) * 2 if len(stride) == 1 else list(stride)
    _require(not strides or strides == pair, f"pooling with kernel {pair} and stride {strides}: they must be equal")
    _require(not any(padding), f"pooling with padding {list(padding)}")
    return pair


@_handles("max_pool2d_with_indices.default")
def _max_pool(
    b: Builder, x: str, size: list[int], stride: list[int] = [], padding: list[int] = [], dilation: list[int] = [],  # noqa: B006
    ceil: bool = False,
) -> Result:  # fmt: skip
    _require(not ceil and set(dilation) <= {1}, "pooling with ceil_mode or dilation")
    return b.op("max_pool2d", x, size=_check_window(size, stride, padding)), None


@_handles("max_pool2d_with_indices_backward.default")
def _max_pool_backward(
    b: Builder, g: str, x: str, size: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil: bool,
    indices: Any,
) -> str:  # fmt: skip
    del dilation, ceil, indices  # refused by the forward op already
    pair = _check_window(size, stride, padding)
    return b.op("max_pool2d_grad", g, x, b.op("max_pool2d", x, size=pair), size=pair)


@_handles("avg_pool2d.default")
def _avg_pool(
    b: Builder, x: str, size: list[int], stride: list[int] = [], padding: list[int] = [], ceil: bool = False,  # noqa: B006
    include_pad: bool = True, divisor: int | None = None,
) -> str:  # fmt: skip
    """Sums over reshaped views of rank 2 and 3: every writer has them."""
    del include_pad
    _require(not ceil and divisor is None, "average pooling with ceil_mode or a divisor")
    h, w = _check_window(size, stride, padding)
    B, C, H, W = b.shape(x)
    rows, columns = H // h, W // w
    x = _cut(b, _cut(b, x, 2, rows * h), 3, columns * w)
    x = b.op("reshape", x, shape=[B * C * rows, h, columns * w])
    x = b.op("sum", x, axes=[1], keepdims=False)  # (B C H', W)
    x = b.op("reshape", x, shape=[B * C * rows * columns, w])
    x = b.op("sum", x, axes=[1], keepdims=False)  # (B C H' W',)
    return b.op("mul", b.op("reshape", x, shape=[B, C, rows, columns]), b.scalar(1.0 / (h * w)))


def _cut(b: Builder, x: str, axis: int, side: int) -> str:
    return x if b.shape(x)[axis] == side else b.op("slice", x, axis=axis, start=0, stop=side)


@_handles("avg_pool2d_backward.default")
def _avg_pool_backward(
    b: Builder, g: str, x: str, size: list[int], stride: list[int], padding: list[int], ceil: bool, include_pad: bool,
    divisor: int | None,
) -> str:  # fmt: skip
    del ceil, include_pad, divisor  # refused by the forward op already
    h, w = _check_window(size, stride, padding)
    B, C, H, W = b.shape(x)
    rows, columns = b.shape(g)[2:]
    g = b.op("mul", g, b.scalar(1.0 / (h * w)))
    g = b.op("expand", b.op("reshape", g, shape=[B * C * rows * columns, 1]), shape=[B * C * rows * columns, w])
    g = b.op("expand", b.op("reshape", g, shape=[B * C * rows, 1, columns * w]), shape=[B * C * rows, h, columns * w])
    g = b.op("reshape", g, shape=[B, C, rows * h, columns * w])
    return _padded(b, _padded(b, g, 2, 0, H - rows * h), 3, 0, W - columns * w)


# ---------------------------------------------------------------- layer normalisation


@_handles("native_layer_norm.default")
def _layer_norm(b: Builder, x: str, sides: list[int], w: str | None, bias: str | None, epsilon: float) -> Result:
    axes = list(range(len(b.shape(x)) - len(sides), len(b.shape(x))))
    mean = _mean(b, x, axes, keepdims=True)
    centred = b.op("sub", x, mean)
    variance = _mean(b, b.op("mul", centred, centred), axes, keepdims=True)
    scale = b.op("div", b.scalar(1.0), b.op("sqrt", b.op("add", variance, b.scalar(epsilon))))
    y = b.op("mul", centred, scale)
    y = b.op("mul", y, w) if w else y
    return (b.op("add", y, bias) if bias else y), mean, scale


@_handles("native_layer_norm_backward.default")
def _layer_norm_backward(
    b: Builder, g: str, x: str, sides: list[int], mean: str, scale: str, w: str | None, bias: str | None,
    wanted: list[bool],
) -> Result:  # fmt: skip
    """The input's gradient is dx = scale (h - mean(h) - xhat mean(h xhat)) with h = g w, xhat = (x - mean) scale."""
    del bias
    rank = len(b.shape(x))
    axes, batch = list(range(rank - len(sides), rank)), list(range(rank - len(sides)))
    normal = b.op("mul", b.op("sub", x, mean), scale)
    h = b.op("mul", g, w) if w else g
    dx = dw = db = None
    if wanted[0]:
        along = b.op("mul", normal, _mean(b, b.op("mul", h, normal), axes, keepdims=True))
        dx = b.op("mul", scale, b.op("sub", b.op("sub", h, _mean(b, h, axes, keepdims=True)), along))
    if wanted[1]:
        dw = b.op("sum", b.op("mul", g, normal), axes=batch, keepdims=False)
    if wanted[2]:
        db = b.op("sum", g, axes=batch, keepdims=False)
    return dx, dw, db
