"""The empirical kernel of the very program a fleet runs: its spectrum, what it predicts for FD, and how lazy it is.

The scores s (before the softmax) of the program's predict graph are differentiated as they are. A fleet trains by the
mean of a cross entropy, whose residual p - t moves, while it stays near the start, by

    (p - t)' = -eta (1 + gamma) M (p - t),   M = H Theta / n,   H = diag(p) - p p^T  of each sample at the start,

so the modes mu_i are those of H^1/2 Theta H^1/2 / n. With teachers frozen in a round of k steps, a mode common to the
devices is multiplied a round by  E + a (1 - E),  E = (1 - eta (1 + gamma) mu_i)^k,  a = gamma / (1 + gamma).

Letters: n samples, L labels, P parameters, N = n L.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edge.runtime.graph import FloatArray, Node
from edge.runtime.program import Program
from edge.runtime.state import split
from edge.runtime.torch_ import KERNELS, TorchRuntime
from trainer.ntk import predict
from trainer.ntk.kernels import Network, Parameters, contraction, matrix, parameter_count
from trainer.record.run import Record

FAR = 0.1
"""A prediction this far off, relative to how far the scores moved, is called of no use."""
MAX_ROUNDS = 10**7


def scores_of(program: Program) -> Network:
    """(parameters, x (n, ...)) -> scores (n, L), any n. Raises ValueError where the graph does not end in a softmax."""
    graph, batch = program.graph("predict"), program.manifest.predict_batch
    *body, last = graph.nodes
    if last.op != "softmax" or last.output != graph.outputs[0]:
        raise ValueError(f"the predict graph ends in {last.op}: the kernel is taken of the scores before a softmax")
    constants = {name: torch.tensor(value, dtype=torch.float64) for name, value in graph.constants.items()}
    batched = _batched(body)

    def network(parameters: Parameters, x: Tensor) -> Tensor:
        values = {**constants, **parameters, "x": x}
        for node in body:
            attributes = dict(node.attributes)
            if node.op in {"reshape", "expand"} and node.output in batched and attributes["shape"][0] == batch:
                attributes["shape"] = [len(x), *attributes["shape"][1:]]  # (n, ...)
            values[node.output] = KERNELS[node.op](*[values[name] for name in node.inputs], **attributes)
        return values[last.inputs[0]]

    return network


def _batched(nodes: Sequence[Node]) -> set[str]:
    """The tensors that depend on x."""
    found = {"x"}
    for node in nodes:
        if found & set(node.inputs):
            found.add(node.output)
    return found


def parameters_of(program: Program, flat: FloatArray | None = None) -> Parameters:
    """The program's initial parameters, or those of a flat (P,) or (S,) vector. Raises ValueError."""
    layout, graph = program.manifest.parameters, program.graph("predict")
    vector = program.initial if flat is None else flat
    count = program.manifest.parameter_count
    if vector.ndim != 1 or len(vector) < count:
        raise ValueError(f"a checkpoint of shape {vector.shape}: this program has {count} parameters")
    tensors = split(vector[:count], layout)
    names = [name for name in graph.inputs if name != "x"]
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(names, tensors, strict=True)}


# ---------------------------------------------------------------- the kernel and what it says


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    values: Tensor
    """(N,) of Theta / n, descending."""
    rates: Tensor
    """(N,) mu_i of M, descending."""
    weight: Tensor
    """(N,) the share of the first residual's square in each mode of M."""

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue that is not rounding."""
        real = self.values[self.values > self.values[0] * 1e-12]
        return float(real[0] / real[-1])

    @property
    def effective_rank(self) -> float:
        """(sum)^2 / sum of squares."""
        return float(self.values.sum() ** 2 / (self.values**2).sum())

    def largest_share(self, count: int) -> float:
        return float(self.values[:count].sum() / self.values.sum())


def kernel_of(network: Network, parameters: Parameters, x: Tensor) -> Tensor:
    """(N, N) symmetric."""
    theta = matrix(contraction(network, parameters, x))
    return (theta + theta.T) / 2


def spectrum(network: Network, parameters: Parameters, x: Tensor, labels: Tensor) -> tuple[Spectrum, Tensor]:
    """Of x (n, ...), labels (n, L) one-hot: the spectrum, and Theta (N, N)."""
    theta, n = kernel_of(network, parameters, x), len(x)
    p = torch.softmax(network(parameters, x), 1)  # (n, L)
    roots = [_root(torch.diag(row) - torch.outer(row, row)) for row in p]
    root: Tensor = torch.block_diag(*roots)  # type: ignore[no-untyped-call]
    rates, vectors = torch.linalg.eigh(root @ theta @ root / n)
    # in the modes' own coordinates: H^-1/2 (p - t), H's null space (all scores of a sample alike) left out
    residual = torch.linalg.pinv(root, rtol=1e-8) @ (p - labels).reshape(-1)
    weight = (vectors.T @ residual) ** 2
    values = torch.linalg.eigvalsh(theta / n).clamp(min=0)
    found = Spectrum(values=values.flip(0), rates=rates.clamp(min=0).flip(0), weight=(weight / weight.sum()).flip(0))
    return found, theta


def _root(h: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(h)
    root: Tensor = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    return root


def round_factors(found: Spectrum, *, gamma: float, eta: float, steps: int) -> Tensor:
    """(N,) what a round multiplies each mode by."""
    e = predict.Descent(eta=eta, steps=steps).decay((1 + gamma) * found.rates)
    share = gamma / (1 + gamma)
    return e + share * (1 - e)


def residual_after(found: Spectrum, factors: Tensor, rounds: int) -> float:
    """Root of the mean square that is left of the first residual."""
    return float((found.weight * factors ** (2 * rounds)).sum().sqrt())


def rounds_until(found: Spectrum, factors: Tensor, left: float) -> int | None:
    """The first round with at most `left` of the residual; None where that is beyond `MAX_ROUNDS`."""
    low, high = 0, 1
    while residual_after(found, factors, high) > left:
        low, high = high, 2 * high
        if high > MAX_ROUNDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if residual_after(found, factors, middle) > left else (low, middle)
    return high


# ---------------------------------------------------------------- how lazy it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The program after some rounds of its own training, here, beside the prediction from its start."""

    round: int
    drift: float
    """|Theta_r - Theta_0| / |Theta_0|."""
    alignment: float
    """Cosine between Theta_r and Theta_0: 1 where it only grew."""
    residual: float
    """|p - t| of its start, measured."""
    predicted: float
    """The same of the linear model: scores s_0 + J_0 (w - w_0), trained on the same loss by the same full steps."""
    error: float
    """|s - s_linear| / |s_linear - s_0|: how far the scores are from the linear model's."""


def follow(
    program: Program, x: FloatArray, label: Tensor, *, lr: float, steps: int, rounds: Sequence[int]
) -> Iterator[Stage]:
    """Train the program's own train graph on x (n, ...) as one device alone, in order, batch after batch.

    The linear model takes the same batches: s <- s - lr Theta_0(., batch) (softmax(s) - t) / B.
    """
    manifest, network = program.manifest, scores_of(program)
    start, inputs = parameters_of(program), torch.from_numpy(x).double()
    targets = torch.eye(len(manifest.labels), dtype=torch.float64)[label]  # (n, L)
    theta = kernel_of(network, start, inputs)
    first = network(start, inputs)
    linear, runtime, step, begun = first.clone(), TorchRuntime(program), 0, first.softmax(1) - targets
    for round_ in range(max(rounds) + 1):
        if round_ in rounds:
            now = parameters_of(program, runtime.parameters())
            scores, other = network(now, inputs), kernel_of(network, now, inputs)
            way = (linear - first).norm()
            yield Stage(
                round=round_,
                drift=float((other - theta).norm() / theta.norm()),
                alignment=float((other * theta).sum() / (other.norm() * theta.norm())),
                residual=float((scores.softmax(1) - targets).norm() / begun.norm()),
                predicted=float((linear.softmax(1) - targets).norm() / begun.norm()),
                error=float((scores - linear).norm() / way) if float(way) else 0.0,
            )
        for _ in range(steps):
            batch = [(step * manifest.batch + i) % len(x) for i in range(manifest.batch)]
            runtime.train(x[batch], targets[batch].numpy().astype(np.float32), lr)
            residual = torch.zeros_like(linear)
            residual.index_put_(
                (torch.tensor(batch),), (linear.softmax(1) - targets)[batch] / manifest.batch, accumulate=True
            )
            linear = linear - lr * (theta @ residual.reshape(-1)).reshape(linear.shape)
            step += 1


def drift_of(program: Program, x: FloatArray, checkpoint: FloatArray) -> tuple[float, float]:
    """Of a checkpoint's kernel from the initial one: relative distance, cosine."""
    network, inputs = scores_of(program), torch.from_numpy(x).double()
    one, other = (kernel_of(network, parameters_of(program, flat), inputs) for flat in (None, checkpoint))
    return float((other - one).norm() / one.norm()), float((other * one).sum() / (other.norm() * one.norm()))


# ---------------------------------------------------------------- in words


def report(
    program: Program, x: FloatArray, label: Tensor, *, lr: float, steps: int, gammas: Sequence[float], rounds: int
) -> Iterator[str]:
    """Lines of text. x (n, ...) scaled as the program takes it; label (n,)."""
    network, parameters = scores_of(program), parameters_of(program)
    targets = torch.eye(len(program.manifest.labels), dtype=torch.float64)[label]
    found, _ = spectrum(network, parameters, torch.from_numpy(x).double(), targets)
    n, outputs = targets.shape
    size = f"P {parameter_count(parameters):,}, n {n}, L {outputs}, kernel {n * outputs} x {n * outputs}"
    yield f"{program.manifest.name}: {size}"
    yield (
        f"kernel Theta / n: largest {float(found.values[0]):.3g}, condition {found.condition:.2g}, effective rank "
        f"{found.effective_rank:.1f}; the {outputs} largest hold {found.largest_share(outputs):.0%} of the trace"
    )
    limit = 2 / float(found.rates[0])
    yield f"fastest mode under cross entropy: mu {float(found.rates[0]):.3g}; full batches need lr < {limit:.3g}"
    yield f"predicted rounds (lr {lr:g}, {steps} steps) until 50 %, 25 %, 10 % of the residual is left, linear model:"
    for gamma in gammas:
        factors = round_factors(found, gamma=gamma, eta=lr, steps=steps)
        if lr * (1 + gamma) > limit:
            yield f"  gamma {gamma:g}: lr (1 + gamma) = {lr * (1 + gamma):.3g} is beyond {limit:.3g}: no prediction"
            continue
        until = [rounds_until(found, factors, left) for left in (0.5, 0.25, 0.1)]
        yield f"  gamma {gamma:g}: " + ", ".join("never" if r is None else f"{r:,}" for r in until)
    yield "measured: the program's own train graph on these samples, beside the linear model on the same batches:"
    yield "  round  kernel drift  alignment  residual  linear  error of the linear scores"
    marks = [0, *(r for r in (1, 2, 5, 10, 25, 50, 100) if r < rounds), rounds]
    off = None
    for stage in follow(program, x, label, lr=lr, steps=steps, rounds=marks):
        off = stage.round if off is None and not stage.error <= FAR else off
        yield (
            f"  {stage.round:>5}  {stage.drift:>12.3f}  {stage.alignment:>9.3f}  {stage.residual:>8.3f}  "
            f"{stage.predicted:>6.3f}  {stage.error:>8.3f}"
        )
    held = f"up to the last, {rounds}" if off is None else f"before round {off}, and not there"
    yield f"where the theory applies: the linear scores are within {FAR:.0%} of the program's {held}"


def fleet_lines(record: Record) -> Iterator[str]:
    """Of a run: mean accuracy of its fd rounds, to stand beside the prediction."""
    for curve in record.curves:
        means = [point.score.mean for point in curve.points]
        if curve.method == "fd" and means:
            half = next(r for r, mean in enumerate(means, 1) if mean >= (means[0] + means[-1]) / 2)
            yield (
                f"the fleet, {curve.split}: fd accuracy {means[0]:.3f} after round 1, {means[-1]:.3f} after "
                f"round {len(means)}, half of the way in round {half}"
            )
