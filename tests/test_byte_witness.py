"""The device's own byte counts against an independent witness: the interface of its network namespace.

Three namespaces in a row: the device, a router that may lose packets where neither end's counters see it, and broker
and aggregator. The device's journal must say, for its whole life from the first SYN to the last acknowledgement, what
its interface counted, to under 1 %: with and without TLS, at QoS 0 and 1, and under loss. What comes twice to a device
the kernel counts in segments alone, and how TLS ends depends on who is first: one direction may be off by more.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.servers.mosquitto import configuration, find_mosquitto
from edge.meter import journal
from edge.meter.layers import layers
from edge.meter.traffic import Account
from tests.certificates import client_options, listener, make_certificates
from tests.fleet import Fleet, until
from tests.namespaces import counted, do, inside, namespaces, veth

pytestmark = [pytest.mark.root, pytest.mark.mosquitto]

BROKER, BROKER_GATE, DEVICE_GATE, DEVICE = "10.213.9.1", "10.213.9.2", "10.213.8.1", "10.213.8.2"
AGREEMENT = 0.01


@dataclass(frozen=True, kw_only=True)
class Path3:
    """Device, router, broker."""

    device: str
    router: str
    broker: str

    def lose(self, share: float) -> None:
        """Of the packets each way, at random, between the ends' interfaces."""
        rule = ["-A", "FORWARD", "-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]
        do(*inside(self.router), "iptables", *rule)

    def lose_nothing(self) -> None:
        do(*inside(self.router), "iptables", "-F", "FORWARD")

    def counted(self) -> tuple[int, int]:
        return counted(self.device, "ps0")

    def quiet_count(self, quiet_s: float = 1.0) -> tuple[int, int]:
        """The counters once nothing has passed for a while."""
        last, since = self.counted(), time.monotonic()
        end = since + 60
        while time.monotonic() - since < quiet_s:
            assert time.monotonic() < end, "the link does not become quiet"
            time.sleep(0.05)
            now = self.counted()
            if now != last:
                last, since = now, time.monotonic()
        return last


@pytest.fixture
def path() -> Iterator[Path3]:
    with namespaces("device", "router", "broker") as (device, router, broker):
        veth((device, "ps0", DEVICE), (router, "ps1", DEVICE_GATE))
        veth((router, "ps2", BROKER_GATE), (broker, "ps3", BROKER))
        do("ip", "-n", device, "route", "add", "default", "via", DEVICE_GATE)
        do("ip", "-n", broker, "route", "add", "default", "via", BROKER_GATE)
        do(*inside(router), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield Path3(device=device, router=router, broker=broker)


@contextlib.contextmanager
def mosquitto(path: Path3, folder: Path, *, tls: bool) -> Iterator[str]:
    """-> its URL."""
    lines = configuration(BROKER, 1883).replace("log_type error", "log_type all")
    if tls:
        lines = f"{lines}{listener(make_certificates(folder, address=BROKER))}\n"
    file = folder / "mosquitto.conf"
    file.write_text(lines)
    program = find_mosquitto()
    assert program is not None
    command = [*inside(path.broker), program, "-c", str(file)]
    with (folder / "mosquitto.log").open("wb") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            until(lambda: "running" in (folder / "mosquitto.log").read_text(), "mosquitto")
            yield f"{'mqtts' if tls else 'mqtt'}://{BROKER}:1883"
        finally:
            server.terminate()


def life(path: Path3, folder: Path, *, tls: bool, qos: int, rounds: int) -> tuple[Account, tuple[int, int]]:
    """A device from its start to its farewell, with one run in between -> its journal's sum, its interface's counts."""
    before = path.quiet_count(0.2)
    with mosquitto(path, folder, tls=tls) as url, Fleet(folder, url, name="f") as fleet:
        fleet.start("d0", *(client_options(folder, "d0") if tls else []), prefix=inside(path.device))
        options = ["--devices", "1", "--rounds", str(rounds), "--steps", "20", "--qos", str(qos), "--deadline", "10"]
        options += client_options(folder, "hub") if tls else []
        fleet.new_run(*options, prefix=inside(path.broker)).complete(240)
        path.quiet_count()
        path.lose_nothing()  # what the kernel sends again after the process has ended is nobody's to count
        fleet.devices["d0"].terminate()
        assert fleet.devices["d0"].wait(60) == 0, fleet.log("d0")
        after = path.quiet_count()
        lines, damaged = journal.read(folder / "work-d0")
        assert damaged == 0
        assert {line.round for line in lines} == {None, *range(rounds)}
    return sum((line.account for line in lines), Account()), (after[0] - before[0], after[1] - before[1])


def residuals(account: Account, interface: tuple[int, int]) -> dict[str, float]:
    """(ours - the interface's) / the interface's: up, down and both."""
    up, down = layers(account, "up").total, layers(account, "down").total
    assert up is not None
    assert down is not None
    return {
        "up": up / interface[0] - 1,
        "down": down / interface[1] - 1,
        "both": (up + down) / sum(interface) - 1,
    }


class Case(NamedTuple):
    tls: bool
    qos: int
    loss: float

    def __str__(self) -> str:
        return f"{'TLS' if self.tls else 'plain'}, QoS {self.qos}, loss {self.loss:.0%}"


CASES = [Case(tls, qos, loss) for tls in (False, True) for qos, loss in ((0, 0.0), (1, 0.0), (1, 0.05))]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_device_counts_what_its_interface_counts(
    path: Path3,
    tmp_path: Path,
    case: Case,
    record_property: Callable[[str, object], None],
) -> None:
    tls, qos, loss = case
    if loss:
        path.lose(loss)
    account, interface = life(path, tmp_path, tls=tls, qos=qos, rounds=40 if loss else 20)
    found = residuals(account, interface)
    said = ", ".join(f"{residual:+.3%} {direction}" for direction, residual in found.items())
    record_property(f"bytes, {case}", f"interface {interface[0]} up, {interface[1]} down; ours {said}")
    assert abs(found["both"]) < AGREEMENT
    assert max(abs(found["up"]), abs(found["down"])) < 3 * AGREEMENT
    assert account.stream is not None
    assert account.stream.retransmitted > 0 or not loss
    assert (layers(account, "up").tls != 0) == tls
