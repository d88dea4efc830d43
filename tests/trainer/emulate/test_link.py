"""The two-TUN link, measured: real TCP and UDP through real namespaces, counted at both ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_profiles.link import Link
from firmware_profiles.load import load_link
from trainer.emulate.fleet import UNSHAPED
from trainer.emulate.inside import command
from trainer.emulate.leftovers import Leftovers
from trainer.emulate.network import HUB_ADDRESS, Network, remove_namespace

pytestmark = pytest.mark.root

SINK = """
import json, socket, sys, time
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
began, size = time.monotonic(), 0
while part := peer.recv(65536):
    size += len(part)
print(json.dumps({"bytes": size, "seconds": time.monotonic() - began}))
"""
SOURCE = """
import json, socket, struct, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
peer.sendall(bytes(int(sys.argv[3])))
peer.shutdown(socket.SHUT_WR)
assert peer.recv(1) == b""
info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
sent, again = struct.unpack_from("QQ", info, 200)
name = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode()
print(json.dumps({"sent": sent, "again": again, "congestion": name}))
"""
ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
while True:
    data, peer = server.recvfrom(2048)
    server.sendto(data, peer)
"""
PROBE = """
import json, socket, sys, time
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.connect((sys.argv[1], int(sys.argv[2])))
peer.settimeout(5)
times = []
for number in range(int(sys.argv[3])):
    began = time.monotonic()
    peer.send(bytes(100))
    peer.recv(2048)
    times.append(time.monotonic() - began)
print(json.dumps(sorted(times)))
"""
FLOOD = """
import socket, sys
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[3])):
    peer.sendto(bytes(100), (sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    path = tmp_path / "left.jsonl"
    with (
        Leftovers(path, {"netns": remove_namespace}) as leftovers,
        Network(f"pt-{id(path) % 0xFFFF:x}", leftovers, tmp_path / "links.log") as made,
    ):
        yield made
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert made.prefix not in left
    assert not path.exists()


def changed(**up: float) -> Link:
    return replace(UNSHAPED, up=replace(UNSHAPED.up, **up))  # type: ignore[arg-type]


def run(namespace: str, program: str, *words: object) -> subprocess.Popen[str]:
    line = command([sys.executable, "-c", program, *map(str, words)], namespace=namespace)
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> Any:
    with process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(out)


def test_250_kbit_and_5_percent_loss_are_that(network: Network) -> None:
    """80 kB of TCP: not faster than the rate, lost packets sent again, and the counts of kernel and link agree."""
    size = 80_000
    wire = network.lay("d0", 0, load_link("lossy-250k"), seed=1)
    with run(network.hub, SINK, HUB_ADDRESS) as sink:
        assert sink.stdout is not None
        port = sink.stdout.readline().strip()
        sent = result(run(network.namespace("d0"), SOURCE, HUB_ADDRESS, port, size))
        received = result(sink)
    counts = wire.counts()
    assert received["bytes"] == size
    assert 30 < 8e-3 * size / received["seconds"] < 250, "kbit/s"
    assert counts.up.lost_packets > 0
    assert sent["congestion"] == "cubic"
    assert sent["sent"] == size + sent["again"]
    assert sent["again"] >= 1000, "at 5 % of more than 55 full segments"
    headers = 52 * counts.up.packets  # 20 IP, 20 TCP, 12 timestamps; more while connecting and with SACK
    assert 0 <= counts.up.bytes - sent["sent"] - headers < 40 * counts.up.packets


def test_loss_is_counted_packet_by_packet(network: Network) -> None:
    wire = network.lay("d0", 0, changed(loss=0.05), seed=3)
    with run(network.namespace("d0"), FLOOD, HUB_ADDRESS, 9, 2000) as flood:
        assert flood.wait(60) == 0
    end = time.monotonic() + 60
    while (up := wire.counts().up).packets < 2000:  # the last are still in the interface's queue
        assert time.monotonic() < end, up
    assert (up.packets, up.bytes) == (2000, 2000 * 128)
    assert 60 <= up.lost_packets <= 140, "100 expected, four standard deviations either way"


def test_delay_is_each_direction_s_own_and_changes_at_run_time(network: Network) -> None:
    wire = network.lay("d0", 0, replace(changed(delay_s=0.06), down=replace(UNSHAPED.down, delay_s=0.02)), seed=1)
    with run(network.hub, ECHO, HUB_ADDRESS) as echo:
        assert echo.stdout is not None
        port = echo.stdout.readline().strip()
        slow = result(run(network.namespace("d0"), PROBE, HUB_ADDRESS, port, 10))
        wire.shape(UNSHAPED)
        fast = result(run(network.namespace("d0"), PROBE, HUB_ADDRESS, port, 10))
        echo.kill()
    assert slow[0] >= 0.0795
    assert fast[0] < 0.04, "the best of ten, on whatever machine this is"
    assert wire.counts().up.packets == 20


def test_a_link_ends_with_the_emulator_s_end_of_the_pipe(network: Network) -> None:
    wire = network.lay("d0", 0, UNSHAPED, seed=1)
    wire.close()
    links = subprocess.run(["ip", "-n", network.hub, "link"], capture_output=True, text=True, check=True).stdout
    assert "d0" not in links
    assert wire.counts().up.packets == 0, "the last counts stay"
