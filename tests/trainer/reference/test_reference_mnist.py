"""On real MNIST, small: the ordering that the whole project rests on. The full tables: docs/reference.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer.progress import Plain
from trainer.reference.engines import engine
from trainer.reference.settle import Wish, settle
from trainer.reference.study import Job, run_jobs


@pytest.mark.shared
@pytest.mark.slow
def test_alone_is_behind_fd_is_behind_fl_and_share_is_ahead_of_fd(shared_data: Path, tmp_path: Path) -> None:
    """Three devices of 300 images with three scarce labels, eight rounds."""
    wish = Wish(
        methods=("alone", "fd", "fl", "share"),
        data=f"mnist:{shared_data / 'mnist'}",
        splits=("fd",),
        devices=3,
        samples=300,
        changes={"rounds": 8, "every": 8, "warm_up": 2},
    )
    jobs = [Job(settings=settings) for settings in settle(wish, tmp_path)]
    with engine("local", 2) as pool:
        curves = run_jobs(jobs, pool, None, Plain(sys.stdout))
    alone, fd, fl, share = (curve.points[-1].score.mean for curve in curves)
    assert alone < fd < fl
    assert fd < share
    assert fd > alone + 0.01
