"""The kernel of a shipped program: the graph's own scores, its spectrum, the rounds it predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.runtime.numpy_ import NumpyRuntime
from edge.runtime.program import load_program
from trainer.data import load_digits
from trainer.ntk import program as shipped
from trainer.ntk.kernels import contraction, vector_products
from trainer.record.run import Curve, Point, Record, Spread, now

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
PROGRAM = load_program(Path(__file__).resolve().parents[3] / "trainer" / "programs" / "cnn-8x8")


def some_digits(count: int) -> tuple[np.ndarray, torch.Tensor]:
    digits = load_digits()
    x = digits.pool.x[:count].astype(np.float32) * np.float32(digits.scale)
    return x, torch.from_numpy(digits.pool.y[:count].astype(np.int64))


def test_the_scores_are_the_programs_own() -> None:
    x, _ = some_digits(5)
    scores = shipped.scores_of(PROGRAM)(shipped.parameters_of(PROGRAM), torch.from_numpy(x).double())
    logits = scores.softmax(1).numpy()
    np.testing.assert_allclose(logits, NumpyRuntime(PROGRAM).predict(x), atol=1e-6)


def test_both_ways_agree_on_what_ships() -> None:
    x, _ = some_digits(3)
    network, parameters = shipped.scores_of(PROGRAM), shipped.parameters_of(PROGRAM)
    inputs = torch.from_numpy(x).double()
    one, other = (way(network, parameters, inputs) for way in (contraction, vector_products))
    assert one.shape == (3, 3, 10, 10)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_small_step_moves_the_scores_as_the_kernel_says() -> None:
    x, label = some_digits(32)
    start, stage = list(shipped.follow(PROGRAM, x, label, lr=1e-3, steps=1, rounds=(0, 1)))
    assert (start.drift, start.error, start.residual, start.predicted) == (0, 0, 1, 1)
    assert stage.error < 0.01  # float32 steps, and the curvature that a step of 0.001 sees
    assert stage.residual < 1
    assert abs(stage.residual - stage.predicted) < 1e-5


def test_gamma_speeds_fast_modes_no_further_than_exchange_allows() -> None:
    x, label = some_digits(12)
    targets = torch.eye(10, dtype=torch.float64)[label]
    found, theta = shipped.spectrum(
        shipped.scores_of(PROGRAM), shipped.parameters_of(PROGRAM), torch.from_numpy(x).double(), targets
    )
    assert theta.shape == (120, 120)
    assert found.condition > 1
    assert 1 < found.effective_rank < 120
    torch.testing.assert_close(found.weight.sum(), torch.tensor(1.0).double())
    alone, taught = (shipped.round_factors(found, gamma=gamma, eta=0.1, steps=20) for gamma in (0, 4))
    assert bool((alone >= 0).all() & (alone <= 1).all() & (taught >= alone - 1e-12).all())  # frozen teachers hold back
    rounds = shipped.rounds_until(found, alone, 0.5)
    assert rounds is not None
    assert shipped.residual_after(found, alone, rounds) <= 0.5 < shipped.residual_after(found, alone, rounds - 1)
    assert shipped.rounds_until(found, torch.ones_like(alone), 0.5) is None


def test_a_checkpoint_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="9930 parameters"):
        shipped.parameters_of(PROGRAM, np.zeros(7, np.float32))
    drift, alignment = shipped.drift_of(PROGRAM, some_digits(2)[0], PROGRAM.initial * np.float32(1.1))
    assert drift > 0.1
    assert 0.9 < alignment <= 1


def test_a_fleets_record_is_read() -> None:
    points = tuple(Point(round=r, score=Spread(mean=a, worst=a, best=a)) for r, a in enumerate((0.2, 0.5, 0.7, 0.8)))
    curve = Curve(method="fd", split="iid", seed=0, points=points)
    record = Record(kind="demo", settings={}, provenance={}, started=now(), curves=(curve,))
    (line,) = shipped.fleet_lines(record)
    assert "iid" in line
    assert "half of the way in round 2" in line
