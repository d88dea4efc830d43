"""The mean over the holders, by hand and against the device's leave-one-out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.methods import fd
from broker.methods.fd import average
from edge.methods.fd import leave_one_out
from edge.wire.messages import Upload
from edge.wire.rows import code_counts, code_rows, read_counts


def upload(counts: list[int], rows: list[list[float]] | np.ndarray, bits: int = 32) -> Upload:
    values = np.array(rows, np.float32).reshape(-1, len(counts))
    read = read_counts(code_counts(np.array(counts)))
    return Upload(run=1, round=2, check=3, counts=read, logits=code_rows(values, bits))


def test_the_mean_runs_over_the_holders() -> None:
    uploads = [
        upload([5, 0, 1], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]),
        upload([900, 0, 0], [[0.5, 0.5, 0.0]]),  # 900 samples count no more than 5: the paper's mean is over devices
    ]
    contributors, mean = average(uploads, 32)
    assert contributors.tolist() == [2, 0, 1]
    assert contributors.dtype == np.uint32
    assert mean is not None
    assert mean.values().tolist() == [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]]


def test_the_mean_is_coded_at_the_plans_bits() -> None:
    contributors, mean = average([upload([1, 0], [[0.5, 0.5]]), upload([1, 0], [[1.0, 0.0]])], 4)
    assert contributors.tolist() == [2, 0]
    assert mean == code_rows(np.array([[0.75, 0.25]]), 4)


def test_no_rows_at_all() -> None:
    contributors, mean = average([upload([0, 0], [])], 8)
    assert contributors.tolist() == [0, 0]
    assert mean is None


def test_what_cannot_be_averaged_is_said() -> None:
    with pytest.raises(ValueError, match="at least one"):
        average([], 8)
    with pytest.raises(ValueError, match="one label schema"):
        average([upload([1, 1], [[0.5, 0.5]] * 2), upload([1, 0, 0], [[1.0, 0.0, 0.0]])], 8)


@given(st.integers(0, 2**32), st.integers(2, 8), st.integers(2, 6))
def test_broadcast_and_leave_one_out_are_the_mean_over_the_others(seed: int, devices: int, labels: int) -> None:
    """One broadcast serves all, and costs nothing against a download for each device."""
    rng = np.random.default_rng(seed)
    holds = rng.random((devices, labels)) < 0.6  # (D, L)
    rows = rng.dirichlet(np.ones(labels), size=(devices, labels)).astype(np.float32)  # (D, L, L)
    uploads = [upload(holds[i].astype(int).tolist(), rows[i][holds[i]]) for i in range(devices)]
    contributors, mean = average(uploads, 32)
    plan = np.zeros((labels, labels), np.float32)
    if mean is not None:
        plan[contributors > 0] = mean.values()
    for me in range(devices):
        own = np.where(holds[me][:, None], rows[me], 0).astype(np.float32)
        teacher = leave_one_out(plan, contributors, own, uploads[me].counts, True)
        for label in range(labels):
            taught = [rows[i, label] for i in range(devices) if i != me and holds[i, label]]
            expected = np.mean(taught, axis=0) if taught else np.zeros(labels)
            assert teacher[label] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 100, 2**20])
def test_devices_are_added_one_after_another_whatever_is_added_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: a resumed aggregator, or one on another machine, publishes the same plan."""
    monkeypatch.setattr(fd, "AT_ONCE", at_once)
    rng = np.random.default_rng(2)
    kept = [rng.permutation(5)[: rng.integers(1, 3)] for _ in range(40)]
    uploads = [
        upload([int(label in mine) for label in range(5)], rng.dirichlet(np.ones(5), len(mine)), 4) for mine in kept
    ]
    expected = np.zeros((5, 5))
    for one in sorted(uploads, key=lambda one: one.logits.rows != uploads[0].logits.rows):  # those with as many rows
        expected[one.counts > 0] += one.logits.values()
    contributors, mean = fd.mean(uploads)
    assert mean.tobytes() == (expected / contributors[:, None]).tobytes()


def test_the_order_of_arrival_does_not_matter() -> None:
    rows = np.random.default_rng(1).dirichlet(np.ones(3), size=(20, 3))
    uploads = [replace(upload([1, 1, 1], values, bits=4), run=i) for i, values in enumerate(rows)]
    assert average(uploads, 8)[1] == average(uploads[::-1], 8)[1]
