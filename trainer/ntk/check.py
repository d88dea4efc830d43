"""`potstill ntk check`: every claim of the theory part, measured, with its tolerance.

Trained networks: n = 32, two classes, 200 steps at half the stability limit; tolerances for each data set below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from trainer.data import Dataset
from trainer.ntk import experiments
from trainer.ntk.exact import Claim, analytic_claims, kernel_claims, prediction_claims
from trainer.ntk.experiments import Linearised, Outcome, linearise
from trainer.ntk.kernels import contraction
from trainer.ntk.networks import Points, draw_points, initial, two_layer

Tolerances: TypeAlias = dict[str, tuple[float, ...]]
WIDTHS = (256, 1024, 4096)
MNIST_TOLERANCES: Tolerances = {"training": (0.03, 0.015, 0.008), "unseen": (0.12, 0.05, 0.02)}
"""At `WIDTHS`. About twice the worst of 3 seeds, measured on 14 x 14 MNIST (issue 5 of the project)."""
DIGITS_TOLERANCES: Tolerances = {"training": (0.08, 0.045, 0.04), "unseen": (0.16, 0.08, 0.05)}
"""Twice the worst of 5 initialisations on each of 2 draws, measured on scikit-learn's 8 x 8 digits, lambda 1
(.0398/.0789, .0175/.0377, .0162/.0194) and to 4: with 64 inputs more of the few samples' units change sides."""
FALL = 1.5
"""Times that the error must fall at least for four times the width; 1/sqrt(width) would be 2."""
SEEDS, STEPS, TRAIN, UNSEEN = 3, 200, 32, 20
LAMBDAS = (0.5, 1.0, 2.0, 4.0)
FLIP = (0.8, 1.25)
"""On either side of lambda = 1."""
ANALYTIC_WIDTHS = (1024, 16384)


def tolerances(dataset: Dataset) -> Tolerances:
    """MNIST's for all but the digits."""
    return DIGITS_TOLERANCES if dataset.name == "digits" else MNIST_TOLERANCES


def seeds_of(dataset: Dataset) -> int:
    """Five for the digits: cheap, and they scatter more."""
    return 5 if dataset.name == "digits" else SEEDS


def all_claims(dataset: Dataset) -> Iterator[Claim]:
    """In the order of their cost: the exact ones fail fast."""
    yield from prediction_claims()
    yield from analytic_claims()
    yield from kernel_claims()
    yield from _infinite_width_claims(dataset)
    yield from _trained_claims(dataset)


def _infinite_width_claims(dataset: Dataset) -> Iterator[Claim]:
    """The empirical kernel (trace form) nears the analytic one as 1/sqrt(width)."""
    from trainer.ntk.analytic import relu_kernels

    points = draw_points(dataset, train=8, unseen=2, classes=2, seed=0)
    want, errors = relu_kernels(points.train).ntk, []
    for width in ANALYTIC_WIDTHS:
        each = []
        for seed in range(SEEDS):
            network = initial(width, points.train.shape[1], 2, seed)
            got = contraction(two_layer, network, points.train, form="trace")
            each.append(float((got - want).norm() / want.norm()))
        errors.append(experiments.geometric_mean(each))
    yield Claim(
        text=f"empirical kernel at width {ANALYTIC_WIDTHS[1]}: the analytic one",
        measured=errors[1],
        predicted=0,
        tolerance=0.02,
    )
    text = f"its distance falls, width {ANALYTIC_WIDTHS[0]} to {ANALYTIC_WIDTHS[1]}"
    yield Claim(text=text, measured=errors[0] / errors[1], predicted=4, tolerance=FALL**2, at_least=True)


def _trained_claims(dataset: Dataset) -> Iterator[Claim]:
    points = draw_points(dataset, train=TRAIN, unseen=UNSEEN, classes=2, seed=0)
    three = draw_points(dataset, train=48, unseen=UNSEEN, classes=3, seed=0)
    allowed, at_one = tolerances(dataset), []
    for index, width in enumerate(WIDTHS):
        limits = {word: values[index] for word, values in allowed.items()}
        for seed in range(seeds_of(dataset)):
            net = linearise(points, width, seed)
            for outcome in _kd_outcomes(points, net, width, seed):
                at_one += [outcome] if outcome.weight == 1 else []
                yield from _width_claims(f"KD, lambda {outcome.weight:g}", outcome, limits)
            if seed == 0:
                for text, outcome in _other_methods(points, three, net, width):
                    yield from _width_claims(text, outcome, limits)
            if seed == 0 and width < max(WIDTHS):  # the widest takes 20 s a lambda and shows the same
                yield from _flip_claims(points, net, width)
    for which, word in (("train_error", "training"), ("unseen_error", "unseen")):
        yield from _fall_claims(dataset, at_one, which, word)


def _kd_outcomes(points: Points, net: Linearised, width: int, seed: int) -> Iterator[Outcome]:
    """Every lambda at every width; the widest network takes lambda = 1 alone after the first seed, for time."""
    for lam in LAMBDAS if seed == 0 or width < max(WIDTHS) else (1.0,):
        teacher = experiments.noisy_teacher(points, seed)
        yield experiments.run_kd(points, net, teacher, lam=lam, width=width, seed=seed, steps=STEPS)


def _width_claims(text: str, outcome: Outcome, limits: dict[str, float]) -> Iterator[Claim]:
    for word, error in (("training", outcome.train_error), ("unseen", outcome.unseen_error)):
        setting = f"{text}, width {outcome.width}, seed {outcome.seed}: {word} error"
        yield Claim(text=setting, measured=error, predicted=0, tolerance=limits[word])


def _other_methods(points: Points, three: Points, net: Linearised, width: int) -> Iterator[tuple[str, Outcome]]:
    nets = [net, linearise(points, width, 100)]
    for text, period in (("CD live, K 2, lambda 1", 0), ("CD, exchange every 20 steps, K 2, lambda 1", 20)):
        yield text, experiments.run_cd(points, nets, lam=1, width=width, seed=0, steps=STEPS, period=period)
    yield (
        "FD, 3 devices, 10 rounds, gamma 1",
        experiments.run_fd(
            three, linearise(three, width, 0), gamma=1, devices=3, width=width, seed=0, rounds=10, period=20
        ),
    )


def _flip_claims(points: Points, net: Linearised, width: int) -> Iterator[Claim]:
    """A wrong one-hot teacher wins the argmax above lambda = 1, not below."""
    wrong = experiments.wrong_teacher(points)
    for lam in FLIP:
        outcome = experiments.run_kd(points, net, wrong, lam=lam, width=width, seed=0, steps=5 * STEPS)
        measured, predicted = (
            experiments.follows_teacher(trajectory.train[-1, 0], wrong)
            for trajectory in (outcome.measured, outcome.predicted)
        )
        text = f"wrong teacher, lambda {lam:g}, width {width}: share that follows it"
        yield Claim(text=text, measured=measured, predicted=predicted, tolerance=1 / TRAIN)
        yield Claim(text=f"{text}, in the limit", measured=measured, predicted=float(lam > 1), tolerance=0.25)


def _fall_claims(dataset: Dataset, outcomes: Sequence[Outcome], which: str, word: str) -> Iterator[Claim]:
    """Per four times the width; on the digits, which scatter too much for that, from the narrowest to the widest."""
    errors = list(experiments.by_width(outcomes, which))
    steps = [(errors[0], errors[-1])] if dataset.name == "digits" else pairwise(errors)
    for (width, error), (wider, smaller) in steps:
        fourfold = math.log(wider / width, 4)
        text = f"KD, lambda 1, {word} error falls, width {width} to {wider}, mean of {seeds_of(dataset)} seeds"
        yield Claim(text=text, measured=error / smaller, predicted=2**fourfold, tolerance=FALL**fourfold, at_least=True)
