"""Targets by hand, and the two facts they rest on: linearity of the cross entropy, and padding that adds nothing."""

from __future__ import annotations

import numpy as np
import pytest

from edge.methods import targets as method

TEACHER = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [0.125, 0.375, 0.5]], np.float32)  # none for label 1
Y = np.array([0, 1, 2])


def targets(
    y: np.ndarray, labels: int, teacher: np.ndarray | None, *, gamma: float, normalise: bool, batch: int
) -> np.ndarray:
    return method.targets(y, method.label_targets(labels, teacher, gamma=gamma, normalise=normalise), batch)


def test_without_a_teacher_the_target_is_the_label() -> None:
    target = targets(Y, 3, None, gamma=1.0, normalise=True, batch=3)
    assert target.tolist() == np.eye(3).tolist()
    assert target.dtype == np.float32


def test_the_teacher_of_the_label_is_added() -> None:
    target = targets(Y, 3, TEACHER, gamma=2.0, normalise=False, batch=3)
    assert target.tolist() == [[2.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.25, 0.75, 2.0]]


def test_a_normalised_target_sums_to_one_with_or_without_a_teacher() -> None:
    target = targets(Y, 3, TEACHER, gamma=1.0, normalise=True, batch=3)
    assert target.tolist() == [[0.75, 0.125, 0.125], [0.0, 1.0, 0.0], [0.0625, 0.1875, 0.75]]


def test_a_short_batch_is_scaled_and_padded() -> None:
    target = targets(Y[:2], 3, None, gamma=0.0, normalise=False, batch=4)
    assert target.tolist() == [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_padded_step_is_the_step_of_the_short_batch() -> None:
    """Loss and gradient on z of the program's mean over B rows equal those of a mean over the n real rows."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 3))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    n, B = 2, 4
    padded = targets(Y[:n], 3, TEACHER, gamma=0.7, normalise=False, batch=B)
    short = targets(Y[:n], 3, TEACHER, gamma=0.7, normalise=False, batch=n)

    def loss_and_gradient(p: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
        return -float((t * np.log(p)).sum() / len(t)), (t.sum(axis=1, keepdims=True) * p - t) / len(t)

    loss, gradient = loss_and_gradient(p, padded)
    expected, of_short = loss_and_gradient(p[:n], short)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradient[:n] == pytest.approx(of_short, rel=1e-6)
    assert not gradient[n:].any()


def test_two_cross_entropies_are_one() -> None:
    """CE(p, y) + gamma CE(p, q) = CE(p, y + gamma q)."""
    p = np.array([[0.2, 0.3, 0.5]])
    target = targets(np.array([2]), 3, TEACHER, gamma=0.5, normalise=False, batch=1)
    separate = -np.log(p[0, 2]) - 0.5 * (TEACHER[2] * np.log(p[0])).sum()
    assert -(target * np.log(p)).sum() == pytest.approx(separate, rel=1e-6)


@pytest.mark.parametrize("n", [0, 4])
def test_a_batch_has_one_to_b_samples(n: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 3"):
        targets(np.zeros(n, np.int64), 3, None, gamma=0.0, normalise=False, batch=3)
