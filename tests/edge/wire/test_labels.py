from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.labels import MOST_LABELS, pack_labels, packed_bytes, read_labels, word


@pytest.mark.parametrize(
    ("labels", "expected"), [(2, (1, 1)), (6, (5, 13)), (10, (3, 10)), (16, (1, 4)), (100, (1, 7))]
)
def test_the_word_that_spends_fewest_bits_a_label(labels: int, expected: tuple[int, int]) -> None:
    assert word(labels) == expected


def test_three_labels_of_ten_in_ten_bits() -> None:
    # 1, 2, 3 -> 123 = 0001111011; then 9, missing, missing -> 900 = 1110000100; then four zero bits
    assert pack_labels(np.array([1, 2, 3, 9]), 10) == bytes([0b00011110, 0b11111000, 0b01000000])


def test_900_labels_of_ten_take_375_bytes() -> None:
    assert packed_bytes(900, 10) == 375 == len(pack_labels(np.full(900, 9), 10))


@given(st.integers(2, 300).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=60))))
def test_labels_survive_their_journey(case: tuple[int, list[int]]) -> None:
    labels, values = case
    data = pack_labels(np.array(values, np.int64), labels)
    assert len(data) == packed_bytes(len(values), labels)
    assert read_labels(data, len(values), labels).tolist() == values


@given(st.binary(max_size=12), st.integers(0, 30), st.integers(2, 40))
def test_bytes_are_the_one_encoding_or_refused(data: bytes, samples: int, labels: int) -> None:
    try:
        values = read_labels(data, samples, labels)
    except ValueError:
        return
    assert pack_labels(values, labels) == data


@pytest.mark.parametrize(
    ("data", "samples", "why"),
    [
        (bytes(2), 4, "bytes for 4 labels"),
        (bytes([255, 192]), 3, "beyond the 10"),
        (bytes([0, 1]), 3, "bits after the last"),
        (bytes([0, 64]), 2, "is label 0"),
    ],
)
def test_what_is_never_written_is_refused(data: bytes, samples: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_labels(data, samples, 10)


def test_labels_outside_their_range_are_refused() -> None:
    for values in (np.array([10]), np.array([-1]), np.zeros((2, 2), np.int64)):
        with pytest.raises(ValueError, match="from 0 to 9"):
            pack_labels(values, 10)
    for labels in (1, MOST_LABELS + 1):
        with pytest.raises(ValueError, match="can be packed"):
            word(labels)
