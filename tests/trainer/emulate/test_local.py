"""Devices as processes of this host: what holds them, and their wall clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from trainer.emulate.backend import BackendError
from trainer.emulate.local import clock, clock_enforced, find_faketime

YEAR_S = 365 * 24 * 3600.0
TELL = "import time; print(time.time(), time.monotonic())"


@pytest.mark.tools("faketime")
@pytest.mark.parametrize("offset_s", [-YEAR_S, 3600.0])
def test_a_wrong_wall_clock_leaves_monotonic_time_alone(offset_s: float) -> None:
    monotonic_s = time.monotonic()
    environment = {**os.environ, **clock(offset_s, find_faketime())}
    told = subprocess.run([sys.executable, "-c", TELL], env=environment, capture_output=True, text=True, check=True)
    wall_s, passed_s = map(float, told.stdout.split())
    assert wall_s - time.time() == pytest.approx(offset_s, abs=60)
    assert 0 <= passed_s - monotonic_s < 60
    assert clock_enforced(find_faketime()).startswith("libfaketime")


def test_a_right_clock_needs_nothing() -> None:
    assert clock(0.0, None) == {}


def test_a_wrong_clock_is_refused_where_nothing_makes_it() -> None:
    assert clock_enforced(None).startswith("not")
    with pytest.raises(BackendError, match="apt-get install"):
        clock(1.0, None)
