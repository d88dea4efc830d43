"""What the compiler makes of torch modules: the right step, few nodes, and clear refusals."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported

import numpy as np
import onnxruntime as ort
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from edge.runtime.check import check_graph
from edge.runtime.graph import FloatArray, Graph, parse_graph
from edge.runtime.numpy_ import Executable
from trainer.compile.aten import Unsupported
from trainer.compile.lower import lower
from trainer.compile.onnx_writer import write_onnx
from trainer.compile.tflite_writer import write_tflite
from trainer.models import build_model

B, L, LR = 6, 4, 0.1


class Residual(nn.Module):
    """A residual sum, a user's own expressions, a parameter nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, L)
        self.unused = nn.Parameter(torch.ones(3))
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(x + torch.tanh(self.first(x)) * self.gain - (x**2).mean(-1, keepdim=True) / 2)
        return y


class Patches(nn.Module):
    """Slices and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, L)
        self.first = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        y: Tensor = self.last(torch.cat((h[:, 4:], h[:, :4]), 1))
        return y


class PooledAndNot(nn.Module):
    """A convolution that is pooled and read by something else besides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3)
        self.last = nn.Linear(15, L)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        y: Tensor = self.last(torch.cat((torch.max_pool2d(h, 2).flatten(1), h.mean((2, 3))), 1))
        return y


def image_net(*layers: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, L))


def cases() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(5)
    return {
        "residual": (Residual(), (8,)),
        "slices": (Patches(), (12,)),
        "layer norm": (nn.Sequential(nn.Linear(8, 10), nn.LayerNorm(10), nn.ReLU(), nn.Linear(10, L)), (8,)),
        "gelu": (nn.Sequential(nn.Linear(8, 10), nn.GELU(approximate="tanh"), nn.Linear(10, L)), (8,)),
        "sigmoid": (nn.Sequential(nn.Linear(8, 10, bias=False), nn.Sigmoid(), nn.Linear(10, L)), (8,)),
        "average pool": (image_net(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), features=12), (2, 7, 6)),
        "average pool 1-D": (image_net(nn.Conv1d(2, 3, 3), nn.AvgPool1d(2), features=9), (2, 9)),
        "adaptive average": (image_net(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), features=3), (2, 7, 6)),
        "pooled": (image_net(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 4, (1, 2)), features=8), (2, 7, 6)),
        "relu and pooled": (image_net(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), features=12), (2, 7, 6)),
        "pooled twice": (
            image_net(
                nn.Conv2d(2, 6, 3, padding=1),
                nn.MaxPool2d(2),
                nn.Conv2d(6, 4, 3, padding=1),
                nn.MaxPool2d((1, 2)),
                nn.Conv2d(4, 5, 2, stride=2),
                features=10,
            ),
            (2, 8, 8),
        ),
        "pooled and not": (PooledAndNot(), (2, 6, 6)),
        "no bias": (image_net(nn.Conv2d(2, 3, (3, 2), bias=False), nn.MaxPool2d(2), features=12), (2, 7, 6)),
        "three convolutions": (
            image_net(
                nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2), features=18
            ),
            (1, 6, 6),
        ),
    }


def on_numpy(graph: Graph, inputs: Sequence[FloatArray]) -> list[FloatArray]:
    return Executable(graph).run(inputs)


def on_onnx(graph: Graph, inputs: Sequence[FloatArray]) -> list[FloatArray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(write_onnx(graph), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(zip(graph.inputs, inputs, strict=True)))]


def on_tflite(graph: Graph, inputs: Sequence[FloatArray]) -> list[FloatArray]:
    interpreter = Interpreter(model_content=write_tflite(graph), num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("run", [on_numpy, on_onnx, on_tflite])
@pytest.mark.parametrize("case", list(cases()))
def test_the_lowered_step_is_torchs(case: str, run: Callable[[Graph, Sequence[FloatArray]], list[FloatArray]]) -> None:
    module, shape = cases()[case]
    train, predict = lower(module, input_shape=shape, labels=L, batch=B, optimiser="sgd", predict_batch=B)
    x, target = torch.randn(B, *shape), torch.rand(B, L)
    scores = module(x)
    loss = -(target * torch.log_softmax(scores, -1)).sum() / B
    gradients = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
    stepped = [p - LR * g for p, g in zip(module.parameters(), gradients, strict=True)]
    held = [p.detach().numpy() for p in module.parameters()]
    *new, got_loss, logits = run(train, [*held, x.numpy(), target.numpy(), np.array(LR, np.float32)])
    np.testing.assert_allclose(
        np.concatenate([np.ravel(p) for p in new]), parameters_to_vector(stepped).detach().numpy(), rtol=0, atol=2e-6
    )
    assert abs(float(got_loss) - float(loss.detach())) < 1e-5
    wanted = torch.softmax(scores, -1).detach().numpy()
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(predict, [*held, x.numpy()])[0], wanted, rtol=0, atol=1e-6)


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def test_the_dense_step_has_few_nodes() -> None:
    """One product a weight forwards, one backwards, one in between: no transposes, no separate updates."""
    module = build_model("mlp", input_shape=None, labels=None, seed=0)
    train, predict = lower(module, input_shape=(1, 28, 28), labels=10, batch=32, optimiser="sgd")
    counted = ops(train)
    assert (counted["gemm"], counted["matmul"], counted["transpose"]) == (4, 1, 0)
    assert len(train.nodes) <= 22
    assert ops(predict) == Counter({"gemm": 2, "reshape": 1, "relu": 1, "softmax": 1})


def test_the_convolutional_step_has_no_gradient_on_its_input() -> None:
    module = build_model("cnn", input_shape=None, labels=None, seed=0)
    train, _ = lower(module, input_shape=(1, 28, 28), labels=10, batch=32, optimiser="sgd")
    counted = ops(train)
    assert (counted["conv2d"], counted["conv2d_dx"], counted["conv2d_dw"]) == (2, 1, 2)
    assert sum(p.numel() for p in module.parameters()) == 12_544


def order(graph: Graph, *kinds: str) -> list[str]:
    return [node.op for node in graph.nodes if node.op in kinds]


def test_what_can_be_done_behind_a_pooling_is() -> None:
    """On a tensor smaller by the window: bias, relu, relu's mask, the bias's gradient."""
    module, shape = cases()["relu and pooled"]
    train, predict = lower(module, input_shape=shape, labels=L, batch=B, optimiser="sgd")
    assert order(predict, "conv2d", "max_pool2d", "add", "relu") == ["conv2d", "max_pool2d", "add", "relu"]
    assert order(train, "relu_grad", "max_pool2d_grad") == ["relu_grad", "max_pool2d_grad"]
    large = [node.op for node in train.nodes if train.shapes[node.output] == (B, 3, 5, 4)]
    assert large == ["conv2d", "max_pool2d_grad"]
    summed = [train.shapes[node.inputs[0]] for node in train.nodes if node.op == "sum"]
    assert (B, 3, 2, 2) in summed


def test_a_bias_that_another_reader_wants_stays_before_the_pooling() -> None:
    module, shape = cases()["pooled and not"]
    train, _ = lower(module, input_shape=shape, labels=L, batch=B, optimiser="sgd")
    counted = ops(train)
    assert (counted["conv2d"], counted["max_pool2d"], counted["relu"]) == (1, 1, 1)
    assert next(len(node.inputs) for node in train.nodes if node.op == "conv2d") == 3


def test_reshapes_of_1d_convolutions_meet_and_cancel() -> None:
    module = build_model("har-cnn", input_shape=None, labels=None, seed=0)
    _, predict = lower(module, input_shape=(9, 128), labels=6, batch=32, optimiser="momentum")
    counted = ops(predict)
    assert counted["reshape"] == 4  # x, two kernels, the flattening
    assert counted["transpose"] == counted["expand"] == 0


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
def test_a_graph_survives_its_text_and_the_check(optimiser: str) -> None:
    module = build_model("har-cnn", input_shape=None, labels=None, seed=0)
    for graph in lower(module, input_shape=(9, 128), labels=6, batch=4, optimiser=optimiser):  # type: ignore[arg-type]
        again = parse_graph(graph.to_json())
        check_graph(again)
        assert again.to_json() == graph.to_json()
        assert again.nodes == graph.nodes


REFUSED = {
    "running statistics": (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, L)), "running statistics"),
    "random numbers": (nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, L)), "random numbers"),
    "exact gelu": (nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, L)), "approximate='tanh'"),
    "unknown op": (
        nn.Sequential(nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, L)),
        r"aten\.softplus.*Supported: Linear",
    ),
    "groups": (nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 4, 4, groups=2), nn.Flatten()), "2 groups"),
    "dilation": (nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 1, 3, dilation=2), nn.Flatten()), "dilation"),
    "overlapping windows": (
        nn.Sequential(nn.Linear(8, 9), nn.Unflatten(1, (1, 9)), nn.MaxPool1d(3, stride=2), nn.Flatten()),
        "must be equal",
    ),
    "labels": (nn.Linear(8, L + 1), "not scores of 4 labels"),
    "input": (nn.Linear(9, L), r"does not take an input of shape \(B, 8\)"),
    "doubles": (nn.Linear(8, L).double(), "float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compiled_says_why(case: str) -> None:
    module, reason = REFUSED[case]
    with pytest.raises(Unsupported, match=reason):
        lower(module, input_shape=(8,), labels=L, batch=B, optimiser="sgd")
