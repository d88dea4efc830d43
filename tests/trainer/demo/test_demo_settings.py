"""What the demo settles before it starts anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data import Dataset, Samples, load_digits
from trainer.demo.settings import DemoError, Wish, settle
from trainer.partition import SplitError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits()


def test_defaults(digits: Dataset) -> None:
    settings = settle(Wish(), digits)
    assert [str(split) for split in settings.splits] == ["iid", "fd:3:1"]
    assert settings.methods == ("alone", "fl", "fd")
    assert (settings.devices, settings.samples, settings.bits, settings.own_test) == (10, 60, 4, False)
    assert settings.program_name == "cnn-8x8"


def test_what_is_typed_wins(digits: Dataset) -> None:
    settings = settle(Wish(rounds=3, lr=0.5, gamma=0.0, samples=20, splits=("mix2fld:3:1",)), digits)
    assert (settings.rounds, settings.lr, settings.gamma, settings.samples) == (3, 0.5, 0.0, 20)
    assert [str(split) for split in settings.splits] == ["mix2fld:3:1"]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(methods=("fd", "kd")), "unknown method 'kd': choose from alone, fl, fd"),
        (Wish(methods=("fd", "fd")), "a method is named twice"),
        (Wish(methods=()), "at least one split and one method"),
        (Wish(splits=("fd", "fd:3:1")), "a split is named twice"),
        (Wish(devices=1), "2 to 200"),
        (Wish(lr=-1.0), "0 < lr < 1000"),
        (Wish(gamma=float("nan")), "0 <= gamma < 1000"),
        (Wish(bits=5), "choose from 32, 16, 8, 4, 3"),
        (Wish(program=Path("absent")), "no program there .* potstill trainer compile"),
    ],
)
def test_refusals(digits: Dataset, wish: Wish, message: str) -> None:
    with pytest.raises(DemoError, match=message):
        settle(wish, digits)


def test_refusals_of_splits(digits: Dataset) -> None:
    with pytest.raises(SplitError, match="unknown split 'noniid'"):
        settle(Wish(splits=("noniid",)), digits)
    with pytest.raises(SplitError, match="--split natural"):
        settle(Wish(own_test=True), digits)


def test_data_without_a_program() -> None:
    samples = Samples(x=np.zeros((4, 7), np.float32), y=np.array([0, 1, 2, 3], np.uint8))
    data = Dataset(name="odd", label_count=4, scale=1.0, pool=samples, test=samples)
    with pytest.raises(DemoError, match=r"odd has samples of \(7,\) and 4 labels; there is cnn-8x8 .*--program"):
        settle(Wish(), data)
