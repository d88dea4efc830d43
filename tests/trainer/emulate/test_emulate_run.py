"""The emulator, whole: real devices on real links, and nothing of it left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from trainer.emulate.cgroups import find_hierarchy
from trainer.record.run import Record, read_record

MISHAPS = """
[fleet]
methods = ["fl"]
split = "iid"
rounds = 8
steps = 4
deadline_s = 20
quorum = 1

[[group]]
profile = "pi-4b"
count = 2
link = "wifi-2.4-good"
backend = "netns"

[[group]]
name = "far"
profile = "pi-4b"
link = "lossy"
backend = "netns"

[[group]]
name = "battery"
profile = "pi-4b"
link = "wifi-2.4-good"
backend = "netns"
battery_j = 15.0  # five seconds of a Pi at rest: a round is over by then, eight are not

[link.lossy]
from = "lossy-250k"
up = { rate_kbit_per_s = 2000 }
down = { rate_kbit_per_s = 2000 }

[[event]]
kind = "drop"
devices = ["d1"]
at_round = 2
until_round = 4

[[event]]
kind = "fade"
group = "far"
at_round = 1
until_round = 2
up = { loss_fraction = 0.2 }

[[event]]
kind = "broker-restart"
at_round = 5
"""

ENDLESS = """
[fleet]
methods = ["fd"]
split = "iid"
rounds = 10000
steps = 2
[[group]]
profile = "pi-4b"
count = 2
link = "wifi-2.4-good"
backend = "BACKEND"
"""


def emulate(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "potstill", "emulate", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], timeout_s: float = 240) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def written(folder: Path, text: str) -> Path:
    file = folder / "fleet.toml"
    file.write_text(text)
    return file


def processes_of(folder: Path) -> list[psutil.Process]:
    """Devices and the aggregator of a run folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "run" in words and any(str(folder) in word for word in words):
            found.append(process)
    return found


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def training(run: Path) -> bool:
    log = run / "logs" / "d0.log"
    return log.exists() and "round 1:" in log.read_text()


def namespaces() -> dict[tuple[int, int], str]:
    """Named ones of this machine, by what they are."""
    folder = Path("/run/netns")
    paths = list(folder.iterdir()) if folder.exists() else []
    return {(path.stat().st_dev, path.stat().st_ino): path.name for path in paths}


def lived_in(run: Path) -> set[str]:
    """The named namespaces that the processes of a run are in; other runs on this machine have their own."""
    found, names = set(), namespaces()
    for process in processes_of(run):
        status = Path(f"/proc/{process.pid}/ns/net").stat()
        found.add(names.get((status.st_dev, status.st_ino), ""))
    return found


def kinds(record: Record) -> list[str]:
    return [event.kind for event in record.events]


def test_processes_need_no_privilege(tmp_path: Path) -> None:
    text = ENDLESS.replace("BACKEND", "process").replace("10000", "3").replace('["fd"]', '["fl", "fd", "share"]')
    code, out, err = finished(emulate(written(tmp_path, text), "--out", tmp_path / "run"))
    assert code == 0, err
    record = read_record(tmp_path / "run" / "run.json")
    assert record.complete
    assert record.kind == "emulate"
    assert [curve.method for curve in record.curves] == ["fl", "fd", "share"]
    for curve in record.curves:
        assert [point.round for point in curve.points] == [0, 1, 2]
        joules = [point.joules for point in curve.points]
        assert all(each is not None and each.compute is not None and each.compute > 0 for each in joules)
        assert [device.backend for device in curve.devices] == ["process", "process"]
    fl, fd = (curve.points[-1].up for curve in record.curves[:2])
    assert fl is not None
    assert fd is not None
    assert fl.payload > 100 * fd.payload
    for words in ("bytes", "joules", "What is truly enforced", "not: this host's loopback"):
        assert words in out
    assert "modelled" in record.provenance["compute"]
    assert processes_of(tmp_path) == []


@pytest.mark.root
@pytest.mark.slow
def test_mishaps_befall_a_fleet_on_shaped_links(tmp_path: Path) -> None:
    code, _, err = finished(emulate(written(tmp_path, MISHAPS), "--out", tmp_path / "run"))
    assert code == 0, err
    record = read_record(tmp_path / "run" / "run.json")
    assert sorted(kinds(record)) == sorted(["fade", "drop", "fade", "drop", "broker-restart", "battery"])
    (curve,) = record.curves
    reported = {point.round: set(point.devices) for point in curve.points}
    assert "d1" in reported[0] - reported[3], "it drops out at round 2"
    assert "d1" in reported[7], "and returns at round 4"
    assert "d3" in reported[0] - reported[7], "its battery is empty"
    at = {(event.kind, event.text): event.seconds for event in record.events}
    assert all(seconds is not None and seconds > 0 for seconds in at.values())
    far = next(device for device in curve.devices if device.name == "d2")
    assert far.link == "lossy"
    assert (far.figures["link_lost_up"] or 0) > 0
    assert (far.figures["retransmitted_bytes"] or 0) > 1000, "its own count shows what was lost"
    assert far.up is not None
    assert far.up.payload > 7 * 35_000, "a model a round"
    radio = far.joules.radio if far.joules else None
    assert radio is None, "a bare link has no radio"
    near = next(device for device in curve.devices if device.name == "d0")
    assert near.joules is not None
    assert near.joules.radio is not None
    assert near.joules.radio > 0
    assert processes_of(tmp_path) == []


@pytest.mark.root
def test_a_killed_emulator_leaves_no_process_and_is_cleaned_up_after(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = emulate(written(tmp_path, ENDLESS.replace("BACKEND", "netns")), "--out", run)
    wait_for(lambda: training(run))
    ours = lived_in(run)
    assert {name.rpartition("-")[2] for name in ours} == {"hub", "d0", "d1"}
    process.kill()
    process.communicate()
    wait_for(lambda: processes_of(run) == [], 30)
    assert ours <= set(namespaces().values()), "the kernel does not remove a named namespace"
    code, out, err = finished(emulate("--clean"))
    assert code == 0, err
    assert all(f"removed netns {name}" in out for name in ours)
    assert not ours & set(namespaces().values())
    assert not [path for name in ours for path in find_hierarchy().paths(name) if path.exists()]


@pytest.mark.root
def test_a_stopped_emulator_removes_everything(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = emulate(written(tmp_path, ENDLESS.replace("BACKEND", "netns")), "--out", run)
    wait_for(lambda: training(run))
    ours = lived_in(run)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process, 60)
    assert code == 130, err
    assert "Stopped" in err
    assert len(ours) == 3
    assert not ours & set(namespaces().values())
    assert not [path for name in ours for path in find_hierarchy().paths(name) if path.exists()]
    assert processes_of(run) == []
    record = read_record(run / "run.json")
    assert record.failure == "stopped by the user"
    assert record.curves[0].points, "what was done is kept"


def test_a_device_that_cannot_start_is_told_with_its_words(tmp_path: Path) -> None:
    text = ENDLESS.replace("BACKEND", "process").replace('link = "wifi-2.4-good"', "memory_mib = 8")
    code, _, err = finished(emulate(written(tmp_path, text), "--out", tmp_path / "run"))
    assert code == 1
    assert "device d0 ended with code" in err or "device d1 ended with code" in err
    assert "The whole log" in err
    record = read_record(tmp_path / "run" / "run.json")
    assert record.failure is not None
    assert processes_of(tmp_path) == []


def test_a_fleet_is_checked_without_starting_anything(tmp_path: Path) -> None:
    assert finished(emulate(written(tmp_path, MISHAPS), "--check"))[:2] == (0, "fleet: 4 devices, back ends netns\n")
    code, _, err = finished(emulate(written(tmp_path, "[flet]\n"), "--check"))
    assert code == 1
    assert "did you mean fleet" in err
    assert finished(emulate())[0] == 2
