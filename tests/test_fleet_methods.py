"""Whole fleets of real processes under the methods whose aggregator trains (FLD) or whose devices share inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.servers.embedded import EmbeddedBroker
from tests.fleet import Fleet, counted, last_accuracy, rows, until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with EmbeddedBroker() as server, Fleet(tmp_path, server.url) as fleet:
        yield fleet


FLD = ["--method", "mix2fld", "--seeds", "60", "--lam", "0.1", "--conversion-steps", "30", "--conversion-lr", "0.5"]
SHARE = ["--method", "share", "--inputs", "100", "--warm-up", "1", "--shift", "0"]


@pytest.mark.slow
def test_fld_and_share_run_on_the_same_fleet(fleet: Fleet) -> None:
    devices = {"d0", "d1", "d2"}
    for device in devices:
        fleet.start(device)
    for options in (FLD, ["--method", "fld"], ["--method", "mixfld"], SHARE):
        aggregator = fleet.new_run(*options, "--rounds", "4", "--steps", "8", "--devices", "3", "--lr", "0.5")
        end = aggregator.complete()
        assert counted(fleet, end["run"]) == {(number, device) for number in range(4) for device in devices}
        assert min(last_accuracy(aggregator.events, 4).values()) > 0.3  # ten labels: chance is 0.1
        size = {number: max(row[3] for row in rows(fleet, end["run"]) if row[0] == number) for number in range(4)}
        if options is SHARE:
            assert size[0] < 80 < size[1] == size[3] < 130  # 42 bytes of labels, not in the warm-up
        else:
            assert size[0] > 50 * 64 > 80 > size[1]  # seeds once


@pytest.mark.slow
def test_a_late_joiner_gives_its_seeds_and_a_killed_device_does_not_give_them_again(fleet: Fleet) -> None:
    fleet.start("d0")
    fleet.start("d1")
    arguments = [*FLD, "--rounds", "45", "--steps", "30", "--devices", "2", "--deadline", "60"]
    aggregator = fleet.new_run(*arguments)
    aggregator.wait_for("round", 2)
    fleet.kill("d1")
    with fleet.held("d0"):
        fleet.join("d9")
    until(lambda: any("d9" in e["cohort"] for e in aggregator.named("round")), "d9 in a cohort")
    with fleet.held("d0"):
        fleet.join("d1")
    joined = next(e["round"] for e in aggregator.named("round") if "d9" in e["cohort"])
    until(
        lambda: any(e["round"] > joined and {"d1", "d9"} <= set(e["cohort"]) for e in aggregator.named("round")),
        "all three in a cohort",
    )
    end = aggregator.complete()
    gave = [(number, device) for number, device, fate, size, _ in rows(fleet, end["run"]) if size > 1000]
    assert sorted(device for _, device in gave) == ["d0", "d1", "d9"]
    assert {device: number for number, device in gave}["d9"] >= joined


@pytest.mark.slow
def test_an_aggregator_killed_in_a_conversion_converts_again(fleet: Fleet) -> None:
    devices = {"d0", "d1", "d2"}
    for device in devices:
        fleet.start(device)
    options = [*FLD, "--conversion-steps", "3000", "--rounds", "3", "--steps", "5", "--devices", "3", "--run", "78"]
    first = fleet.new_run(*options, "--deadline", "60")
    first.wait_for("waiting")  # the ledger is there
    until(lambda: counted(fleet, 78) == {(0, device) for device in devices}, "all uploads of round 0")
    first.kill()
    assert first.named("round") == []  # 3,000 steps were under way
    second = fleet.aggregator("--resume", "78")
    assert second.process.wait(30) == 2
    assert "--program" in second.stderr()
    third = fleet.aggregator("--resume", "78", "--program", str(fleet.program))
    third.complete()
    assert [entry["round"] for entry in third.named("round")] == [0, 1, 2]
    assert counted(fleet, 78) == {(number, device) for number in range(3) for device in devices}


@pytest.mark.slow
def test_a_device_killed_in_share_goes_on_with_what_it_had_heard(fleet: Fleet) -> None:
    for device in ("d0", "d1", "d2"):
        fleet.start(device)
    arguments = [*SHARE, "--rounds", "60", "--steps", "30", "--lr", "0.5", "--devices", "3", "--deadline", "60"]
    aggregator = fleet.new_run(*arguments)
    aggregator.wait_for("round", 5)
    fleet.kill("d1")
    until(lambda: any("d1" not in e["cohort"] for e in aggregator.named("round")), "a round without d1")
    without = next(e for e in aggregator.named("round") if "d1" not in e["cohort"])
    with fleet.held("d0"):
        fleet.join("d1")
    until(
        lambda: any(e["round"] > without["round"] and "d1" in e["cohort"] for e in aggregator.named("round")),
        "d1 in a cohort again",
    )
    aggregator.complete()
    assert min(last_accuracy(aggregator.events, 60).values()) > 0.6
