"""Leave-one-out and the running means, by hand: each rule that the paper leaves open has its example."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.methods.fd import LabelMeans, leave_one_out, teacher
from edge.wire.messages import Method, Plan, Upload
from edge.wire.rows import code_rows


def u32(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


def f32(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float32)


MEAN = f32([[0.75, 0.25], [0.5, 0.5]])  # of two devices for label 0, of one for label 1
OWN = f32([[1.0, 0.0], [0.5, 0.5]])
OWN_FIRST = f32([[1.0, 0.0], [0.0, 0.0]])  # of a device that sent label 0 alone


def test_the_own_row_comes_out() -> None:
    # Two holders of label 0 with mean (.75, .25); mine was (1, 0), so the other's was (.5, .5).
    teacher = leave_one_out(MEAN, u32(2, 0), OWN_FIRST, u32(10, 0), True)
    assert teacher.tolist() == [[0.5, 0.5], [0.0, 0.0]]
    assert teacher.dtype == np.float32


def test_only_i_sent_it_so_nobody_teaches_me() -> None:
    assert leave_one_out(MEAN, u32(2, 1), OWN, u32(10, 10), True)[1].tolist() == [0.0, 0.0]


def test_nobody_sent_it_so_nobody_teaches() -> None:
    assert leave_one_out(MEAN, u32(0, 0), OWN, u32(0, 0), False).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_label_i_did_not_send_keeps_the_whole_mean() -> None:
    # The one holder of label 1 is somebody else: its row teaches me as it is.
    assert leave_one_out(MEAN, u32(2, 1), OWN_FIRST, u32(10, 0), True)[1].tolist() == [0.5, 0.5]


def test_an_upload_that_did_not_count_is_not_taken_out() -> None:
    # Late or lost: the mean is the others' already.
    assert leave_one_out(MEAN, u32(2, 1), OWN, u32(10, 10), False).tolist() == MEAN.tolist()


def test_a_label_without_contributors_has_no_row_to_take_out() -> None:
    assert leave_one_out(MEAN, u32(0, 1), OWN_FIRST, u32(10, 0), True)[0].tolist() == [0.0, 0.0]


def test_what_rounding_puts_below_zero_is_clipped_and_the_row_renormalised() -> None:
    # 2 (.9, .1) - (.7, .3) = (1.1, -.1) -> (1.1, 0) -> (1, 0)
    teacher = leave_one_out(f32([[0.9, 0.1], [0, 0]]), u32(2, 0), f32([[0.7, 0.3], [0, 0]]), u32(1, 0), True)
    assert teacher[0].tolist() == [1.0, 0.0]


@given(st.integers(0, 2**32), st.integers(2, 8), st.integers(2, 6))
def test_it_is_the_mean_over_the_others(seed: int, devices: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(labels), size=(devices, labels)).astype(np.float32)  # (D, L, L)
    holds = rng.random((devices, labels)) < 0.6  # (D, L)
    n = holds.sum(axis=0)
    mean = (rows * holds[:, :, None]).sum(axis=0) / np.maximum(n, 1)[:, None]  # (L, L)
    for me in range(devices):
        own = rows[me] * holds[me][:, None]
        teacher = leave_one_out(mean.astype(np.float32), n.astype(np.uint32), own, u32(*holds[me]), True)
        others = np.delete(holds, me, axis=0)
        for label in range(labels):
            taught = np.delete(rows, me, axis=0)[others[:, label], label]
            expected = taught.mean(axis=0) if len(taught) else np.zeros(labels)
            assert teacher[label] == pytest.approx(expected, abs=1e-5)


def plan(contributors: np.ndarray, rows: list[list[float]]) -> Plan:
    return Plan(
        run=1, round=1, rounds=2, method=Method.FD, steps=1, seed=0, lr=0.1, gamma=1.0, bits=32, deadline_s=1.0, qos=1,
        report=False, normalise=True, program=bytes(4), cohort=frozenset(), contributors=contributors,
        logits=code_rows(f32(rows), 32) if rows else None,
    )  # fmt: skip


def upload(counts: np.ndarray, rows: list[list[float]], bits: int = 32) -> Upload:
    return Upload(run=1, round=0, check=0, counts=counts, logits=code_rows(f32(rows).reshape(-1, len(counts)), bits))


def test_a_plan_teaches_what_the_others_sent() -> None:
    both, first = plan(u32(2, 1), MEAN.tolist()), plan(u32(2, 0), [[0.75, 0.25]])
    assert teacher(both, upload(u32(9, 9), OWN.tolist())).tolist() == [[0.5, 0.5], [0.0, 0.0]]
    assert teacher(both, upload(u32(9, 0), [[1.0, 0.0]])).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert teacher(both, upload(u32(9, 0), [[1.0, 0.0]], bits=16)).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert teacher(first, upload(u32(9, 0), [[1.0, 0.0]])).tolist() == [[0.5, 0.5], [0.0, 0.0]]
    assert teacher(first, upload(u32(0, 0), [])).tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_a_plan_teaches_its_mean_to_whom_it_does_not_hold() -> None:
    assert teacher(plan(u32(2, 1), MEAN.tolist()), None).tolist() == MEAN.tolist()


def test_a_plan_without_rows_teaches_nothing() -> None:
    assert teacher(plan(u32(0, 0), []), None).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert teacher(plan(u32(0, 0), []), upload(u32(9, 0), [[1.0, 0.0]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_means_run_per_ground_truth_label() -> None:
    means = LabelMeans(3)
    means.add(np.array([0, 2]), f32([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]))
    means.add(np.array([0]), f32([[1.0, 0.0, 0.0]]))
    assert means.counts.tolist() == [2, 0, 1]
    assert means.counts.dtype == np.uint32
    assert means.rows().tolist() == [[0.75, 0.25, 0.0], [0.0, 0.25, 0.75]]  # labels 0 and 2: nobody saw label 1


def test_divergence_shows_in_its_label_only_when_it_was_seen() -> None:
    means = LabelMeans(2)
    assert means.rows().shape == (0, 2)
    means.add(np.array([1]), f32([[np.nan, np.nan]]))
    assert np.isnan(means.rows()).all()
