"""Whole fleets of real processes: the methods come through, and every process may die at any point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.ledger import Ledger
from broker.servers import Server, free_port
from broker.servers.embedded import EmbeddedBroker
from broker.servers.mosquitto import Mosquitto
from tests.fleet import Fleet, counted, last_accuracy, until

KINDS = [
    pytest.param(EmbeddedBroker, id="embedded"),
    pytest.param(Mosquitto, id="mosquitto", marks=pytest.mark.mosquitto),
]


@pytest.fixture(params=KINDS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    server: Server
    with request.param() as server, Fleet(tmp_path, server.url) as fleet:
        yield fleet


@pytest.mark.slow
def test_the_three_methods_run_one_after_the_other_on_one_fleet(fleet: Fleet) -> None:
    devices = {"d0", "d1", "d2"}
    for device in devices:
        fleet.start(device)
    ends = {}
    for method in ("alone", "fl", "fd"):
        options = ["--method", method, "--rounds", "4", "--steps", "3", "--devices", "3", "--lr", "0.5"]
        aggregator = fleet.new_run(*options)
        end = aggregator.complete()
        rounds = aggregator.named("round")
        assert [entry["round"] for entry in rounds] == [0, 1, 2, 3]
        assert all(set(entry["cohort"]) == devices and entry["missing"] == [] for entry in rounds)
        assert counted(fleet, end["run"]) == {(number, device) for number in range(4) for device in devices}
        assert {(e["round"], e["device"]) for e in aggregator.named("report")} == counted(fleet, end["run"])
        ends[method] = last_accuracy(aggregator.events, 4)
        last = max(aggregator.named("report"), key=lambda e: e["payload_up"])
        assert last["stream_up"] > last["payload_up"] > 0
    assert len(set(ends["fl"].values())) <= 3
    assert min(ends["fl"].values()) > 0.3  # ten labels: chance is 0.1
    with Ledger.read(fleet.ledger) as ledger:
        assert [row.method for row in ledger.runs()] == ["alone", "fl", "fd"]
        assert all(row.complete for row in ledger.runs())


@pytest.mark.slow
def test_a_killed_device_is_missed_and_rejoins(fleet: Fleet) -> None:
    for device in ("d0", "d1", "d2"):
        fleet.start(device)
    aggregator = fleet.new_run("--rounds", "80", "--steps", "20", "--devices", "3", "--deadline", "60")
    aggregator.wait_for("round", 2)
    fleet.kill("d1")
    until(lambda: any("d1" not in e["cohort"] for e in aggregator.named("round")), "a round without d1")
    without = next(e for e in aggregator.named("round") if "d1" not in e["cohort"])
    assert set(without["cohort"]) == {"d0", "d2"}
    with fleet.held("d0"):
        fleet.join("d1")
    until(
        lambda: any(e["round"] > without["round"] and "d1" in e["cohort"] for e in aggregator.named("round")),
        "d1 in a cohort again",
    )
    end = aggregator.complete()
    assert len(aggregator.named("round")) == 80
    assert {device for number, device in counted(fleet, end["run"]) if number == 79} == {"d0", "d1", "d2"}


@pytest.mark.slow
def test_a_silent_device_is_missed_at_the_deadline(fleet: Fleet) -> None:
    """Stopped, not dead: its connection stays up, no will is sent, and the round must not wait for ever."""
    import os
    import signal

    pids = {device: fleet.start(device) for device in ("d0", "d1", "d2")}
    aggregator = fleet.new_run("--rounds", "25", "--steps", "100", "--devices", "3", "--deadline", "1.5")
    aggregator.wait_for("round", 2)
    os.kill(pids["d2"], signal.SIGSTOP)
    try:
        until(lambda: any(e["missing"] == ["d2"] for e in aggregator.named("round")), "a round that misses d2")
        missed = next(e for e in aggregator.named("round") if e["missing"] == ["d2"])
        assert missed["seconds"] >= 1.5
    finally:
        os.kill(pids["d2"], signal.SIGCONT)
    until(
        lambda: any(e["round"] > missed["round"] and "d2" in e["cohort"] for e in aggregator.named("round")),
        "d2 in a cohort again",
    )
    aggregator.complete()


@pytest.mark.slow
def test_a_late_joiner_takes_part(fleet: Fleet) -> None:
    fleet.start("d0")
    fleet.start("d1")
    aggregator = fleet.new_run("--rounds", "80", "--steps", "20", "--devices", "2", "--deadline", "60")
    aggregator.wait_for("round", 1)
    with fleet.held("d0"):
        fleet.join("d9")
    until(lambda: any("d9" in e["cohort"] for e in aggregator.named("round")), "d9 in a cohort")
    aggregator.complete()


@pytest.mark.slow
def test_a_killed_aggregator_resumes_and_nobody_counts_twice(fleet: Fleet) -> None:
    devices = {"d0", "d1", "d2"}
    for device in devices:
        fleet.start(device)
    first = fleet.new_run("--rounds", "40", "--steps", "100", "--devices", "3", "--run", "77", "--deadline", "20")
    first.wait_for("round", 5)
    first.kill()
    before = counted(fleet, 77)
    assert {number for number, _ in before} >= set(range(5))
    second = fleet.aggregator("--resume", "77")
    second.complete()
    second.settle()
    rounds = [entry["round"] for entry in second.named("round")]
    assert rounds == list(range(rounds[0], 40))
    assert counted(fleet, 77) == {(number, device) for number in range(40) for device in devices}
    assert counted(fleet, 77) >= before
    again = fleet.aggregator("--resume", "77")
    assert again.process.wait(30) == 1
    assert "nothing to resume" in again.stderr()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_broker_may_be_restarted_in_a_run(kind: Any, tmp_path: Path) -> None:
    port = free_port()
    server: Server = kind(port=port)
    with Fleet(tmp_path, f"mqtt://127.0.0.1:{port}") as fleet:
        with server:
            for device in ("d0", "d1", "d2"):
                fleet.start(device)
            aggregator = fleet.new_run("--rounds", "80", "--steps", "150", "--devices", "3", "--deadline", "30")
            aggregator.wait_for("round", 3)
        before = len(aggregator.named("round"))
        again: Server = kind(port=port)
        with again:
            aggregator.wait_for("round", before + 2)
            end = aggregator.complete()
        last = {device for number, device in counted(fleet, end["run"]) if number == 79}
        assert last == {"d0", "d1", "d2"}


def test_a_run_without_devices_fails_with_the_reason(fleet: Fleet) -> None:
    aggregator = fleet.new_run("--devices", "2", "--start-deadline", "0.5")
    assert aggregator.process.wait(30) == 1
    aggregator.settle()
    end = aggregator.wait_for("end")
    assert end["complete"] is False
    assert "start more of them" in end["reason"]
    assert end["reason"] in aggregator.stderr()
