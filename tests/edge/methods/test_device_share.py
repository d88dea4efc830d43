from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.methods.share import draw_inputs, draw_shifts, gather, shift_images
from edge.wire.labels import code_votes, pack_labels
from edge.wire.options import ShareOptions
from edge.wire.streams import FLEET, Purpose, stream

OPTIONS = ShareOptions(inputs=5, buffer=2, shift=2, warm_up=0)


def test_every_device_draws_the_same_inputs_as_docs_methods_says() -> None:
    rng = stream(3, FLEET, 7, Purpose.SHARED)
    order = np.concatenate([rng.permutation(4), rng.permutation(4)])[:5]
    shifts = rng.integers(-2, 3, (5, 2))
    drawn = draw_inputs(3, 7, OPTIONS, pool=4, axes=3)
    assert drawn.indices.tolist() == order.tolist()
    assert drawn.shifts.tolist() == shifts.tolist()
    assert draw_inputs(3, 8, OPTIONS, pool=4, axes=3).indices.tolist() != order.tolist()


def test_what_is_no_image_is_not_shifted() -> None:
    assert not draw_inputs(3, 7, OPTIONS, pool=4, axes=2).shifts.any()
    assert not draw_shifts(stream(1, "d", 0, Purpose.SHIFT), 4, 0, 3).any()
    series = np.ones((2, 9, 8), np.float32)
    shift_images(series, np.array([[1, 1], [2, 2]]))
    assert series.all()


def test_an_image_moves_and_zeros_come_in() -> None:
    x = np.arange(1.0, 10, dtype=np.float32).reshape(1, 1, 3, 3).repeat(3, axis=0)
    shift_images(x, np.array([[1, 0], [-1, 2], [0, 0]]))
    assert x[0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert x[1, 0].tolist() == [[0, 0, 4], [0, 0, 7], [0, 0, 0]]
    assert x[2, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(1, 2))
def test_a_shift_is_a_roll_with_its_edge_cut_off(down: int, right: int, channels: int) -> None:
    x = np.arange(1.0, channels * 12 + 1, dtype=np.float32).reshape(1, channels, 3, 4)
    padded = np.pad(x, [(0, 0), (0, 0), (4, 4), (4, 4)])
    shift_images(x, np.array([[down, right]]))
    assert np.array_equal(x, np.roll(padded, (down, right), axis=(2, 3))[:, :, 4:7, 4:8])


def test_labelled_inputs_of_several_rounds_are_one_list() -> None:
    first, second = np.array([0, 1, 2, 1, 0]), np.array([2, 2, 2, 0, 1])
    shared = ((4, pack_labels(first, 3)), (6, pack_labels(second, 3)))
    labelled = gather(3, OPTIONS, shared, pool=4, axes=3, labels=3)
    assert labelled is not None
    assert labelled.rows.argmax(axis=1).tolist() == [*first, *second]
    drawn = [draw_inputs(3, round_, OPTIONS, 4, 3).indices.tolist() for round_ in (4, 6)]
    assert labelled.inputs.indices.tolist() == drawn[0] + drawn[1]


def test_soft_labels_are_the_rows_that_were_coded() -> None:
    options = ShareOptions(inputs=2, bits=4)
    rows = np.array([[0.5, 0.25, 0.25], [0.125, 0.875, 0.0]], np.float32)
    labelled = gather(3, options, ((4, code_votes(rows, options)),), pool=4, axes=1, labels=3)
    assert labelled is not None
    np.testing.assert_allclose(labelled.rows.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(labelled.rows[0], rows[0], atol=1e-6)  # powers of two


def test_there_is_nothing_to_train_on_before_the_first_labels_or_with_those_of_other_options() -> None:
    assert gather(3, OPTIONS, (), pool=4, axes=3, labels=3) is None
    other = pack_labels(np.zeros(50, np.int64), 3)
    assert gather(3, OPTIONS, ((4, other),), pool=4, axes=3, labels=3) is None
    warm_up = ShareOptions.from_plan(ShareOptions(warm_up=9).to_plan(3))
    assert gather(3, warm_up, ((2, other),), pool=4, axes=3, labels=3) is None
