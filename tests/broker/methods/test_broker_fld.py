from __future__ import annotations

import numpy as np
import pytest

from broker.methods.fld import MOST_PARTNERS, training_set
from edge.wire.messages import Method, Seeds

L, LAM = 3, 0.1
rng = np.random.default_rng(4)


def seeds(first: list[int], second: list[int] | None = None, scale: float = 0.5, offset: float = -1.0) -> Seeds:
    x = rng.integers(0, 256, (len(first), 4)).astype(np.uint8)
    other = np.array([] if second is None else second, np.uint32)
    return Seeds(x=x, first=np.array(first, np.uint32), second=other, scale=scale, offset=offset)


def test_raw_seeds_keep_their_labels() -> None:
    given = [seeds([2, 0]), seeds([1], scale=0.25, offset=2.0)]
    data = training_set(given, Method.FLD, LAM, L)
    assert data.labels.argmax(axis=1).tolist() == [2, 0, 1]
    np.testing.assert_allclose(data.x(np.array([2, 0])), [given[1].values()[0], given[0].values()[0]])


def test_mixed_seeds_keep_their_soft_labels() -> None:
    given = seeds([2, 0], [1, 1])
    data = training_set([given], Method.MIXFLD, LAM, L)
    np.testing.assert_allclose(data.labels, [[0, 0.9, 0.1], [0.1, 0.9, 0]])
    np.testing.assert_allclose(data.x(np.array([0, 1])), given.values(), atol=1e-6)


def test_inverse_mixup_gives_back_the_samples_where_both_devices_mixed_the_same() -> None:
    """Pure samples of two labels, the same on both devices: what comes out is what went in."""
    pure = {0: np.array([200.0, 0, 10, 30]), 1: np.array([0.0, 100, 250, 90])}
    mixed = [LAM * pure[0] + (1 - LAM) * pure[1], LAM * pure[1] + (1 - LAM) * pure[0]]
    given = [
        Seeds(x=np.rint(x)[None].astype(np.uint8), first=np.array([p], np.uint32), second=np.array([1 - p], np.uint32),
              scale=1.0, offset=0.0)
        for p, x in enumerate(mixed)
    ]  # fmt: skip
    data = training_set(given, Method.MIX2FLD, LAM, L)
    assert data.labels.argmax(axis=1).tolist() == [0, 1]
    x = data.x(np.array([0, 1]))
    assert (
        np.abs(x - np.stack([pure[0], pure[1]])).max() <= 0.5 * (0.9 + 0.1) / 0.8
    )  # rounding, spread by 1 / (1 - 2 lam)


def test_pairs_are_of_two_devices_and_in_the_order_of_the_docs() -> None:
    # seats 0 and 1; kinds (0, 1): seeds 0, 3; (1, 0): 1, 4; (1, 2): 2; (2, 1): 5
    data = training_set([seeds([0, 1, 1], [1, 0, 2]), seeds([0, 1, 2], [1, 0, 1])], Method.MIX2FLD, LAM, L)
    # seed 0 at place 0 meets 1 (its own device: no), 4; seed 3 at place 1 meets 4 (no), 1; seed 2 meets 5
    pairs = list(zip(data.one[::2].tolist(), data.other[::2].tolist(), strict=True))
    assert pairs == [(0, 4), (3, 1), (2, 5)]
    assert data.labels.argmax(axis=1).tolist() == [0, 1, 0, 1, 1, 2]
    np.testing.assert_allclose(data.share[:2], [0.1 / -0.8, -0.9 / -0.8])


def test_a_seed_has_only_so_many_partners() -> None:
    many = MOST_PARTNERS + 5
    data = training_set([seeds([0], [1]), seeds([1] * many, [0] * many)], Method.MIX2FLD, LAM, L)
    assert len(data.one) == 2 * MOST_PARTNERS


@pytest.mark.parametrize("method", [Method.FLD, Method.MIXFLD, Method.MIX2FLD])
def test_of_nothing_comes_nothing(method: Method) -> None:
    data = training_set([], method, LAM, L)
    assert len(data.one) == 0
    assert data.targets(np.zeros((L, L)), 1.0, normalise=True).shape == (0, L)


def test_targets_are_the_label_and_what_the_devices_say_of_it() -> None:
    teacher = np.array([[0.8, 0.1, 0.1], [0, 0, 0], [0.2, 0.2, 0.6]])
    hard = training_set([seeds([0, 1])], Method.FLD, LAM, L)
    np.testing.assert_allclose(hard.targets(teacher, 0.5, normalise=False), np.array([[1.4, 0.05, 0.05], [0.0, 1, 0]]))
    np.testing.assert_allclose(hard.targets(teacher, 0.5, normalise=True).sum(axis=1), 1, atol=1e-6)
    soft = training_set([seeds([0], [2])], Method.MIXFLD, LAM, L)
    expected = 0.1 * np.array([1.8, 0.1, 0.1]) + 0.9 * np.array([0.2, 0.2, 1.6])
    np.testing.assert_allclose(soft.targets(teacher, 1.0, normalise=False), [expected], atol=1e-6)
