from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge.runtime.program import load_program
from edge.shard import load_pool
from edge.wire.manifest import POOL_FILE
from trainer.data import load_dataset
from trainer.partition import parse_split, resolve
from trainer.pool import pool, pool_bytes, write_with_pool
from trainer.programs import shipped
from trainer.shards import deal, left_over

PROGRAM = shipped("cnn-8x8")


def test_the_command_writes_a_program_that_a_device_loads(tmp_path: Path) -> None:
    out = tmp_path / "shared"
    arguments = [str(PROGRAM), "--data", "digits", "--devices", "4", "--samples", "50", "--inputs", "300"]
    done = CliRunner().invoke(pool, [*arguments, "-o", str(out)])
    assert done.exit_code == 0, done.output
    plain, shared = load_program(PROGRAM), load_program(out)
    found = load_pool(shared.file(POOL_FILE), shared.manifest)
    assert (found.x.shape, str(found.x.dtype), found.scale) == ((300, 1, 8, 8), "uint8", 1 / 16)
    assert found.batch(np.array([0, 1])).max() <= 1
    assert plain.digest != shared.digest
    assert {name: data for name, data in shared.files.items() if name != POOL_FILE} == plain.files
    assert np.array_equal(plain.initial, shared.initial)


def test_nobody_trains_on_the_pool_or_is_tested_on_it() -> None:
    dataset = load_dataset("digits")
    split = resolve(parse_split("fd"), 50, 10)
    shards = deal(dataset, split, devices=4, samples=50, seed=3)
    left = left_over(dataset, split, devices=4, samples=50, seed=3)
    before = {x.tobytes() for shard in shards for x in shard.train.x} | {x.tobytes() for x in dataset.test.x}
    assert len(left) > 700
    assert sum(x.tobytes() in before for x in left) < 5  # the digits hold a few images twice


def test_the_same_inputs_make_the_same_program(tmp_path: Path) -> None:
    x = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    assert pool_bytes(x, 0.5) == pool_bytes(x, 0.5)
    first = write_with_pool(PROGRAM, x, scale=0.5, out=tmp_path / "a")
    assert write_with_pool(PROGRAM, x, scale=0.5, out=tmp_path / "b").digest == first.digest


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (np.zeros((0, 1, 8, 8)), "no input is left over for a pool"),
        (np.zeros((2, 1, 28, 28)), "takes"),
    ],
)
def test_what_is_no_pool_for_this_program_is_said(x: np.ndarray, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        write_with_pool(PROGRAM, x, scale=1.0, out=tmp_path / "out")
