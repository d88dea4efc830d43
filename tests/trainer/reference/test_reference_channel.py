"""Runs over a fading channel: who counts, who hears, and what time it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.reference.engines import Here
from trainer.reference.run import Air, Standing, follow, one_round
from trainer.reference.settings import METHODS, Settings
from trainer.reference.settle import Wish, settle


def _settings(method: str, **changes: object) -> Settings:
    typed = {"rounds": 3, "steps": 2, "every": 1, "warm_up": 0, "channel": "mix2fld-asym", **changes}
    (settings,) = settle(Wish(methods=(method,), splits=("iid",), devices=10, changes=typed), Path("unused"))
    return settings


def test_no_channel_takes_no_time() -> None:
    air = Air(_settings("fd", channel=""), 0)
    assert air.uploads([50_176] * 10).all()
    assert air.downloads(50_176).all()
    assert air.seconds == 0


def test_a_dear_uplink_and_a_cheap_downlink() -> None:
    """401,408 bits up take 82 of 100 slots of 1 ms in the mean, the slowest of ten a few more; down they take 7."""
    up = [Air(_settings("fl"), round_) for round_ in range(20)]
    arrived = np.concatenate([air.uploads([50_176] * 10) for air in up])
    assert arrived.mean() > 0.95
    assert 0.08 < np.mean([air.seconds for air in up]) < 0.1
    assert not Air(_settings("fl"), 0).uploads([70_000] * 10).all()  # 114 slots in the mean
    down = [Air(_settings("fl"), round_) for round_ in range(20)]
    assert all(air.downloads(50_176).all() for air in down)
    assert np.mean([air.seconds for air in up]) > 4 * np.mean([air.seconds for air in down])


def test_fading_does_not_depend_on_the_method() -> None:
    one, other = Air(_settings("fl"), 3), Air(_settings("fd"), 3)
    assert (one.uploads([1000] * 10) == other.uploads([1000] * 10)).all()
    assert one.seconds == other.seconds


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lives_with_a_cohort_that_changes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the uploads are lost, then all, then half the broadcasts: the runs go on, and each loss is counted."""
    script = iter(
        [
            (np.arange(10) % 2 == 0, np.ones(10, bool)),
            (np.zeros(10, bool), np.ones(10, bool)),
            (np.ones(10, bool), np.arange(10) % 2 == 0),
            (np.ones(10, bool), np.ones(10, bool)),
        ]
    )

    class Scripted(Air):
        def __init__(self, settings: Settings, round_: int) -> None:
            super().__init__(settings, round_)
            self._arrive, self._hear = next(script)

        def uploads(self, payloads: Sequence[int]) -> NDArray[np.bool_]:
            assert len(payloads) == 10
            return np.asarray(self._arrive)

        def downloads(self, payload: int) -> NDArray[np.bool_]:
            assert payload >= 0
            return np.asarray(self._hear)

    monkeypatch.setattr("trainer.reference.run.Air", Scripted)
    settings = _settings(method, rounds=4, steps=16, warm_up=2)
    now = Standing(devices=[{} for _ in range(10)])
    for _ in range(4):
        asyncio.run(one_round(settings, now, Here()))
    assert now.lost == 15
    assert [point.round for point in now.points] == [0, 1, 2, 3]
    assert now.points[-1].score.mean > 0.15  # a few steps: more than chance is all there is to see


def test_seconds_are_slots_and_computing() -> None:
    settings = _settings("fl")
    free = asyncio.run(follow(replace(settings, channel=""), "", Here(), None, lambda *_: None))
    paid = asyncio.run(follow(settings, "", Here(), None, lambda *_: None))
    slots = (paid.points[-1].seconds or 0) - (free.points[-1].seconds or 0)
    assert slots > 0.05  # three rounds of dozens of slots; computing differs by less
