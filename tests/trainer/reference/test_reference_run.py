"""Runs of the reference on scikit-learn's digits: determined by the seed, whatever computes them and however often."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.progress import Plain
from trainer.record.run import Curve
from trainer.reference.engines import Here, engine
from trainer.reference.run import Standing, follow
from trainer.reference.settings import METHODS, Settings
from trainer.reference.settle import Wish, settle
from trainer.reference.study import Job, run_jobs


class _StoppedError(Exception):
    pass


def _settings(method: str, **changes: object) -> Settings:
    typed = {"rounds": 4, "steps": 4, "every": 2, "warm_up": 1, "server_steps": 4, "seeds": 5, **changes}
    (settings,) = settle(Wish(methods=(method,), splits=("fd",), devices=4, changes=typed), Path("unused"))
    return settings


def _run(settings: Settings, folder: Path | None = None, stop_after: int | None = None) -> Curve:
    def hear(_: Settings, now: Standing) -> None:
        if now.round == stop_after:
            raise _StoppedError

    return asyncio.run(follow(settings, "", Here(), folder, hear))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_stopped_goes_on_to_the_same_end(method: str, tmp_path: Path) -> None:
    settings = _settings(method)
    whole = _run(settings)
    with pytest.raises(_StoppedError):
        _run(settings, tmp_path, stop_after=3)  # the last thing kept is the end of round 1
    gone_on = _run(settings, tmp_path)
    assert [point.score for point in gone_on.points] == [point.score for point in whole.points]
    assert [(point.up, point.down) for point in gone_on.points] == [(point.up, point.down) for point in whole.points]
    assert [point.round for point in whole.points] == [0, 1, 3]


def test_what_other_settings_left_is_not_gone_on_with(tmp_path: Path) -> None:
    _run(_settings("alone"), tmp_path)
    fresh = _run(_settings("alone", lr=0.05), tmp_path)
    assert fresh.points == _untimed(fresh, _run(_settings("alone", lr=0.05)))


def _untimed(like: Curve, curve: Curve) -> tuple[object, ...]:
    """Points of `curve` with the times of `like`: time is all that may differ."""
    return tuple(replace(p, seconds=other.seconds) for p, other in zip(curve.points, like.points, strict=True))


def test_processes_compute_what_one_process_does(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(settings=_settings(method)) for method in ("fd", "share")]
    with engine("local", 2) as pool:
        curves = run_jobs(jobs, pool, None, Plain(sys.stdout))
    for job, curve in zip(jobs, curves, strict=True):
        assert curve.points == _untimed(curve, _run(job.settings))
    assert "round     4/4" in capsys.readouterr().out


def test_eager_autograd_agrees_with_the_compiled_program() -> None:
    settings = _settings("fd", initial="program")
    ours, witness = (_run(replace(settings, runtime=runtime)) for runtime in ("onnx", "eager"))
    for one, other in zip(ours.points, witness.points, strict=True):
        assert abs(one.score.mean - other.score.mean) < 0.005
        assert one.up == other.up


def test_another_seed_is_another_run() -> None:
    one, other = _run(_settings("fd")), _run(replace(_settings("fd"), seed=1))
    assert one.points[-1].score != other.points[-1].score
