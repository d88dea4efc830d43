from __future__ import annotations

import numpy as np
import pytest

from edge.methods.fld import choose_seeds
from edge.wire.messages import Method
from edge.wire.options import FldOptions
from edge.wire.streams import Purpose, stream

rng = np.random.default_rng(5)
X = rng.integers(0, 256, (20, 1, 2, 3)).astype(np.uint8)
Y = rng.integers(0, 3, 20)
ORDER = stream(7, "d0", 0, Purpose.SEEDS).permutation(20)
SCALE = 1 / 255


def test_raw_seeds_are_the_first_samples_of_the_devices_order() -> None:
    seeds = choose_seeds(X, Y, SCALE, seed=7, device="d0", method=Method.FLD, options=FldOptions(seeds=6))
    assert seeds is not None
    assert seeds.x.tolist() == X[ORDER[:6]].reshape(6, 6).tolist()
    assert seeds.first.tolist() == Y[ORDER[:6]].tolist()
    assert seeds.second.tolist() == []
    np.testing.assert_allclose(seeds.values(), X[ORDER[:6]].reshape(6, 6) / 255, atol=1e-6)


def test_a_device_gives_no_more_than_it_has() -> None:
    seeds = choose_seeds(X, Y, SCALE, seed=7, device="d0", method=Method.FLD, options=FldOptions(seeds=50))
    assert seeds is not None
    assert len(seeds.first) == 20


@pytest.mark.parametrize("method", [Method.MIXFLD, Method.MIX2FLD])
def test_a_pair_is_mixed_of_two_labels(method: Method) -> None:
    options = FldOptions(seeds=8, lam=0.25)
    seeds = choose_seeds(X, Y, SCALE, seed=7, device="d0", method=method, options=options)
    assert seeds is not None
    draws = stream(7, "d0", 0, Purpose.MIXUP)
    for place, i in enumerate(ORDER[:8]):
        others = [j for j in range(20) if Y[j] != Y[i]]
        j = others[draws.integers(len(others))]
        assert (seeds.first[place], seeds.second[place]) == (Y[i], Y[j])
        mixed = 0.25 * X[i].astype(float) + 0.75 * X[j]
        assert np.abs(seeds.x[place] - mixed.reshape(-1)).max() <= 0.5


def test_other_data_go_as_bytes_between_the_smallest_and_the_largest() -> None:
    x = rng.normal(size=(20, 9, 4)).astype(np.float16)
    seeds = choose_seeds(x, Y, 2.0, seed=7, device="d0", method=Method.FLD, options=FldOptions(seeds=20))
    assert seeds is not None
    values = 2.0 * x[ORDER].reshape(20, 36).astype(float)
    assert np.abs(seeds.values() - values).max() <= seeds.scale * 0.501
    assert seeds.offset == pytest.approx(values.min())
    assert seeds.offset + 255 * seeds.scale == pytest.approx(values.max())


def test_data_that_are_all_alike_have_a_byte_too() -> None:
    x = np.full((20, 2), 3.5, np.float32)
    seeds = choose_seeds(x, Y, 1.0, seed=7, device="d0", method=Method.FLD, options=FldOptions(seeds=2))
    assert seeds is not None
    assert seeds.values().tolist() == [[3.5, 3.5]] * 2


def test_a_device_of_one_label_has_no_pairs() -> None:
    arguments = {"seed": 7, "device": "d0", "options": FldOptions(seeds=2)}
    assert choose_seeds(X, np.zeros(20, np.int64), SCALE, method=Method.MIXFLD, **arguments) is None  # type: ignore[arg-type]
    assert choose_seeds(X, np.zeros(20, np.int64), SCALE, method=Method.FLD, **arguments) is not None  # type: ignore[arg-type]
