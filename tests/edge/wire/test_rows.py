"""Coded rows and one-byte counts, by hand and by property."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.rows import (
    FLOAT_BITS,
    LOG_BITS,
    CodedRows,
    NotFiniteError,
    code_counts,
    code_rows,
    read_both,
    read_counts,
)

BITS = FLOAT_BITS + LOG_BITS


def rows_of(seed: int, rows: int, labels: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(labels, 0.1), size=rows)


def test_four_bits_by_hand() -> None:
    # -log2 of .5, .25, .25, 0 is 1, 2, 2, infinity; one code an octave: 1, 2, 2, 15.
    coded = code_rows(np.array([[0.5, 0.25, 0.25, 0.0]]), 4)
    assert coded.data == b"\x12\x2f"
    total = 1 + 2.0**-15
    assert coded.values() == pytest.approx(np.array([[0.5, 0.25, 0.25, 2.0**-15]]) / total, rel=1e-6)


def test_three_bits_by_hand() -> None:
    # 7 codes in 15 octaves: .5 is .4667 steps -> 0, .25 is .9333 -> 1, 0 -> 7: 000 001 001 111, then four zero bits.
    assert code_rows(np.array([[0.5, 0.25, 0.25, 0.0]]), 3).data == bytes([0b00000100, 0b11110000])


def test_eight_bits_by_hand() -> None:
    # 17 codes an octave.
    assert code_rows(np.array([[0.5, 0.25, 0.25, 0.0]]), 8).data == bytes([17, 34, 34, 255])


def test_floats_are_little_endian() -> None:
    assert code_rows(np.array([[1.0, 0.0]]), 32).data == bytes.fromhex("0000803f00000000")
    assert code_rows(np.array([[1.0, 0.0]]), 16).data == bytes.fromhex("003c0000")


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(1, 12), st.sampled_from(BITS))
def test_what_is_read_is_as_close_as_the_bits_allow(seed: int, rows: int, labels: int, bits: int) -> None:
    values = rows_of(seed, rows, labels)
    read = code_rows(values, bits).values()
    assert read.shape == values.shape
    assert read.dtype == np.float32
    assert read.sum(axis=1) == pytest.approx(np.ones(rows), abs=1e-6)
    if bits in FLOAT_BITS:
        assert read == pytest.approx(values, abs=1e-6 if bits == 32 else 6e-4)
    else:  # half a step before the row is renormalised, as much again by it; what is below 2^-15 is said to be 2^-15
        step = 15 / (2**bits - 1)
        octaves = np.abs(np.log2(np.maximum(values, 2.0**-15)) - np.log2(read))
        assert (octaves <= step + labels * 2.0**-14).all()


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(1, 12), st.sampled_from(LOG_BITS))
def test_codes_are_those_of_the_formula_one_after_the_other(seed: int, rows: int, labels: int, bits: int) -> None:
    values, top = rows_of(seed, rows, labels), 2**bits - 1
    codes = [min(max(round(-math.log2(p) * (top / 15)), 0), top) if p else top for p in values.ravel().tolist()]
    said = "".join(f"{code:0{bits}b}" for code in codes)
    data = code_rows(values, bits).data
    assert "".join(f"{byte:08b}" for byte in data) == said + "0" * (-len(said) % 8)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.sampled_from(LOG_BITS))
def test_any_codes_say_probabilities(seed: int, rows: int, labels: int, bits: int) -> None:
    data = np.random.default_rng(seed).integers(0, 2, rows * labels * bits).astype(np.uint8)
    read = CodedRows(rows=rows, labels=labels, bits=bits, data=np.packbits(data).tobytes()).values()
    assert np.isfinite(read).all()
    assert (read > 0).all()
    assert read.sum(axis=1) == pytest.approx(np.ones(rows), abs=1e-6)


@given(st.integers(0, 2**32), st.integers(0, 4), st.integers(0, 4), st.integers(1, 9), st.sampled_from(BITS))
def test_two_are_read_as_each_alone(seed: int, rows: int, more: int, labels: int, bits: int) -> None:
    first, second = code_rows(rows_of(seed, rows, labels), bits), code_rows(rows_of(seed + 1, more, labels), bits)
    both = read_both(first, second)
    assert [one.tolist() for one in both] == [first.values().tolist(), second.values().tolist()]


@pytest.mark.parametrize("bits", BITS)
def test_zero_rows_are_zero_bytes(bits: int) -> None:
    coded = code_rows(np.zeros((0, 5)), bits)
    assert coded.data == b""
    assert coded.values().shape == (0, 5)


def test_logarithms_keep_what_linear_codes_lose() -> None:
    # docs/adr/0003: an off-diagonal of 3e-4, half a linear 8-bit step of 1/255, would be read as 0.
    row = np.array([[0.999, 3e-4, 7e-4]])
    assert code_rows(row, 4).values()[0, 1] == pytest.approx(3e-4, rel=0.5)
    assert np.rint(row * 255)[0, 1] == 0


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_diverged_training_cannot_be_sent(bits: int, wrong: float) -> None:
    with pytest.raises(NotFiniteError, match="learning rate"):
        code_rows(np.array([[wrong, 0.5]]), bits)


@pytest.mark.parametrize("row", [[0.5, 0.6], [0.5, 0.4], [1.5, -0.5], [0.0, 0.0]])
def test_what_is_no_probability_vector_cannot_be_sent(row: list[float]) -> None:
    with pytest.raises(ValueError, match=r"probabilities|sums to 1"):
        code_rows(np.array([row]), 8)


def test_wrong_shapes_and_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        code_rows(np.array([0.5, 0.5]), 8)
    with pytest.raises(ValueError, match="bits is"):
        code_rows(np.array([[0.5, 0.5]]), 2)
    with pytest.raises(ValueError, match="labels >= 1"):
        CodedRows(rows=0, labels=0, bits=8, data=b"")
    with pytest.raises(ValueError, match="as many bytes"):
        CodedRows(rows=1, labels=3, bits=4, data=b"\x00")
    with pytest.raises(ValueError, match="zero"):
        CodedRows(rows=1, labels=3, bits=4, data=b"\x00\x01")


# ---------------------------------------------------------------- counts


def test_counts_by_hand() -> None:
    # 16 log2(2) + 1 = 17; 16 log2(64) + 1 = 97; 16 log2(60097) + 1 = 255.0
    assert code_counts(np.array([0, 1, 2, 64, 60_097, 4_000_000_000])) == bytes([0, 1, 17, 97, 255, 255])
    assert read_counts(bytes([0, 1, 17, 97, 255])).tolist() == [0, 1, 2, 64, 60_097]


def test_small_counts_are_exact() -> None:
    counts = np.arange(24)
    assert read_counts(code_counts(counts)).tolist() == counts.tolist()


@given(st.lists(st.integers(0, 60_097), min_size=1))
def test_counts_are_close_and_monotone(numbers: list[int]) -> None:
    counts = np.sort(np.array(numbers))
    read = read_counts(code_counts(counts)).astype(int)
    assert (np.diff(read) >= 0).all()
    assert (np.abs(read - counts) <= counts * 0.022 + 0.5).all()
    assert code_counts(read) == code_counts(counts)


def test_every_count_has_one_code() -> None:
    written = set(code_counts(np.arange(60_098)))
    for code in range(256):
        if code in written:
            assert code_counts(read_counts(bytes([code]))) == bytes([code])
        else:
            with pytest.raises(ValueError, match="one code"):
                read_counts(bytes([code]))


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=">= 0"):
        code_counts(np.array([1, -1]))
