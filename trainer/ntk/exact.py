"""The claims that hold to rounding: each closed form against the dynamics it solves, each kernel against another way.

They take the module under test as an argument, so that tests can hand in mutated ones and see a claim fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from trainer.ntk import analytic, dynamics, kernels, predict
from trainer.ntk.predict import Descent, Flow

EXACT = 1e-10
"""Of values of order 1, in float64."""
SEEN, UNSEEN, COLUMNS, WORKERS = 6, 3, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    text: str
    measured: float
    predicted: float
    tolerance: float
    at_least: bool = False
    """Whether `tolerance` is what `measured` must reach, instead of how far it may be from `predicted`."""

    @property
    def passed(self) -> bool:
        """False for NaN."""
        if self.at_least:
            return self.measured >= self.tolerance
        return abs(self.measured - self.predicted) <= self.tolerance


def exact_claim(text: str, got: Tensor, want: Tensor) -> Claim:
    """The largest difference is 0 but for rounding; a wrong shape is an infinite one."""
    same = got.shape == want.shape
    difference = float((got - want).abs().max()) if same else math.inf
    return Claim(text=text, measured=difference, predicted=0, tolerance=EXACT)


# ---------------------------------------------------------------- predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A random kernel, one of whose modes does not move at all, and random outputs."""

    theta: Tensor
    cross: Tensor
    start: Tensor
    """(K, N + M, C)"""
    labels: Tensor
    teacher: Tensor

    @property
    def g(self) -> Tensor:
        return torch.cat([self.theta, self.cross])


def problem(seed: int = 0) -> Problem:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    root = normal(SEEN - 1, SEEN + 1)
    theta = nn.functional.pad(root @ root.T, (0, 1, 0, 1))  # (N, N): the last row and column are zeros
    return Problem(
        theta=theta / torch.linalg.matrix_norm(theta, 2),
        cross=normal(UNSEEN, SEEN),
        start=normal(WORKERS, SEEN + UNSEEN, COLUMNS),
        labels=normal(SEEN, COLUMNS),
        teacher=normal(SEEN, COLUMNS),
    )


Known = dict[str, Tensor]
"""What the dynamics came to, by claim: walked once, however many modules are tested."""


def _walked(known: Known, text: str, walk: Callable[[], Tensor]) -> Tensor:
    if text not in known:
        known[text] = walk()
    return known[text]


def prediction_claims(under_test: ModuleType = predict, known: Known | None = None) -> Iterator[Claim]:
    """Of KD, CD and FD in flow and descent, training and unseen points together."""
    known = {} if known is None else known
    for name, clock in (("flow", under_test.Flow(eta=0.7, t=2.3)), ("descent", under_test.Descent(eta=0.23, steps=9))):
        walked = Flow(eta=0.7, t=2.3) if name == "flow" else Descent(eta=0.23, steps=9)
        yield from _kd_claims(under_test, known, name, clock, walked)
        yield from _cd_claims(under_test, known, name, clock, walked)
        yield from _fd_claims(under_test, known, name, clock, walked)
    yield from _small_gap_claims(under_test)


def _start(under_test: ModuleType, state: Tensor) -> Any:
    """(..., N + M, C) -> a Predicted."""
    return under_test.Predicted(train=state[..., :SEEN, :], unseen=state[..., SEEN:, :])


def _joined(predicted: Any) -> Tensor:
    return torch.cat([predicted.train, predicted.unseen], -2)


def _kd_claims(under_test: ModuleType, known: Known, name: str, clock: Any, walked: predict.Clock) -> Iterator[Claim]:
    p = problem()
    modes, start = under_test.modes(p.theta), _start(under_test, p.start[0])
    blends: list[tuple[str, Any, float, float]] = [
        (f"lambda {lam:g}", under_test.regularised(lam), 1.0, lam) for lam in (0.0, 0.5, 3.0)
    ]
    blends.append(("convex weights .7, .3", under_test.convex(0.3), 0.7, 0.3))
    for weights, blend, on_label, on_teacher in blends:
        got = under_test.kd(modes, p.cross, start, labels=p.labels, teacher=p.teacher, blend=blend, clock=clock)
        text = f"KD, {weights}, {name}: closed form = dynamics"
        want = _walked(
            known,
            text,
            partial(
                dynamics.kd,
                p.g,
                p.start[0],
                labels=p.labels,
                teacher=p.teacher,
                on_label=on_label,
                on_teacher=on_teacher,
                clock=walked,
            ),
        )
        yield exact_claim(text, _joined(got), want)


def _cd_claims(under_test: ModuleType, known: Known, name: str, clock: Any, walked: predict.Clock) -> Iterator[Claim]:
    p = problem(1)
    modes = under_test.modes(p.theta)
    for workers, lam in ((2, 0.4), (3, 0.6)):
        start = p.start[:workers]
        got = under_test.cd_live(modes, p.cross, _start(under_test, start), labels=p.labels, lam=lam, clock=clock)
        text = f"CD live, K {workers}, lambda {lam:g}, {name}: closed form = dynamics"
        want = _walked(known, text, partial(dynamics.cd_live, p.g, start, p.labels, lam, walked))
        yield exact_claim(text, _joined(got), want)
        rest, walked_rest = (
            (under_test.Flow(eta=0.7, t=0.4), Flow(eta=0.7, t=0.4))
            if name == "flow"
            else (under_test.Descent(eta=0.23, steps=2), Descent(eta=0.23, steps=2))
        )
        got = under_test.cd_periodic(
            modes, p.cross, _start(under_test, start), labels=p.labels, lam=lam, periods=3, period=clock, rest=rest
        )
        text = f"CD, 3 periods and a bit, K {workers}, lambda {lam:g}, {name}: closed form = dynamics"
        periods = [walked] * 3 + [walked_rest]
        want = _walked(known, text, partial(dynamics.cd_periodic, p.g, start, p.labels, lam, periods))
        yield exact_claim(text, _joined(got), want)
        got = under_test.cd_periodic(
            modes, p.cross, _start(under_test, start), labels=p.labels, lam=lam, periods=2, period=clock
        )
        text = f"CD, 2 periods, K {workers}, lambda {lam:g}, {name}: closed form = dynamics"
        want = _walked(known, text, partial(dynamics.cd_periodic, p.g, start, p.labels, lam, [walked] * 2))
        yield exact_claim(text, _joined(got), want)


FD_LABELS = ((0, 0, 1, 2, 2, 2), (0, 1, 1, 1, 0, 1), (0, 0, 0, 0, 3, 1))
"""Unequal shares; labels 2 and 3 are held by one device alone, so nobody teaches them."""


def _fd_claims(under_test: ModuleType, known: Known, name: str, clock: Any, walked: predict.Clock) -> Iterator[Claim]:
    problems = [problem(seed) for seed in (2, 3, 4)]
    own = [torch.tensor(labels) for labels in FD_LABELS]
    targets = [torch.eye(4, dtype=torch.float64)[y, :COLUMNS] for y in own]
    starts = [p.start[0] for p in problems]
    gs = [p.g for p in problems]
    devices = under_test.fleet([p.theta for p in problems], [p.cross for p in problems], own)
    start = under_test.Predicted(
        train=torch.cat([s[:SEEN] for s in starts]), unseen=torch.cat([s[SEEN:] for s in starts])
    )
    stacked, gamma = torch.cat(targets), 0.8

    def joined(predicted: Any) -> Tensor:
        parts = zip(torch.split(predicted.train, SEEN), torch.split(predicted.unseen, UNSEEN), strict=True)
        return torch.cat([torch.cat(part) for part in parts])

    got = under_test.fd_live(devices, start, labels=stacked, gamma=gamma, clock=clock)
    text = f"FD live, {name}: closed form = dynamics"
    walk = partial(dynamics.fd, gs, starts, own, targets=targets, gamma=gamma)
    want = _walked(known, text, lambda: torch.cat(walk(periods=[walked], live=True)))
    yield exact_claim(text, joined(got), want)
    got = under_test.fd_rounds(devices, start, labels=stacked, gamma=gamma, rounds=3, period=clock)
    text = f"FD, 3 rounds, {name}: closed form = dynamics"
    want = _walked(known, text, lambda: torch.cat(walk(periods=[walked] * 3, live=False)))
    yield exact_claim(text, joined(got), want)
    # a kernel that treats outputs alike, written out in full, must say the same
    eye = torch.eye(COLUMNS, dtype=torch.float64)
    full = under_test.fleet(
        [torch.kron(p.theta, eye) for p in problems], [torch.kron(p.cross, eye) for p in problems], own, COLUMNS
    )
    flat = under_test.Predicted(train=start.train.reshape(-1, 1), unseen=start.unseen.reshape(-1, 1))
    whole = under_test.fd_rounds(full, flat, labels=stacked.reshape(-1, 1), gamma=gamma, rounds=3, period=clock)
    yield exact_claim(
        f"FD, kernel in full form, {name}: as output by output", whole.unseen.reshape(-1, COLUMNS), got.unseen
    )


def _small_gap_claims(under_test: ModuleType) -> Iterator[Claim]:
    """Slow modes: 1 - (1 - gap)^k loses digits where it is computed as it is written."""
    gaps = torch.tensor([0.0, 1e-14, 1e-9, 1e-3, 0.49, 0.5, 0.51, 1.0, 1.7], dtype=torch.float64)
    want = torch.stack([(1 - gaps) ** j for j in range(40)]).sum(0)
    yield exact_claim(
        "geometric sum, relative, gaps 0 to 1.7", under_test.geometric(gaps, 40) / want, torch.ones(9).double()
    )
    rates = torch.tensor([0.0, 1e-13, 1e-6, 1.0], dtype=torch.float64)
    points, weights = _gauss(40)
    s = 1.5 * (points + 1)  # 0 .. 3
    want = 0.2 * (1.5 * weights[:, None] * torch.exp(-0.2 * s[:, None] * rates)).sum(0)
    yield exact_claim("flow's integral against quadrature", under_test.Flow(eta=0.2, t=3.0).integral(rates), want)


def _gauss(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points and weights on -1..1, from the Jacobi matrix (Golub & Welsch 1969)."""
    n = torch.arange(1, count, dtype=torch.float64)
    off = n / torch.sqrt(4 * n**2 - 1)
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return points, 2 * vectors[0] ** 2


# ---------------------------------------------------------------- kernels


def analytic_claims(under_test: ModuleType = analytic, known: Known | None = None) -> Iterator[Claim]:
    """Against Gaussian integrals computed by quadrature, layer by layer."""
    known = {} if known is None else known
    random = torch.Generator().manual_seed(5)
    x1 = torch.randn(4, 3, generator=random, dtype=torch.float64)
    x2 = torch.cat([x1[:2], torch.randn(3, 3, generator=random, dtype=torch.float64), -x1[:1]])
    depths = {
        "2 layers": [(1.0, 0.0), (2.0, 0.0)],
        "4 layers, biases": [(1.3, 0.2), (2.1, 0.1), (1.7, 0.3), (0.9, 0.05)],
    }
    for text, variances in depths.items():
        layers = [under_test.Layer(weight=w, bias=b) for w, b in variances]
        got = under_test.relu_kernels(x1, x2, layers)
        nngp, ntk = _walked(known, text, lambda v=variances: torch.stack(_by_quadrature(x1, x2, v)))  # type: ignore[misc]
        yield exact_claim(f"infinite width, {text}: NNGP = quadrature", got.nngp, nngp)
        yield exact_claim(f"infinite width, {text}: NTK = quadrature", got.ntk, ntk)
    alone = under_test.relu_kernels(x1)
    yield exact_claim("infinite width, 2 layers, diagonal = |x|^2 / d * 2", alone.ntk.diagonal(), 2 * (x1**2).mean(1))


def _by_quadrature(x1: Tensor, x2: Tensor, variances: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """The recursion with a pair's two Gaussians in polar coordinates, and no arc-cosine formula."""
    points, weights = _gauss(60)
    nngp, ntk = torch.empty(len(x1), len(x2)).double(), torch.empty(len(x1), len(x2)).double()
    for i, x in enumerate(x1):
        for j, y in enumerate(x2):
            pair = torch.stack([x, y])
            weight, bias = variances[0]
            k = weight * pair @ pair.T / len(x) + bias  # (2, 2) all covariances of the pair
            theta = k[0, 1]
            for weight, bias in variances[1:]:
                sizes = k.diagonal().sqrt()
                angle = 0.0 if torch.equal(x, y) else float(torch.arccos((k[0, 1] / sizes.prod()).clamp(-1, 1)))
                half = (math.pi - angle) / 2  # both are positive for directions angle - pi/2 .. pi/2
                direction = angle / 2 + half * points
                # r^3 exp(-r^2/2) integrates to 2, r exp(-r^2/2) to 1; the density has 1 / (2 pi)
                shape = torch.cos(direction) * torch.cos(direction - angle)
                both = sizes.prod() * 2 * half * (weights * shape).sum() / (2 * math.pi)
                steps = half * weights.sum() / (2 * math.pi)
                k = torch.stack([k[0, 0] / 2, both, both, k[1, 1] / 2]).reshape(2, 2) * weight + bias
                theta = k[0, 1] + weight * steps * theta
            nngp[i, j], ntk[i, j] = k[0, 1], theta
    return nngp, ntk


def small_networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """A dense and a convolutional network with all that an edge model has, and samples."""
    random = torch.Generator().manual_seed(6)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        dense = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))
        first = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, stride=2)]
        conv = nn.Sequential(*first, nn.Sigmoid(), nn.Flatten(), nn.Linear(4, 2))
    flat = torch.randn(7, 5, generator=random, dtype=torch.float64)
    images = torch.randn(7, 2, 6, 6, generator=random, dtype=torch.float64)
    return {"dense": (dense, flat[:4], flat[4:]), "convolutional": (conv, images[:4], images[4:])}


def kernel_claims(
    under_test: ModuleType = kernels, kinds: Sequence[str] = ("dense", "convolutional")
) -> Iterator[Claim]:
    """Both ways, both forms, one argument and two, in one block and in many: against one plain gradient an output."""
    ways: dict[str, Callable[..., Tensor]] = {
        "contraction": under_test.contraction,
        "vector products": under_test.vector_products,
    }
    for kind in kinds:
        module, x1, x2 = small_networks()[kind]
        network, parameters = under_test.network_of(module)
        left, right = (_plain_jacobian(network, parameters, x) for x in (x1, x2))
        for other, columns in ((None, left), (x2, right)):
            full = torch.einsum("iap,jbp->ijab", left, columns)
            wanted = {"full": full, "trace": torch.einsum("ijaa->ij", full) / full.shape[-1]}
            for form, want in wanted.items():
                for way, theta in ways.items():
                    for memory in (2**28, 1):
                        got = theta(network, parameters, x1, other, form=form, memory_bytes=memory)
                        text = f"{kind} net, {way}, {form}, {'X, X' if other is None else 'x, X'}"
                        yield exact_claim(
                            f"{text}, {'small' if memory == 1 else 'one'} blocks: = plain gradients", got, want
                        )
        theta = under_test.contraction(network, parameters, x1, x2)
        flat = torch.einsum("iap,jbp->iajb", left, right).reshape(left.shape[0] * left.shape[1], -1)
        yield exact_claim(f"{kind} net, kernel as a matrix", under_test.matrix(theta), flat)


def _plain_jacobian(network: kernels.Network, parameters: kernels.Parameters, x: Tensor) -> Tensor:
    """(n, L, P) by torch.autograd, one backward pass an output: no vmap, no torch.func."""
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    f = network(leaves, x)
    rows = [torch.autograd.grad(value, list(leaves.values()), retain_graph=True) for value in f.reshape(-1)]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows]).reshape(*f.shape, -1)
