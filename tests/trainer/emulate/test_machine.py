"""A whole machine under qemu-system: what it is told, and one that joins a run over its own netem."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_profiles.link import Shape
from firmware_profiles.load import load_profile
from trainer.data import load_dataset
from trainer.demo.settings import find_program
from trainer.emulate import inside
from trainer.emulate.backend import Limits, Order
from trainer.emulate.fleet import UNSHAPED
from trainer.emulate.leftovers import Leftovers
from trainer.emulate.link import inside_namespace
from trainer.emulate.machine import QEMU, MachineBackend, cpio
from trainer.emulate.network import HUB_ADDRESS, Network, remove_namespace
from trainer.partition import parse_split
from trainer.shards import deal, write_shards

SLOW = Shape(rate_bit_per_s=250_000, delay_s=0.1, jitter_s=0.01, loss=0.02, queue_bytes=16_000)
LINK = replace(UNSHAPED, name="slow", up=SLOW, down=replace(SLOW, loss=0.0))
DEADLINE_S = 240


def test_the_initial_disk_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = cpio({"init": (b"#!/bin/sh\n", 0o755), "a/b/c": (b"abc", 0o644), "empty": (b"", 0o600)})
    assert len(archive) % 4 == 0
    if shutil.which("cpio") is not None:
        words = ["cpio", "--extract", "--quiet", "--make-directories"]
        subprocess.run(words, input=archive, cwd=tmp_path, check=True)
        assert (tmp_path / "a/b/c").read_bytes() == b"abc"
        assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    names = [b"a\0", b"a/b\0", b"a/b/c\0", b"empty\0", b"init\0", b"TRAILER!!!\0"]
    places = [archive.index(b"070701" + b"%08X" % number) for number in (1, 2)]
    assert places == sorted(places)
    assert all(name in archive for name in names)


def _order(folder: Path, network: Network) -> Order:
    data = load_dataset("digits")
    dealt = deal(data, parse_split("fd"), devices=2, samples=60, seed=0)
    shard = write_shards(folder / "shards", dealt, scale=data.scale, label_count=data.label_count)[0]
    return Order(
        device=shard.device,
        fleet="t",
        broker=f"mqtt://{HUB_ADDRESS}:1883",
        profile=load_profile("pi-zero-2-w"),
        limits=Limits(cpus=1, memory_mib=200),
        link=LINK,
        arch="arm64",
        runtime=None,
        program=find_program(None, data)[0],
        data=shard.path,
        work=folder / "work",
        log=folder / "d0.log",
        namespace=network.namespace(shard.device),
    )


def _potstill(*words: str, namespace: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            inside.command([sys.executable, "-m", "potstill", *words], namespace=namespace),
            stdout=subprocess.PIPE,
            stderr=stream,
        )


def _events(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    told, _ = process.communicate(timeout=DEADLINE_S)
    return [json.loads(line) for line in told.splitlines()]


def _round_trip_s(network: Network, address: str) -> float:
    """Of the refusal of a connection to a port where nobody listens, the best of five."""
    best = 60.0
    for _ in range(5):
        with inside_namespace(network.hub), socket.socket() as probe:
            begin = time.monotonic()
            probe.settimeout(30)
            with pytest.raises(ConnectionRefusedError):
                probe.connect((address, 9))
            best = min(best, time.monotonic() - begin)
    return best


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.tools(QEMU, "mmdebstrap", "mkfs.ext4")
def test_a_machine_joins_a_run_over_its_own_netem_and_is_gone_when_told(tmp_path: Path) -> None:
    prefix = "potstill-test-m"
    with Leftovers.of_new_run({"netns": remove_namespace}) as leftovers:
        backend = MachineBackend({None})
        assert "netem" in backend.prepare().link
        with Network(prefix, leftovers, tmp_path / "links.log") as network:
            wire = network.lay("d0", 0, UNSHAPED, seed=0)
            serve = ["broker", "serve", "--json", "--host", HUB_ADDRESS, "--port", "1883", "--expose"]
            broker = _potstill(*serve, namespace=network.hub, log=tmp_path / "broker.log")
            try:
                assert broker.stdout is not None
                assert b"serving" in broker.stdout.readline()
                order = _order(tmp_path, network)
                machine = backend.start(order)
                ends = ["--devices=1", "--quorum=1", "--rounds=1", f"--start-deadline={DEADLINE_S}"]
                run = ["broker", "run", "--json", "--broker", order.broker, "--fleet", "t", "--method=fd", "--steps=3"]
                run += ["--program", str(order.program), "--ledger", str(tmp_path / "ledger.sqlite"), *ends]
                aggregator = _potstill(*run, namespace=network.hub, log=tmp_path / "aggregator.log")
                events = _events(aggregator)
                assert events[-1]["complete"], (events[-1], order.log.read_text())
                assert _round_trip_s(network, "10.213.1.1") > 0.17, "there and back take 100 ms each, less the jitter"
                machine.terminate()
                assert machine.wait(60) == 0, order.log.read_text()
                usage = machine.usage()
                assert usage.cpu_s is None, "seconds of an emulator"
                assert usage.oom_kills == 0
                assert usage.memory_peak_bytes is not None
                assert 2**25 < usage.memory_peak_bytes < 200 * 2**20, "nothing of an emulator in it"
                total_kib = int(order.log.read_text().split("potstill-machine booted ")[1].split()[1])
                assert 450 * 1024 < total_kib < 512 * 1024, "a board of 512 MiB"
                assert wire.counts().up.bytes > 500
                second = backend.start(order)
                second.kill()
                assert second.poll() is not None
            finally:
                broker.terminate()
                broker.communicate(timeout=60)
                backend.close()
    assert not list(Path("/run/netns").glob(f"{prefix}*"))
