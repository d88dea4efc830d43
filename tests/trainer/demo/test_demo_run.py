"""The demo, whole: real processes over a real broker, on real data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import pytest

from trainer.demo.table import rows_of
from trainer.programs import shipped

SCHEMA = json.loads((Path(__file__).parents[3] / "trainer" / "demo" / "run.schema.json").read_text())


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


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
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
    assert found["complete"]
    assert found["failure"] is None
    assert [split["split"] for split in found["splits"]] == ["iid", "fd:3:1"]
    for split in found["splits"]:
        assert set(split["devices"]) == {"d0", "d1", "d2", "d3"}
        assert [method["method"] for method in split["methods"]] == ["alone", "fl", "fd"]
        for method in split["methods"]:
            assert len(method["rounds"]) == 6
            assert all(set(entry["devices"]) == set(split["devices"]) for entry in method["rounds"])
            assert all(entry["missing"] == [] for entry in method["rounds"])
            assert method["refused"] == 0
    iid, skewed = (split["devices"] for split in found["splits"])
    assert all(sum(iid[device]["samples"]) == 60 > sum(skewed[device]["samples"]) for device in iid)


def test_all_methods_start_from_the_same_model(small: tuple[Path, str]) -> None:
    """Round 0 of fd has no teacher, so it is the round 0 of alone, device by device, to the last digit."""
    for split in record(small[0])["splits"]:
        alone, _, fd = (method["rounds"][0]["devices"] for method in split["methods"])
        assert {device: alone[device]["accuracy"] for device in alone} == {d: fd[d]["accuracy"] for d in fd}
        assert {device: alone[device]["loss"] for device in alone} == {d: fd[d]["loss"] for d in fd}


def test_fl_delivers_one_model_and_pays_for_it(small: tuple[Path, str]) -> None:
    for split in record(small[0])["splits"]:
        alone, fl, fd = split["methods"]
        assert fl["accuracy"]["worst"] == fl["accuracy"]["best"]
        size = 4 * record(small[0])["program"]["parameters"]
        assert size < fl["bytes_per_device_round"]["payload_up"] < size + 100
        assert 100 * fd["bytes_per_device_round"]["payload_up"] < fl["bytes_per_device_round"]["payload_up"]
        assert alone["bytes_per_device_round"]["payload_up"] < fd["bytes_per_device_round"]["payload_up"] <= 80
        for method in split["methods"]:
            sizes = method["bytes_per_device_round"]
            assert sizes["payload_up"] < sizes["stream_up"]
            assert sizes["payload_down"] < sizes["stream_down"]


def test_everybody_learns(small: tuple[Path, str]) -> None:
    for split in record(small[0])["splits"]:
        for method in split["methods"]:
            assert method["accuracy"]["worst"] > 0.3, (split["split"], method["method"])


def test_tables_say_what_was_printed(small: tuple[Path, str]) -> None:
    folder, out = small
    table = (folder / "table.txt").read_text()
    assert table.split("\n\n")[0] in out
    for row in rows_of(record(folder)):
        assert " | ".join(row.cells()) in (folder / "table.md").read_text()
    for word in ("TCP_INFO", "payload:", "seconds:", "measured"):
        assert word in out


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
    first = record(small[0])["splits"][1]["methods"][2]
    assert record(again)["splits"][0]["methods"][0]["accuracy"] == first["accuracy"]


@pytest.mark.slow
def test_fd_beats_alone_on_digits(tmp_path: Path) -> None:
    """The demo's claim at a third of its rounds; five seeds of the whole are in docs/demo.md."""
    code, _, err = finished(demo(tmp_path / "run", "--rounds", "12", "--methods", "alone,fd"))
    assert code == 0, err
    for split in record(tmp_path / "run")["splits"]:
        alone, fd = (method["accuracy"] for method in split["methods"])
        assert fd["mean"] > alone["mean"] + 0.01, split["split"]
        assert fd["worst"] > alone["worst"], split["split"]


@pytest.mark.shared
@pytest.mark.slow
def test_fd_beats_alone_on_mnist(tmp_path: Path, shared_data: Path) -> None:
    """Half the devices, half the samples, a third of the rounds of the claim in docs/demo.md."""
    arguments = ["--data", f"mnist:{shared_data / 'mnist'}", "--methods", "alone,fd", "--split", "iid"]
    code, _, err = finished(demo(tmp_path / "run", *arguments, "--devices", "5", "--samples", "250", "--rounds", "10"))
    assert code == 0, err
    alone, fd = (method["accuracy"] for method in record(tmp_path / "run")["splits"][0]["methods"])
    assert fd["mean"] > alone["mean"] + 0.01


@pytest.mark.shared
def test_natural_devices(tmp_path: Path, shared_data: Path) -> None:
    arguments = ["--data", f"npz:{shared_data / 'har'}", "--devices", "3", "--rounds", "2", "--methods", "fd"]
    code, out, err = finished(demo(tmp_path / "run", *arguments))
    assert code == 0, err
    found = record(tmp_path / "run")
    assert [device["test_samples"] for device in found["splits"][0]["devices"].values()] == [87, 76, 86]
    assert found["settings"]["own_test"]
    assert "its own test samples" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_a_record_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = demo(folder, "--devices", "3", "--rounds", "10000", "--split", "iid", "--methods", "fd")
    wait_for(lambda: (folder / "logs" / "iid" / "d0.log").exists() and len(children(folder)) == 4)
    broker = broker_of(process)
    wait_for(lambda: "round 1:" in (folder / "logs" / "iid" / "d0.log").read_text())
    process.send_signal(number)
    code, _, err = finished(process, 30)
    assert code == 130, err
    assert "Stopped; every process has ended" in err
    assert children(folder) == []
    assert not any(child.is_running() for child in broker)
    found = record(folder)
    assert not found["complete"]
    assert found["failure"] == "stopped by the user"
    assert found["splits"][0]["methods"][0]["rounds"]


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
    assert "device d1" in record(folder)["failure"]


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["--devices", "2", "--rounds", "1", "--split", "iid"]
    code, _, err = finished(demo(tmp_path / "run", *arguments, "--broker", "mqtt://127.0.0.1:1"))
    assert code == 1
    assert "no broker at 127.0.0.1:1" in err
    assert "leave --broker out" in err
    assert not record(tmp_path / "run")["complete"]


def test_no_embedded_broker_installed(tmp_path: Path) -> None:
    """As on a machine without iotcore: a start-up file takes it away from every process of the demo."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['iotcore'] = None\n")
    arguments = ["--devices", "2", "--rounds", "1", "--split", "iid"]
    code, _, err = finished(demo(tmp_path / "run", *arguments, PYTHONPATH=str(tmp_path)))
    assert code == 1
    assert "pip install 'potstill[embedded]'" in err
    assert str(tmp_path / "run" / "logs" / "broker.log") in err


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
    assert (found["settings"]["broker"], found["settings"]["runtime"]) == (url, "numpy")
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
