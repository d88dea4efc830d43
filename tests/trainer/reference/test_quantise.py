"""The reference's own coding of rows, labels and counts, beside what the wire does."""

from __future__ import annotations

import numpy as np
import pytest

from edge.wire.labels import packed_bytes
from edge.wire.rows import code_counts, code_rows
from edge.wire.rows import read_counts as wire_counts
from trainer.reference.methods.share import labels_bytes
from trainer.reference.quantise import quantise, read_counts, rows_bytes

ROWS = np.random.default_rng(7).dirichlet(np.full(10, 0.1), 50).astype(np.float32)


@pytest.mark.parametrize(("code", "bits"), [("float32", 32), ("float16", 16), ("log8", 8), ("log4", 4), ("log3", 3)])
def test_rows_are_read_as_the_wire_reads_them(code: str, bits: int) -> None:
    coded = code_rows(ROWS, bits)
    np.testing.assert_allclose(quantise(ROWS, code), coded.values(), rtol=2e-7)
    assert rows_bytes(50, 10, code) == len(coded.data)


def test_linear_codes_by_hand() -> None:
    """2 bits: 0, 1/3, 2/3, 1. (.5, .3, .2) -> codes 2 (1.5 to even), 1, 1 -> (2, 1, 1) / 4."""
    row = np.array([[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(quantise(row, "linear2"), [[0.5, 0.25, 0.25]])
    np.testing.assert_allclose(quantise(np.full((1, 10), 0.1), "linear2"), np.full((1, 10), 0.1))


def test_argmax_is_the_label_alone() -> None:
    np.testing.assert_array_equal(quantise(np.array([[0.2, 0.5, 0.3]]), "argmax"), [[0, 1, 0]])
    assert rows_bytes(900, 10, "argmax") == 450


@pytest.mark.parametrize("labels", [2, 6, 10, 16, 47])
def test_packed_labels_weigh_what_they_weigh_on_the_wire(labels: int) -> None:
    for samples in (1, 2, 3, 100, 900):
        assert labels_bytes(samples, labels, "argmax") == packed_bytes(samples, labels)


def test_counts_are_read_as_the_wire_reads_them() -> None:
    counts = np.array([0, 1, 2, 3, 5, 17, 500, 60_097])
    np.testing.assert_array_equal(read_counts(counts), wire_counts(code_counts(counts)))
