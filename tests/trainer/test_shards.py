"""Shard files, and the command that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trainer.data import load_digits, load_npz, read_shard
from trainer.partition import SplitError, parse_split
from trainer.shards import deal, default_samples, write_shards
from trainer.split_cli import split


def test_a_shard_comes_back_as_it_was_dealt(tmp_path: Path) -> None:
    data = load_digits()
    shards = deal(data, parse_split("fd"), devices=3, samples=60, seed=1)
    files = write_shards(tmp_path, shards, scale=data.scale, label_count=10)
    assert [file.path.name for file in files] == ["d0.npz", "d1.npz", "d2.npz"]
    for file, shard in zip(files, shards, strict=True):
        back, scale = read_shard(file.path)
        assert scale == 1 / 16
        assert np.array_equal(back.train.x, shard.train.x)
        assert np.array_equal(back.test.y, data.test.y)
        assert file.counts == tuple(np.bincount(shard.train.y, minlength=10))


def test_shards_never_mix_with_older_ones(tmp_path: Path) -> None:
    (tmp_path / "d7.npz").write_bytes(b"")
    with pytest.raises(FileExistsError, match="name another folder"):
        write_shards(tmp_path, (), scale=1.0, label_count=10)


def test_default_samples_fit_the_pool() -> None:
    data = load_digits()
    assert default_samples(data, 10) == 60
    assert default_samples(data, 100) == 10


@pytest.mark.shared
def test_natural_devices_keep_what_is_theirs(shared_data: Path) -> None:
    data = load_npz(shared_data / "har")
    own = deal(data, parse_split("natural"), devices=10, samples=1, seed=0, own_test=True)
    common = deal(data, parse_split("natural"), devices=10, samples=1, seed=0)
    assert [len(device.train) for device in own][:2] == [260, 226]
    assert [len(device.test) for device in own][:2] == [87, 76]
    assert {len(device.test) for device in common} == {sum(len(device.test) for device in own)}
    with pytest.raises(SplitError, match="files for 1 to 30"):
        deal(data, parse_split("natural"), devices=31, samples=1, seed=0)


def test_own_tests_need_own_devices() -> None:
    with pytest.raises(SplitError, match="needs split natural"):
        deal(load_digits(), parse_split("iid"), devices=2, samples=9, seed=0, own_test=True)
    with pytest.raises(SplitError, match="no devices of its own"):
        deal(load_digits(), parse_split("natural"), devices=2, samples=9, seed=0)


def test_the_command_writes_shards_and_says_how(tmp_path: Path) -> None:
    arguments = ["--data", "digits", "--split", "fd", "--devices", "4", "--out", str(tmp_path / "s")]
    result = CliRunner().invoke(split, arguments)
    assert result.exit_code == 0, result.output
    note = json.loads((tmp_path / "s" / "split.json").read_text())
    assert note["split"] == "fd:3:1"
    assert list(note["devices"]) == ["d0", "d1", "d2", "d3"]
    assert result.output.count("\n") == 4
    again = CliRunner().invoke(split, arguments)
    assert again.exit_code == 1
    assert "already holds .npz files" in again.output


def test_the_command_says_what_would_fit(tmp_path: Path) -> None:
    result = CliRunner().invoke(split, ["--devices", "1001", "--samples", "1", "--out", str(tmp_path / "s")])
    assert result.exit_code == 1
    assert "at most 1000 devices" in result.output
