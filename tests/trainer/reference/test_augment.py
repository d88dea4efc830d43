"""Shifts of images."""

from __future__ import annotations

import numpy as np

from trainer.reference.augment import draw, shift


def test_one_image_by_hand() -> None:
    """Down by 1, left by 1: zeros come in at the top and at the right."""
    x = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 3, 3)
    np.testing.assert_array_equal(shift(x, np.array([[1, -1]]))[0, 0], [[0, 0, 0], [2, 3, 0], [5, 6, 0]])


def test_each_image_moves_by_its_own() -> None:
    x = np.random.default_rng(0).integers(0, 255, (20, 2, 7, 5)).astype(np.uint8)
    by = draw(np.random.default_rng(1), 20, 3)
    assert set(by.ravel()) == set(range(-3, 4))
    for one, (down, right), moved in zip(x, by, shift(x, by), strict=True):
        framed = np.pad(one, ((0, 0), (3, 3), (3, 3)))  # (2, 13, 11)
        np.testing.assert_array_equal(moved, framed[:, 3 - down : 10 - down, 3 - right : 8 - right])
