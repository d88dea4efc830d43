"""A torch module -> the flat graphs of one training step and of prediction.

The step's loss is the soft-target cross entropy every method shares (METHODS: -(1/B) sum t log p), or for a critic the
squared error (1/B) sum w (v - t)^2 / 2 of target rows (t, w). `make_fx` traces torch's own gradient of it, so the
derivatives are torch's; each aten op of the trace becomes ops of `edge.runtime.graph` by one small function of the
table in `trainer.compile.aten`.

Letters: B batch, L labels, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx

from edge.runtime.graph import Graph
from edge.wire.manifest import LOSSES
from edge.wire.manifest import Tensor as Layout
from trainer.compile.aten import Unsupported, lower_trace
from trainer.compile.builder import Builder
from trainer.compile.optimise import Optimiser, append_update, optimiser_state
from trainer.compile.simplify import simplify

PREDICT_BATCH = 64
CROSS_ENTROPY, SQUARED_ERROR = LOSSES

_STATEFUL: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.batchnorm._NormBase, "it keeps running statistics, which no method exchanges"),  # noqa: SLF001
    (nn.modules.dropout._DropoutNd, "it needs random numbers inside the step, which the runtimes do not draw"),  # noqa: SLF001
    (nn.RNNBase, "its loop is not a flat graph of static shape"),
)


def lower(
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    labels: int,
    batch: int,
    optimiser: Optimiser,
    predict_batch: int = PREDICT_BATCH,
    loss: str = CROSS_ENTROPY,
    clip: float = 0.0,
) -> tuple[Graph, Graph]:
    """-> (train graph, predict graph) of `module`, whose input is (B, *input_shape) and output (B, L) scores.

    With `clip` > 0 the norm of the whole gradient is at most that.
    Raises `Unsupported` (a ValueError) that names what cannot be lowered and what can.
    """
    _refuse_stateful(module)
    _check_scores(module, input_shape, labels)
    if clip and optimiser == "sgd":
        raise Unsupported("a clipped gradient needs momentum or adam: plain sgd's step has no gradient of its own")
    train = _lower_train(module, input_shape, batch, LOSS_GRAPHS[loss](batch, labels), optimiser=optimiser, clip=clip)
    return train, _lower_predict(module, input_shape, predict_batch, loss)


def layout(module: nn.Module) -> tuple[Layout, ...]:
    """The module's parameters in the order of the flat vector."""
    return tuple(Layout(name=name, shape=tuple(p.shape)) for name, p in module.named_parameters())


def _refuse_stateful(module: nn.Module) -> None:
    for name, part in module.named_modules():
        for kind, reason in _STATEFUL:
            if isinstance(part, kind):
                raise Unsupported(f"{type(part).__name__} ({name or 'the module itself'}) cannot be compiled: {reason}")
    buffers = [name for name, _ in module.named_buffers()]
    if buffers:
        raise Unsupported(f"buffers cannot be compiled (only parameters travel): {', '.join(buffers)}")
    if not list(module.parameters()):
        raise Unsupported("the module has no parameters: a trainable module has at least one layer with weights")
    wrong = [name for name, p in module.named_parameters() if p.dtype != torch.float32 or not p.requires_grad]
    if wrong:
        raise Unsupported(f"every parameter is a trainable float32 tensor; these are not: {', '.join(wrong)}")


def _check_scores(module: nn.Module, input_shape: tuple[int, ...], labels: int) -> None:
    try:
        with torch.no_grad():
            scores = module(torch.zeros(2, *input_shape))
    except RuntimeError as problem:
        raise Unsupported(
            f"the module does not take an input of shape (B, {_sides(input_shape)}): {problem}"
        ) from problem
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (2, labels):
        found = tuple(scores.shape[1:]) if isinstance(scores, Tensor) else type(scores).__name__
        raise Unsupported(
            f"the module yields {found} a sample, not scores of {labels} labels: change --labels or its last layer"
        )


def _sides(shape: tuple[int, ...]) -> str:
    return ", ".join(str(side) for side in shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    width: int
    """Of a target's row."""
    of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(scores (B, L), target (B, width)) -> loss (), logits (B, L)."""


def _cross_entropy(batch: int, labels: int) -> _Loss:
    def loss(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(scores, dim=-1)
        return ((target * (-1.0 / batch)) * log_p).sum(), log_p.exp()

    return _Loss(width=labels, of=loss)


def _squared_error(batch: int, labels: int) -> _Loss:
    def loss(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        error = values - target[:, :labels]
        return ((target[:, labels:] * (0.5 / batch)) * (error * error)).sum(), values

    return _Loss(width=2 * labels, of=loss)


LOSS_GRAPHS: dict[str, Callable[[int, int], _Loss]] = {CROSS_ENTROPY: _cross_entropy, SQUARED_ERROR: _squared_error}


def _lower_train(
    module: nn.Module, input_shape: tuple[int, ...], batch: int, kind: _Loss, *, optimiser: Optimiser, clip: float
) -> Graph:
    parameter_names = [name for name, _ in module.named_parameters()]
    values = [p.detach() for _, p in module.named_parameters()]

    def loss(
        parameters: list[Tensor], x: Tensor, target: Tensor, scale: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        scores = functional_call(module, dict(zip(parameter_names, parameters, strict=True)), (x,))
        value, logits = kind.of(scores, target)
        return value * scale, (value, logits)

    def step(parameters: list[Tensor], x: Tensor, target: Tensor, scale: Tensor) -> list[Tensor]:
        gradients, (_, (value, logits)) = grad_and_value(loss, has_aux=True)(parameters, x, target, scale)
        return [*gradients, value, logits]

    trace = _trace(step, values, torch.zeros(batch, *input_shape), torch.zeros(batch, kind.width), torch.ones(()))
    state = optimiser_state(optimiser, layout(module))
    builder = Builder()
    held = [builder.input(f"state/{t.name}", t.shape) for t in layout(module)]
    extra = [builder.input(f"state/{t.name}", t.shape) for t in state]
    x = builder.input("x", (batch, *input_shape))
    target = builder.input("target", (batch, kind.width))
    lr = builder.input("lr", ())
    # SGD's gradient is linear in the loss's scale: scaled by -lr at its small end (B, L), the update is one addition.
    scale = builder.op("neg", lr) if optimiser == "sgd" else builder.scalar(1.0)
    *gradients, value, logits = lower_trace(trace, builder, [*held, x, target, scale])
    new = append_update(builder, optimiser, parameters=held, gradients=gradients, state=extra, lr=lr, clip=clip)
    names = [f"new/{t.name}" for t in (*layout(module), *state)]
    return simplify(builder.graph([*new, value, logits], names=[*names, "loss", "logits"]))


def _lower_predict(module: nn.Module, input_shape: tuple[int, ...], batch: int, kind: str) -> Graph:
    parameter_names = [name for name, _ in module.named_parameters()]
    values = [p.detach() for _, p in module.named_parameters()]

    def forward(parameters: list[Tensor], x: Tensor) -> list[Tensor]:
        scores = functional_call(module, dict(zip(parameter_names, parameters, strict=True)), (x,))
        return [torch.softmax(scores, dim=-1) if kind == CROSS_ENTROPY else scores]

    trace = _trace(forward, values, torch.zeros(batch, *input_shape))
    builder = Builder()
    held = [builder.input(f"state/{t.name}", t.shape) for t in layout(module)]
    x = builder.input("x", (batch, *input_shape))
    (logits,) = lower_trace(trace, builder, [*held, x])
    return simplify(builder.graph([logits], names=["logits"]))


def _trace(function: Callable[..., Any], *inputs: Any) -> torch.fx.GraphModule:
    try:
        return make_fx(function)(*inputs)
    except RuntimeError as problem:
        raise Unsupported(f"torch cannot trace the module's step: {problem}") from problem
