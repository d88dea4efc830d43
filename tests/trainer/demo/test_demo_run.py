"""The demo, whole: real processes over a real broker, on real data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import psutil
import pytest

from edge.runtime.program import load_program
from trainer.demo.table import rows_of
from trainer.programs import shipped
from trainer.record.run import Curve, Record, read_record

SCHEMA = json.loads((Path(__file__).parents[3] / "trainer" / "record" / "run.schema.json").read_text())


def demo(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "potstill", "demo", "--out", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    )


def finished(process: subprocess.Popen[str], timeout_s: float = 240) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def children(folder: Path) -> list[psutil.Process]:
    """Processes that were given a path of this run's, the demo itself left out."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "demo" not in words and any(str(folder) in word for word in words):
            found.append(process)
    return found


def broker_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "serve" in child.cmdline()]


def record(folder: Path) -> Record:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads((folder / "run.json").read_text()))
    return read_record(folder / "run.json")


def curve(folder: Path, method: str, split: str = "iid") -> Curve:
    (found,) = [curve for curve in record(folder).curves if (curve.method, curve.split) == (method, split)]
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Four devices, two splits, three methods: what most tests below look at, with what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    code, out, err = finished(demo(folder, "--devices", "4", "--rounds", "6", "--split", "iid,fd"))
    assert code == 0, err
    return folder, out


def test_the_record_is_whole_and_as_its_schema_says(small: tuple[Path, str]) -> None:
    found = record(small[0])
    assert found.complete
    assert found.failure is None
    both = [(split, method) for split in ("iid", "fd:3:1") for method in ("alone", "fl", "fd")]
    assert [(curve.split, curve.method) for curve in found.curves] == both
    for curve in found.curves:
        assert [device.name for device in curve.devices] == ["d0", "d1", "d2", "d3"]
        assert [point.round for point in curve.points] == list(range(6))
        assert all(set(point.devices) == {"d0", "d1", "d2", "d3"} for point in curve.points)
        assert all(point.missing == () for point in curve.points)
        assert curve.figures["refused"] == 0
    iid, skewed = found.curves[0].devices, found.curves[3].devices
    assert all(sum(a.samples) == 60 > sum(b.samples) for a, b in zip(iid, skewed, strict=True))


def test_a_page_lies_beside_the_record(small: tuple[Path, str]) -> None:
    page = (small[0] / "report.html").read_text(encoding="utf-8")
    assert "Potstill demo: alone, fl, fd" in page
    assert len((small[0] / "points.csv").read_text().splitlines()) == 1 + 2 * 3 * 6
    assert len((small[0] / "devices.csv").read_text().splitlines()) == 1 + 2 * 3 * 4


def test_all_methods_start_from_the_same_model(small: tuple[Path, str]) -> None:
    """Round 0 of fd has no teacher, so it is the round 0 of alone, device by device, to the last digit."""
    for split in ("iid", "fd:3:1"):
        alone, fd = (curve(small[0], method, split).points[0].devices for method in ("alone", "fd"))
        for device in alone:
            assert alone[device]["accuracy"] == fd[device]["accuracy"]
            assert alone[device]["loss"] == fd[device]["loss"]


def test_fl_delivers_one_model_and_pays_for_it(small: tuple[Path, str]) -> None:
    found = record(small[0])
    assert found.program is not None
    size = 4 * found.program["parameters"]
    rows = {(row.split, row.method): row for row in rows_of(found)}
    for split in ("iid", "fd:3:1"):
        alone, fl, fd = (rows[split, method] for method in ("alone", "fl", "fd"))
        assert fl.worst == fl.best
        assert size < fl.payload_up < size + 100
        assert 100 * fd.payload_up < fl.payload_up
        assert alone.payload_up < fd.payload_up <= 80
        for row in (alone, fl, fd):
            assert row.payload_up < row.stream_up
            assert row.payload_down < row.stream_down


def test_everybody_learns(small: tuple[Path, str]) -> None:
    for found in record(small[0]).curves:
        assert found.points[-1].score.worst > 0.3, (found.split, found.method)


def test_tables_say_what_was_printed(small: tuple[Path, str]) -> None:
    folder, out = small
    table = (folder / "table.txt").read_text()
    assert table.split("\n\n")[0] in out
    for row in rows_of(record(folder)):
        assert " | ".join(row.cells()) in (folder / "table.md").read_text()
    for word in ("TCP_INFO", "payload:", "seconds:", "measured"):
        assert word in out


def test_share_has_its_pool_from_what_a_split_leaves_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("--devices", "2", "--rounds", "7", "--steps", "8", "--split", "fd", "--methods", "alone,share")
    code, out, err = finished(demo(folder, *words))
    assert code == 0, err
    assert load_program(folder / "programs" / "fd-3-1").files["pool.npz"]
    ups = [point.up.payload for point in curve(folder, "share", "fd:3:1").points if point.up]
    rounds = [after - before for before, after in pairwise(ups)]
    assert max(rounds[:4]) < 100, "five rounds to warm up"
    assert min(rounds[4:]) > 900 * 3.3 / 8, "then 900 labels of ten"
    assert "fd:3:1: share - alone = " in out


def test_a_split_that_leaves_nothing_over_has_no_share(tmp_path: Path) -> None:
    code, _, err = finished(demo(tmp_path / "run", "--samples", "100", "--split", "iid", "--methods", "share"))
    assert code == 1
    assert "iid leaves no input over for share's pool: fewer samples a device" in err


def test_no_process_is_left(small: tuple[Path, str]) -> None:
    assert children(small[0]) == []


def test_progress_is_plain_lines_where_there_is_no_terminal(small: tuple[Path, str]) -> None:
    assert "round   5/6  accuracy mean" in small[1]
    assert "devices up 4/4" in small[1]
    assert "\x1b" not in small[1]


def test_a_second_run_needs_a_folder_of_its_own(small: tuple[Path, str]) -> None:
    code, _, err = finished(demo(small[0], "--devices", "2"))
    assert code == 1
    assert "is not empty: name another folder" in err


def test_same_seed_same_accuracies(small: tuple[Path, str], tmp_path: Path) -> None:
    again = tmp_path / "again"
    code, _, err = finished(demo(again, "--devices", "4", "--rounds", "6", "--split", "fd", "--methods", "fd"))
    assert code == 0, err
    first = curve(small[0], "fd", "fd:3:1")
    assert [p.score for p in curve(again, "fd", "fd:3:1").points] == [p.score for p in first.points]


@pytest.mark.slow
def test_fd_beats_alone_on_digits(tmp_path: Path) -> None:
    """The demo's claim at a third of its rounds; five seeds of the whole are in docs/demo.md."""
    code, _, err = finished(demo(tmp_path / "run", "--rounds", "12", "--methods", "alone,fd"))
    assert code == 0, err
    for split in ("iid", "fd:3:1"):
        alone, fd = (curve(tmp_path / "run", method, split).points[-1].score for method in ("alone", "fd"))
        assert fd.mean > alone.mean + 0.01, split
        assert fd.worst > alone.worst, split


@pytest.mark.shared
@pytest.mark.slow
def test_fd_beats_alone_on_mnist(tmp_path: Path, shared_data: Path) -> None:
    """Half the devices, half the samples, a third of the rounds of the claim in docs/demo.md."""
    arguments = ["--data", f"mnist:{shared_data / 'mnist'}", "--methods", "alone,fd", "--split", "iid"]
    code, _, err = finished(demo(tmp_path / "run", *arguments, "--devices", "5", "--samples", "250", "--rounds", "10"))
    assert code == 0, err
    alone, fd = (curve(tmp_path / "run", method).points[-1].score for method in ("alone", "fd"))
    assert fd.mean > alone.mean + 0.01


@pytest.mark.shared
def test_natural_devices(tmp_path: Path, shared_data: Path) -> None:
    arguments = ["--data", f"npz:{shared_data / 'har'}", "--devices", "3", "--rounds", "2", "--methods", "fd"]
    code, out, err = finished(demo(tmp_path / "run", *arguments))
    assert code == 0, err
    found = record(tmp_path / "run")
    assert [device.test_samples for device in found.curves[0].devices] == [87, 76, 86]
    assert found.settings["own_test"]
    assert "its own test samples" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_a_record_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = demo(folder, "--devices", "3", "--rounds", "10000", "--split", "iid", "--methods", "fd")
    wait_for(lambda: (folder / "logs" / "iid" / "d0.log").exists() and len(children(folder)) == 4)
    broker = broker_of(process)
    wait_for(lambda: "round 9:" in (folder / "logs" / "iid" / "d0.log").read_text())  # by then it has heard a report
    process.send_signal(number)
    code, _, err = finished(process, 30)
    assert code == 130, err
    assert "Stopped; every process has ended" in err
    assert children(folder) == []
    assert not any(child.is_running() for child in broker)
    found = record(folder)
    assert not found.complete
    assert found.failure == "stopped by the user"
    assert found.curves[0].points


def test_a_device_that_dies_is_named_with_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = demo(folder, "--devices", "3", "--rounds", "10000", "--split", "iid", "--methods", "fd")
    log = folder / "logs" / "iid" / "d1.log"
    wait_for(lambda: log.exists() and "round 1:" in log.read_text())
    (victim,) = [child for child in children(folder) if "d1" in child.cmdline()]
    os.kill(victim.pid, signal.SIGKILL)
    code, _, err = finished(process, 30)
    assert code == 1
    assert "device d1 ended with code -9" in err
    assert str(log) in err
    assert children(folder) == []
    assert "device d1" in str(record(folder).failure)


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["--devices", "2", "--rounds", "1", "--split", "iid"]
    code, _, err = finished(demo(tmp_path / "run", *arguments, "--broker", "mqtt://127.0.0.1:1"))
    assert code == 1
    assert "no broker at 127.0.0.1:1" in err
    assert "leave the broker out" in err
    assert not record(tmp_path / "run").complete


def test_no_embedded_broker_installed(tmp_path: Path) -> None:
    """As on a machine without iotcore: a start-up file takes it away from every process of the demo."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['iotcore'] = None\n")
    arguments = ["--devices", "2", "--rounds", "1", "--split", "iid"]
    code, _, err = finished(demo(tmp_path / "run", *arguments, PYTHONPATH=str(tmp_path)))
    assert code == 1
    assert "pip install 'potstill[embedded]'" in err
    assert str(tmp_path / "run" / "logs" / "broker.log") in err


def test_a_run_without_matplotlib_has_no_page(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    arguments = ["--devices", "2", "--rounds", "1", "--split", "iid", "--methods", "fd"]
    code, out, err = finished(demo(tmp_path / "run", *arguments, PYTHONPATH=str(tmp_path)))
    assert code == 0, err
    assert "(run.json, table.md, ledger, logs)" in out
    assert record(tmp_path / "run").complete


@pytest.mark.mosquitto
def test_another_broker_and_another_runtime(tmp_path: Path) -> None:
    serve = [sys.executable, "-m", "potstill", "broker", "serve", "--kind", "mosquitto", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        url = json.loads(broker.stdout.readline())["url"]
        arguments = ["--devices", "2", "--rounds", "2", "--split", "iid", "--runtime", "numpy", "--broker", url]
        code, _, err = finished(demo(tmp_path / "run", *arguments))
        broker.terminate()
    assert code == 0, err
    found = record(tmp_path / "run")
    assert (found.settings["broker"], found.settings["runtime"]) == (url, "numpy")
    assert "runtime numpy" in (tmp_path / "run" / "logs" / "iid" / "d0.log").read_text()


def test_data_that_is_not_there(tmp_path: Path) -> None:
    code, _, err = finished(demo(tmp_path / "run", "--data", f"mnist:{tmp_path / 'absent'}"))
    assert code == 1
    assert "Expected t10k-images-idx3-ubyte" in err
    assert not (tmp_path / "run").exists()


def test_a_damaged_program_is_told_by_the_device(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.mkdir()
    for file in shipped("cnn-8x8").iterdir():
        (program / file.name).write_bytes(file.read_bytes())
    np.save(program / "initial.npy", np.zeros(3, np.float32))
    arguments = ["--devices", "2", "--rounds", "1", "--split", "iid", "--program", str(program)]
    code, _, err = finished(demo(tmp_path / "run", *arguments))
    assert code == 1
    assert "initial.npy is not the file its manifest names" in err
    assert children(tmp_path / "run") == []
