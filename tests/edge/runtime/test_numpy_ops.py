"""Every op of the flat graph, executed by numpy, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edge.runtime.graph import Graph, Node
from edge.runtime.numpy_ import Executable

ABSOLUTE = 2e-6  # float32, sums of at most a few hundred products of standard normal numbers


def run(op: str, attributes: dict[str, Any], *inputs: Tensor, out: tuple[int, ...]) -> np.ndarray[Any, Any]:
    names = tuple(f"i{k}" for k in range(len(inputs)))
    graph = Graph(
        inputs=names,
        outputs=("y",),
        shapes={name: tuple(x.shape) for name, x in zip(names, inputs, strict=True)} | {"y": out},
        constants={},
        nodes=(Node(op=op, inputs=names, output="y", attributes=attributes),),
    )
    return Executable(graph).run([x.numpy() for x in inputs])[0]


def same(op: str, attributes: dict[str, Any], want: Tensor, *inputs: Tensor) -> None:
    got = run(op, attributes, *inputs, out=tuple(want.shape))
    assert got.shape == tuple(want.shape)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=ABSOLUTE * 10)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("op", "function"),
    [("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div), ("maximum", torch.maximum)],
)
def test_binary_ops_broadcast(op: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = torch.randn(3, 1, 5), torch.rand(4, 1) + 0.5
    same(op, {}, function(a, b), a, b)


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("neg", torch.neg),
        ("exp", torch.exp),
        ("log", torch.log),
        ("sqrt", torch.sqrt),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
        ("relu", torch.relu),
        ("softmax", lambda x: torch.softmax(x, -1)),
        ("log_softmax", lambda x: torch.log_softmax(x, -1)),
    ],
)
def test_unary_ops(op: str, function: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(4, 7) + 0.1 if op in {"log", "sqrt"} else torch.randn(4, 7) * 3
    same(op, {}, function(x), x)


def test_softmax_and_sigmoid_survive_large_values() -> None:
    x = torch.tensor([[1000.0, -1000.0, 0.0]])
    for op in ("softmax", "log_softmax", "sigmoid"):
        function = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}.get(op)
        same(op, {}, function(x, -1) if function else torch.sigmoid(x), x)


def test_relu_grad() -> None:
    g, y = torch.randn(4, 5), torch.relu(torch.randn(4, 5))
    same("relu_grad", {}, g * (y > 0), g, y)


@pytest.mark.parametrize(("axes", "keepdims"), [([0], True), ([0], False), ([1, 2], True), ([0, 2], False)])
def test_reductions(axes: list[int], keepdims: bool) -> None:
    x = torch.randn(3, 4, 5)
    attributes = {"axes": axes, "keepdims": keepdims}
    same("sum", attributes, x.sum(axes, keepdim=keepdims), x)
    same("max", attributes, x.amax(axes, keepdim=keepdims), x)


@pytest.mark.parametrize("keepdims", [True, False])
def test_sum_over_the_rows_of_a_matrix(keepdims: bool) -> None:
    x = torch.randn(6, 5)
    same("sum", {"axes": [0], "keepdims": keepdims}, x.sum(0, keepdim=keepdims), x)


def test_max_grad_shares_among_ties() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [5.0, 2.0, 1.0]])
    g = torch.tensor([[4.0], [7.0]])
    same("max_grad", {"axes": [1]}, torch.tensor([[0.0, 2, 2], [7, 0, 0]]), g, x, x.amax(1, keepdim=True))


@pytest.mark.parametrize("flip_a", [False, True])
@pytest.mark.parametrize("flip_b", [False, True])
def test_products(flip_a: bool, flip_b: bool) -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    attributes = {"transpose_a": flip_a, "transpose_b": flip_b}
    stored = ((a.T if flip_a else a).contiguous(), (b.T if flip_b else b).contiguous())
    same("matmul", attributes, a @ b, *stored)
    for c in (torch.randn(5), torch.randn(3, 5)):
        same("gemm", attributes | {"beta": 1.0}, a @ b + c, *stored, c)
        same("gemm", attributes | {"beta": 0.9}, a @ b + 0.9 * c, *stored, c)


def test_shape_ops() -> None:
    x = torch.randn(2, 3, 4)
    same("reshape", {"shape": [6, 4]}, x.reshape(6, 4), x)
    same("transpose", {"perm": [2, 0, 1]}, x.permute(2, 0, 1), x)
    same("expand", {"shape": [5, 2, 3, 4]}, x.expand(5, 2, 3, 4), x)
    same("slice", {"axis": 1, "start": 1, "stop": 3}, x[:, 1:3], x)
    same("concat", {"axis": 1}, torch.cat((x, x[:, :1]), 1), x, x[:, :1].contiguous())


CONVOLUTIONS = [
    # image, kernel, stride, padding
    ((8, 8), (3, 3), (1, 1), (1, 1)),
    ((9, 7), (3, 2), (2, 1), (1, 0)),
    ((10, 11), (4, 3), (3, 2), (0, 2)),
    ((1, 128), (1, 9), (1, 4), (0, 0)),
]


@pytest.mark.parametrize(("image", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_convolution_and_its_gradients(
    image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    x, w, b = (
        torch.randn(2, 3, *image, requires_grad=True),
        torch.randn(4, 3, *kernel, requires_grad=True),
        torch.randn(4),
    )
    y = functional.conv2d(x, w, b, stride=stride, padding=padding)
    g = torch.randn_like(y)
    dx, dw = torch.autograd.grad(y, (x, w), g)
    attributes = {"stride": list(stride), "padding": list(padding)}
    x, w, y = x.detach(), w.detach(), y.detach()
    same("conv2d", attributes, y, x, w, b)
    same("conv2d", attributes, y - b[:, None, None], x, w)
    same("conv2d_dx", attributes | {"shape": list(x.shape)}, dx, g, w)
    same("conv2d_dw", attributes | {"shape": list(w.shape)}, dw, g, x)


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 2)])
def test_max_pooling_cuts_the_rest_and_gives_ties_to_the_first(size: tuple[int, int]) -> None:
    x = torch.randint(0, 4, (2, 3, 7, 8)).float().requires_grad_()  # many ties
    y = functional.max_pool2d(x, size)
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g)
    same("max_pool2d", {"size": list(size)}, y.detach(), x.detach())
    same("max_pool2d_grad", {"size": list(size)}, dx, g, x.detach(), y.detach())


@pytest.mark.parametrize("outputs", [2, 4])  # fewer than there are inputs, and more
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_that_is_only_pooled(outputs: int, kernel: int) -> None:
    """It lies in the places of the window: ties still go to the first, and its gradients are those of torch."""
    x = torch.randint(0, 3, (2, 3, 6, 8)).float().requires_grad_()  # many ties
    w = torch.randint(0, 2, (outputs, 3, kernel, kernel)).float().requires_grad_()
    pair = {"stride": [1, 1], "padding": [kernel // 2, kernel // 2]}
    y = functional.conv2d(x, w, padding=kernel // 2)
    pooled = functional.max_pool2d(y, (3, 2))
    g = torch.randn_like(pooled)
    dx, dw = torch.autograd.grad(pooled, (x, w), g)
    graph = Graph(
        inputs=("x", "w", "g"),
        outputs=("pooled", "dx", "dw"),
        shapes={"x": (2, 3, 6, 8), "w": tuple(w.shape), "g": tuple(g.shape), "y": tuple(y.shape)}
        | {"pooled": tuple(g.shape), "d": tuple(y.shape), "dx": tuple(x.shape), "dw": tuple(w.shape)},
        constants={},
        nodes=(
            Node(op="conv2d", inputs=("x", "w"), output="y", attributes=pair),
            Node(op="max_pool2d", inputs=("y",), output="pooled", attributes={"size": [3, 2]}),
            Node(op="max_pool2d_grad", inputs=("g", "y", "pooled"), output="d", attributes={"size": [3, 2]}),
            Node(op="conv2d_dx", inputs=("d", "w"), output="dx", attributes=pair | {"shape": [2, 3, 6, 8]}),
            Node(op="conv2d_dw", inputs=("d", "x"), output="dw", attributes=pair | {"shape": list(w.shape)}),
        ),
    )
    held, inputs = Executable(graph), [x.detach().numpy(), w.detach().numpy(), g.numpy()]
    found = held.run(inputs)
    held.run([1 - value for value in inputs])  # what was handed out is not overwritten by the next run
    for got, want in zip(found, (pooled.detach(), dx, dw), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=ABSOLUTE * 10)


def test_an_unknown_op_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="compile the program again"):
        run("winograd", {}, torch.zeros(1), out=(1,))


def test_a_result_outlives_the_next_run() -> None:
    """Convolutions keep their memory between runs; what `run` hands out is not overwritten by the next."""
    graph = Graph(
        inputs=("x", "w"),
        outputs=("y", "flat"),
        shapes={"x": (1, 1, 2, 2), "w": (1, 1, 1, 1), "y": (1, 1, 2, 2), "flat": (4,)},
        constants={},
        nodes=(
            Node(op="conv2d", inputs=("x", "w"), output="y", attributes={"stride": [1, 1], "padding": [0, 0]}),
            Node(op="reshape", inputs=("y",), output="flat", attributes={"shape": [4]}),
        ),
    )
    held, x, w = (
        Executable(graph),
        np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2),
        np.ones((1, 1, 1, 1), np.float32),
    )
    first = held.run([x, w])
    held.run([x + 1, w])
    np.testing.assert_array_equal(first[0], x)
    np.testing.assert_array_equal(first[1], x.ravel())
