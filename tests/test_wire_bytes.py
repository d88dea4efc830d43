"""Bytes on the wire, as Ethernet frames counted by the kernel in the device's own network namespace.

A device process alone in a namespace, a veth pair to the broker (mosquitto, as a fleet runs it) and the aggregator.
Offloads are off, so that what the interface counts is what a wire would carry: Ethernet header and up, without
preamble and checksum. IPv6 is off. The namespaces are made here and removed here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from tests.fleet import POTSTILL, Aggregator, Fleet, until
from tests.namespaces import counted, inside, namespaces, veth

pytestmark = [pytest.mark.root, pytest.mark.mosquitto]

HOST, DEVICE = "10.213.7.1", "10.213.7.2"


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One veth pair between two new namespaces: `near` for broker and aggregator, `far` for the device."""

    near: list[str]
    far: list[str]
    """Prefixes that run a command inside."""

    def counted(self) -> tuple[int, int]:
        """Ethernet bytes (sent, received) by the device's interface."""
        return counted(self.far[3], "ps1")


@pytest.fixture
def wire() -> Iterator[Wire]:
    with namespaces("near", "far") as (near, far):
        veth((near, "ps0", HOST), (far, "ps1", DEVICE))
        yield Wire(near=inside(near), far=inside(far))


@pytest.fixture
def fleet(wire: Wire, tmp_path: Path) -> Iterator[Fleet]:
    command = [*wire.near, *POTSTILL, "broker", "serve", "--kind", "mosquitto", "--host", HOST, "--port", "1883"]
    with subprocess.Popen([*command, "--expose"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            with Fleet(tmp_path, url, name="f") as fleet:
                fleet.start("d07", prefix=wire.far)
                yield fleet
        finally:
            server.terminate()


@pytest.fixture
def slower(fleet: Fleet, wire: Wire) -> Iterator[None]:
    """A second device that every round waits for, held back by being stopped 100 of 150 ms.

    A broker's acknowledgement of the first one's upload then has no plan on its heels to travel with, nor has the
    acknowledgement of that one: the dearest order of things, and the usual one in a fleet.
    """
    pid = fleet.start("d08", prefix=wire.near)
    over = threading.Event()

    def hold_back() -> None:
        while not over.wait(0.05):
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.1)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=hold_back)
    thread.start()
    yield
    over.set()
    thread.join()


def a_run(fleet: Fleet, wire: Wire, *options: str) -> Aggregator:
    common = ["--devices", "2", "--no-report", "--deadline", "60"]
    return fleet.new_run(*common, *options, prefix=wire.near)


def quiet_count(wire: Wire) -> tuple[int, int]:
    """The counters once nothing has passed for half a second (a delayed acknowledgement takes 40 to 200 ms)."""
    last, since = wire.counted(), time.monotonic()
    end = since + 30
    while time.monotonic() - since < 0.5:
        assert time.monotonic() < end, "the link does not become quiet"
        now = wire.counted()
        if now != last:
            last, since = now, time.monotonic()
    return last


class Watch:
    """The device's counters as they went: every few milliseconds, from `/proc/PID/net/dev` of its own namespace."""

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/net/dev")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen = [self._read()]
        """(sent, received), each pair once."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.004):
            now = self._read()
            if now != self.seen[-1]:
                self.seen.append(now)

    def _read(self) -> tuple[int, int]:
        line = next(line for line in self._file.read_text().splitlines() if line.strip().startswith("ps1:"))
        counts = [int(count) for count in line.split(":")[1].split()]
        return counts[8], counts[0]

    def before(self, *, received: int) -> list[tuple[int, int]]:
        """The counters just before each time that so many bytes or more came in at once."""
        return [old for old, new in pairwise(self.seen) if new[1] - old[1] >= received]


def bytes_a_round(fleet: Fleet, wire: Wire, *, steps: int, qos: int, bits: int) -> tuple[float, float]:
    """Ethernet bytes (up, down) from one plan's arrival to the next one's: the median of rounds 2 to 8.

    A lone TCP acknowledgement more or less in one of them (66 bytes) does not matter. The rounds before are left out:
    their plans are shorter, and a run's beginning is about.
    """
    quiet_count(wire)
    options = ["--rounds", "9", "--steps", str(steps), "--qos", str(qos), "--bits", str(bits)]
    with Watch(fleet.devices["d07"].pid) as watch:
        a_run(fleet, wire, *options).complete()
        quiet_count(wire)
    plans = watch.before(received=SMALLEST_PLAN[bits])[-8:]
    assert len(plans) == 8, f"{len(plans)} plans seen of 2 to 9"
    rounds = [(new[0] - old[0], new[1] - old[1]) for old, new in pairwise(plans)]
    return median(up for up, _ in rounds), median(down for _, down in rounds)


SMALLEST_PLAN = {4: 66 + 98, 8: 66 + 148}
"""Ethernet bytes, without MQTT: nothing else that a device hears in a round is half as long."""


def steps_for(fleet: Fleet, wire: Wire, seconds: float) -> int:
    """Local steps that take about so long here and now."""
    aggregator = a_run(fleet, wire, "--rounds", "2", "--steps", "500")
    aggregator.complete()
    took = aggregator.named("round")[-1]["seconds"]
    return max(1, min(60_000, int(500 * seconds / took)))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.usefixtures("slower")
def test_an_fd_round_of_ten_labels_fits_the_budget(
    fleet: Fleet, wire: Wire, record_property: Callable[[str, object], None]
) -> None:
    """At 0.2 s a round and more, as real training has it: every delayed acknowledgement is sent on its own."""
    until(lambda: wire.counted()[0] > 500, "the device's connection")
    steps = steps_for(fleet, wire, 0.3)
    found = {}
    for qos, bits in ((1, 4), (0, 4), (1, 8), (0, 8)):
        found[qos, bits] = bytes_a_round(fleet, wire, steps=steps, qos=qos, bits=bits)
        up, down = found[qos, bits]
        record_property(f"bytes a round, QoS {qos}, {bits} bits, {steps} steps", f"{up:.0f} up, {down:.0f} down")
    for bits in (4, 8):  # the budget, at the default of 4 bits and at twice as many
        assert max(found[1, bits]) <= 350
        assert found[0, bits][0] <= 280
        assert found[0, bits][1] <= 300
    assert min(min(pair) for pair in found.values()) > 150  # the counters count: an upload and a plan at 4 bits


@pytest.mark.slow
def test_an_idle_device_costs_less_than_200_bytes_a_minute(
    fleet: Fleet, wire: Wire, record_property: Callable[[str, object], None]
) -> None:
    """One keepalive exchange is measured at the shortest keepalive; the default's share of a minute follows."""
    from edge.link import KEEPALIVE_S

    fleet.devices["d07"].terminate()
    fleet.devices["d07"].wait(20)
    started = quiet_count(wire)
    fleet.start("d1", "--keepalive", "5", prefix=wire.far)
    until(lambda: wire.counted()[0] > started[0] + 300, "d1's connection")
    before, began = quiet_count(wire), time.monotonic()
    first = _next_exchange(wire, before)
    second = _next_exchange(wire, first)
    assert time.monotonic() - began > 5.0
    third = _next_exchange(wire, second)
    one = (sum(third) - sum(first)) / 2
    assert "the connection is gone" not in fleet.log("d1"), "the keepalive is there to keep it"
    assert 150 < one < 300  # PINGREQ, PINGRESP (56 or 68 bytes) and the acknowledgement
    a_minute = one * 60 / KEEPALIVE_S
    record_property("bytes idle", f"{one:.0f} a keepalive, every {KEEPALIVE_S} s: {a_minute:.0f} a minute, up and down")
    assert a_minute < 200


def _next_exchange(wire: Wire, before: tuple[int, int]) -> tuple[int, int]:
    until(lambda: wire.counted()[1] != before[1], "a keepalive", 15.0)
    return quiet_count(wire)
