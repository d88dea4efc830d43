"""`potstill broker runs`, `show` and `stop`, on a ledger written by hand and on a fleet of real processes."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from broker.cli import broker
from broker.ledger import Ledger, UploadRow
from broker.servers.embedded import EmbeddedBroker
from broker.settings import settings_to_plain
from edge.wire.codec import encode
from edge.wire.messages import Done
from tests.broker.entries import SETTINGS, a_plan, a_run
from tests.edge.conftest import write_program
from tests.fleet import Fleet


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(broker, arguments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Run 7 is under way in its second round, run 8 has failed, run 9 is complete."""
    file = tmp_path / "ledger.sqlite"
    frame = encode(Done(run=7, round=0))
    with Ledger.open(file) as ledger, ledger.commit():
        for number, started in ((7, 0.0), (8, 100.0), (9, 200.0)):
            ledger.begin_run(a_run(number, started=started))
        ledger.end_run(8, ended=150.0, complete=False, reason="round 0: nobody came")
        ledger.end_run(9, ended=250.0, complete=True, reason="all rounds closed")
        ledger.open_round(7, 0, encode(a_plan(0)), 10.0)
        ledger.add_uploads(
            [UploadRow(7, 0, "d0", "counted", len(frame), 11.0, frame)],
            [UploadRow(7, 0, "d0", "repeated", len(frame), 12.0, None)],
        )
        ledger.close_round(7, 0, closed=12.5, cohort=("d0",), missing=("d1",), keep=True)
        ledger.open_round(7, 1, encode(a_plan(1)), 12.5)
        ledger.add_refusals(7, {("d5", "not CBOR"): 3})
        ledger.add_report(7, 0, "d0", {"accuracy": 0.5})
        ledger.add_meter(7, 0, "d0", {"connects": 1})
    return file


# ---------------------------------------------------------------- runs


def test_one_blas_thread_is_settled_before_numpy_is_imported() -> None:
    """A second one waits, and takes a tenth of a round's instructions for that."""
    code = """
import os, sys
from potstill import main
main.get_command(None, "broker").get_command(None, "run")
import numpy
print(len(os.listdir("/proc/self/task")))
"""
    names = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    free = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], env=free, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_runs_are_listed_with_their_state(path: Path) -> None:
    said = invoke("runs", "--ledger", str(path))
    assert said.exit_code == 0
    head, *rows = said.stdout.splitlines()
    assert head.split() == ["run", "fleet", "method", "started", "(UTC)", "state"]
    assert [row.split(maxsplit=5) for row in rows] == [
        ["7", "attic", "fl", "1970-01-01", "00:00:00", "unfinished"],
        ["8", "attic", "fl", "1970-01-01", "00:01:40", "failed: round 0: nobody came"],
        ["9", "attic", "fl", "1970-01-01", "00:03:20", "complete"],
    ]


def test_runs_as_json_have_their_settings(path: Path) -> None:
    rows = [json.loads(line) for line in invoke("runs", "--ledger", str(path), "--json").stdout.splitlines()]
    assert [(row["run"], row["complete"]) for row in rows] == [(7, None), (8, False), (9, True)]
    assert rows[0]["settings"]["rounds"] == 5


@pytest.mark.parametrize("command", [["runs"], ["show", "7"]])
def test_a_missing_ledger_says_what_makes_one(tmp_path: Path, command: list[str]) -> None:
    refused = invoke(*command, "--ledger", str(tmp_path / "none.sqlite"))
    assert refused.exit_code == 1
    assert "no such file; `potstill broker run --ledger" in refused.output


def test_a_run_of_an_older_wire_is_shown_but_not_resumed(path: Path) -> None:
    """As release 0.1 wrote it: digests of 8 bytes, and a plan of version 1."""
    plan = Path(__file__).parents[1] / "edge" / "wire" / "golden" / "version-1" / "plan-8.hex"
    plain = settings_to_plain(SETTINGS) | {"program": "0123456789abcdef", "schema": "fedcba9876543210"}
    del plain["wire"]
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE runs SET settings = ? WHERE run = 7", (json.dumps(plain),))
        db.execute("UPDATE rounds SET plan = ? WHERE run = 7", (bytes.fromhex(plan.read_text()),))
    for command in (["runs"], ["show", "7"], ["show", "7", "--json"]):
        assert invoke(*command, "--ledger", str(path)).exit_code == 0
    refused = invoke("run", "--resume", "7", "--ledger", str(path), "--broker", "mqtt://127.0.0.1:1")
    assert refused.exit_code == 1
    assert "it speaks version 1 of the wire, this release 2: end it with the release that began it" in refused.output


# ---------------------------------------------------------------- show


def test_a_run_is_shown_round_by_round(path: Path) -> None:
    said = invoke("show", "7", "--ledger", str(path))
    assert said.exit_code == 0
    first, head, *rows = said.stdout.splitlines()
    assert first == "run 7 of fleet attic: fl, unfinished"
    assert head.split()[:4] == ["round", "seconds", "bytes", "counted"]
    size = str(len(encode(Done(run=7, round=0))))
    assert rows[0].split(maxsplit=4) == ["0", "2.50", size, "1", "1 repeated; missing d1"]
    assert rows[1].split() == ["1", "-", "0", "0"]
    assert rows[2] == "refused from d5: not CBOR (3 times)"


def test_a_run_as_json_has_everything(path: Path) -> None:
    whole = json.loads(invoke("show", "7", "--ledger", str(path), "--json").stdout)
    assert whole["run"]["fleet"] == "attic"
    assert [(entry["round"], entry["cohort"], entry["missing"]) for entry in whole["rounds"]] == [
        (0, ["d0"], ["d1"]),
        (1, [], []),
    ]
    assert whole["refusals"] == [{"device": "d5", "reason": "not CBOR", "times": 3}]
    assert whole["reports"] == [{"round": 0, "device": "d0", "accuracy": 0.5}]
    assert whole["meters"] == [{"round": 0, "device": "d0", "connects": 1}]


def test_an_unknown_run_is_refused(path: Path) -> None:
    refused = invoke("show", "10", "--ledger", str(path))
    assert refused.exit_code == 1
    assert "no run 10" in refused.output


# ---------------------------------------------------------------- stop


def test_devices_are_told_to_stop_and_the_ledger_tells_of_their_run(tmp_path: Path) -> None:
    pytest.importorskip("iotcore")
    with EmbeddedBroker() as server, Fleet(tmp_path, server.url) as fleet:
        for device in ("d0", "d1"):
            fleet.start(device)
        end = fleet.new_run("--devices", "2", "--rounds", "1", "--steps", "1").complete()
        stop = ["stop", "--broker", server.url, "--fleet", fleet.name]
        one = invoke(*stop, "--device", "d0")
        assert (one.exit_code, one.stdout) == (0, "told d0 to stop\n")
        assert fleet.devices["d0"].wait(20) == 0
        assert fleet.devices["d1"].poll() is None
        everyone = invoke(*stop, "--all")
        assert (everyone.exit_code, everyone.stdout) == (0, "told d1 to stop\n")
        assert fleet.devices["d1"].wait(20) == 0
        assert invoke(*stop, "--all").stdout == "told nobody: no device is there to stop\n"
        whole = json.loads(invoke("show", str(end["run"]), "--ledger", str(fleet.ledger), "--json").stdout)
    assert sorted(whole["rounds"][0]["cohort"]) == ["d0", "d1"]
    assert sorted(report["device"] for report in whole["reports"]) == ["d0", "d1"]
    assert sorted(meter["device"] for meter in whole["meters"]) == ["d0", "d1"]
    assert all(meter["mqtt_up"]["upload"] > meter["payload_up"]["upload"] > 0 for meter in whole["meters"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name devices with --device, or say --all"),
        (["--all", "--device", "d0"], "name devices with --device, or say --all"),
        (["--device", "a/b"], "1 to 32 of the characters"),
    ],
)
def test_stop_wants_to_know_whom(options: list[str], says: str) -> None:
    refused = invoke("stop", "--fleet", "attic", *options)
    assert refused.exit_code == 2
    assert says in refused.output


def test_stop_without_a_broker_says_so() -> None:
    refused = invoke("stop", "--broker", "mqtt://127.0.0.1:1", "--fleet", "attic", "--all")
    assert refused.exit_code == 1
    assert "no broker at 127.0.0.1:1" in refused.output


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    junk = tmp_path / "ca.pem"
    junk.write_text("no certificate\n")
    connection = ("--broker", "mqtts://127.0.0.1:1", "--fleet", "f", "--cafile", str(junk))
    program = str(write_program(tmp_path / "program"))
    for command in (
        ("stop", *connection, "--all"),
        ("run", *connection, "--program", program, "--devices", "1", "--ledger", str(tmp_path / "ledger.sqlite")),
    ):
        result = invoke(*command)
        assert result.exit_code == 1
        assert f"TLS: cannot use {junk}" in result.output
