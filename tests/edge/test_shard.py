from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.runtime.program import Program
from edge.shard import ShardError, load_pool, load_shard

GOOD: dict[str, Any] = {
    "train_x": np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8),
    "train_y": np.array([0, 9, 9], np.uint8),
    "test_x": np.zeros((2, 8, 8), np.uint8),
    "test_y": np.array([1, 2]),
    "scale": np.float32(0.5),
}


def _load(tmp_path: Path, program: Program, **changes: Any) -> Any:
    file = tmp_path / "shard.npz"
    np.savez(file, **{name: value for name, value in {**GOOD, **changes}.items() if value is not None})
    return load_shard(file, program.manifest)


def test_keeps_the_stored_type_and_puts_the_channel_in(tmp_path: Path, linear_program: Program) -> None:
    shard = _load(tmp_path, linear_program)
    assert shard.train_x.dtype == np.uint8
    assert shard.train_x.shape == (3, 1, 8, 8)
    assert shard.samples == 3
    assert shard.counts(10).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]


def test_a_batch_is_float32_scaled_and_padded(tmp_path: Path, linear_program: Program) -> None:
    x, y = _load(tmp_path, linear_program).batch(np.array([2, 0]), 4)
    assert x.dtype == np.float32
    assert x.shape == (4, 1, 8, 8)
    assert x[0].ravel().tolist() == [0.5 * value for value in range(128, 192)]
    assert not x[2:].any()
    assert y.tolist() == [9, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16, np.bool_])
def test_reads_numbers_of_any_type(tmp_path: Path, linear_program: Program, dtype: type) -> None:
    shard = _load(tmp_path, linear_program, train_x=np.ones((3, 8, 8), dtype))
    assert shard.train_x.dtype.itemsize <= 4
    assert shard.batch(np.array([0]), 1)[0].tolist() == np.full((1, 1, 8, 8), 0.5).tolist()


def test_scale_is_one_where_there_is_none(tmp_path: Path, linear_program: Program) -> None:
    assert _load(tmp_path, linear_program, scale=None).scale == 1.0


def test_the_test_set_comes_in_parts_and_may_be_empty(tmp_path: Path, linear_program: Program) -> None:
    shard = _load(tmp_path, linear_program, test_x=np.ones((5, 64)), test_y=np.arange(5))
    assert [(x.shape, y.tolist()) for x, y in shard.test_batches(3)] == [
        ((3, 1, 8, 8), [0, 1, 2]),
        ((2, 1, 8, 8), [3, 4]),
    ]
    empty = _load(tmp_path, linear_program, test_x=np.zeros((0, 8, 8)), test_y=np.zeros(0))
    assert list(empty.test_batches(3)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_y": None}, "no test_y"),
        ({"train_x": np.zeros((0, 8, 8)), "train_y": np.zeros(0, int)}, "at least one sample"),
        ({"train_y": np.array([0, 1, 10])}, "runs from 0 to 10"),
        ({"train_y": np.array([0, 1, -1])}, "runs from -1 to 1"),
        ({"train_y": np.array([0.0, 1.0, 2.0])}, "whole numbers"),
        ({"train_y": np.array([[0], [1], [2]])}, "whole numbers"),
        ({"train_y": np.array([0, 1])}, "train_x has 3 samples and train_y 2"),
        ({"train_x": np.zeros((3, 4, 16))}, "in the program's order of axes"),
        ({"train_x": np.zeros((3, 1, 28, 28))}, "give a program for such samples .*--input-shape 1,28,28"),
        ({"train_x": np.zeros((3, 8, 9))}, "the program wants"),
        ({"train_x": np.full((3, 8, 8), np.nan, np.float16)}, "NaN or infinity"),
        ({"test_x": np.full((2, 8, 8), np.inf)}, "NaN or infinity"),
        ({"train_x": np.array(["a", "b", "c"])}, "numbers of shape"),
        ({"train_x": np.array([object()] * 3)}, "without objects"),
        ({"scale": np.float32(0)}, "one positive number"),
        ({"scale": np.array([1.0, 2.0])}, "one positive number"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, linear_program: Program, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        _load(tmp_path, linear_program, **changes)


def _nothing(_file: Path) -> None:
    pass


def _text(file: Path) -> None:
    file.write_text("not an archive")


def _cut_short(file: Path) -> None:
    np.savez(file, **GOOD)
    file.write_bytes(file.read_bytes()[:400])


def _one_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_nothing, "no such file"),
        (_text, "not a readable"),
        (_cut_short, "not a readable"),
        (_one_array, "one .npy array"),
    ],
)
def test_says_what_is_wrong_with_the_file(
    tmp_path: Path, linear_program: Program, write: Callable[[Path], None], message: str
) -> None:
    file = tmp_path / "shard.npz"
    write(file)
    with pytest.raises(ShardError, match=message):
        load_shard(file, linear_program.manifest)


@pytest.mark.parametrize(
    ("stored", "wanted"), [((28, 28), (1, 28, 28)), ((1, 28, 28), (784,)), ((64,), (1, 8, 8)), ((9, 128), (9, 1, 128))]
)
def test_puts_layouts_right_that_cannot_be_meant_otherwise(
    tmp_path: Path, linear_program: Program, stored: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    file = tmp_path / "shard.npz"
    x = np.arange(2 * int(np.prod(stored)), dtype=np.float32).reshape(2, *stored)
    np.savez(file, train_x=x, train_y=np.array([0, 1]), test_x=x, test_y=np.array([0, 1]))
    shard = load_shard(file, replace(linear_program.manifest, input_shape=wanted))
    assert shard.train_x.shape == (2, *wanted)
    assert shard.train_x.ravel().tolist() == x.ravel().tolist()


@pytest.mark.shared
def test_reads_a_person_of_har(shared_data: Path, linear_program: Program) -> None:
    manifest = replace(linear_program.manifest, input_shape=(9, 128), labels=tuple("abcdef"))
    shard = load_shard(shared_data / "har" / "subject00.npz", manifest)
    assert shard.train_x.dtype == np.float16
    assert shard.samples == int(shard.counts(6).sum()) > 200


# ---------------------------------------------------------------- the pool of a program


def pool_file(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_pool_is_read_as_it_was_stored(linear_program: Program) -> None:
    x = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    pool = load_pool(pool_file(x=x, scale=np.float32(0.5)), linear_program.manifest)
    assert (pool.x.dtype, pool.x.shape) == (np.dtype(np.uint8), (2, 1, 8, 8))
    assert pool.batch(np.array([1]))[0, 0].tolist() == (0.5 * x[1]).tolist()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"nothing", "not a readable"),
        (pool_file(y=np.zeros(3)), "trainer pool"),
        (pool_file(x=np.zeros((0, 8, 8), np.uint8)), "trainer pool"),
        (pool_file(x=np.zeros((3, 9, 9), np.uint8)), "the program wants"),
        (pool_file(x=np.zeros((3, 8, 8), np.uint8), scale=np.float32(-1)), "one positive number"),
        (pool_file(x=np.array([{}], object)), "without objects"),
        (pool_file(x=np.zeros((1, 70 * 2**20), np.uint8)), "at most"),
    ],
)
def test_what_is_no_pool_is_refused(data: bytes, why: str, linear_program: Program) -> None:
    with pytest.raises(ShardError, match=why):
        load_pool(data, linear_program.manifest)
