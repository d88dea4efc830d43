"""Ray computes what one process does: a node of its own, two workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.progress import choose
from trainer.record.run import Curve
from trainer.reference.engines import Here, engine
from trainer.reference.progress import HEADS
from trainer.reference.run import follow
from trainer.reference.settings import RunError
from trainer.reference.settle import Wish, settle
from trainer.reference.study import Job, run_jobs


@pytest.mark.filterwarnings("ignore")  # ray's own: sockets and files that it leaves to the collector
def test_ray_and_local_agree(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no ray: pip install 'potstill[ray]'")
    changes = {"rounds": 2, "steps": 2, "warm_up": 0}
    wish = Wish(methods=("fd", "share"), splits=("iid",), devices=4, seeds=(0,), changes=changes)
    jobs = [Job(settings=settings) for settings in settle(wish, tmp_path)]
    with engine("ray", 2) as cluster, choose(HEADS) as progress:
        curves = run_jobs(jobs, cluster, None, progress)
    for job, curve in zip(jobs, curves, strict=True):
        here = asyncio.run(follow(job.settings, "", Here(), None, lambda *_: None))
        assert _untimed(curve) == _untimed(here)


def _untimed(curve: Curve) -> list[object]:
    return [replace(point, seconds=None) for point in curve.points]


def test_no_cluster_says_what_to_do() -> None:
    pytest.importorskip("ray", reason="no ray: pip install 'potstill[ray]'")
    with pytest.raises(RunError, match="ray start --head"), engine("ray", 1, "127.0.0.1:1"):
        pass
