"""Devices in podman containers: limits that hold, ARM code that learns what x86 learns, nothing left behind."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_profiles.load import load_profile
from tests.trainer.emulate.confinement import check_confinement
from trainer.data import load_dataset
from trainer.demo.processes import Child, Processes, lines, start_broker
from trainer.demo.settings import find_program
from trainer.emulate.backend import BackendError, Limits, Order
from trainer.emulate.cgroups import ROOT
from trainer.emulate.container import (
    PODMAN,
    QEMU,
    REMOVERS,
    ContainerBackend,
    Kind,
    exit_code,
    podman_run,
)
from trainer.emulate.fleet import UNSHAPED
from trainer.emulate.image import build_image, containerfile, find_engine, reference
from trainer.emulate.leftovers import Leftovers
from trainer.emulate.rootfs import ImageError, device_root, host_architecture
from trainer.partition import parse_split
from trainer.shards import ShardFile, deal, write_shards

NATIVE, ARM = Kind(arch="native", runtime=None), Kind(arch="arm64", runtime=None)
PREFIX = "potstill-test-c"
PROGRAM, _ = find_program(None, load_dataset("digits"))


def test_an_exit_code_names_the_signal_as_a_process_does() -> None:
    assert [exit_code(code) for code in (None, 0, 1, 125, 128 + 9, 128 + 15)] == [None, 0, 1, 125, -9, -15]


def test_the_containerfile_asks_for_no_root_and_no_telemetry() -> None:
    text = containerfile()
    assert "FROM scratch\n" in text
    assert "USER 1000:1000\n" in text
    assert "ORT_DISABLE_TELEMETRY=1" in text


def test_an_engine_that_is_not_there_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImageError, match="apt-get install podman"):
        find_engine()
    with pytest.raises(ImageError, match="one of podman, docker"):
        find_engine("crio")


@pytest.fixture(scope="module")
def own_storage() -> Iterator[None]:
    """Images and containers of these tests, away from the user's.

    In a folder of a short name: below a worker's own, which is longer, every `podman run` took 20 s more.
    """
    with tempfile.TemporaryDirectory(prefix="podman-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        settings = folder / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder / "root"}"\nrunroot = "{folder / "run"}"\n'
        )
        patch.setenv("CONTAINERS_STORAGE_CONF", str(settings))
        yield
        subprocess.run(["podman", "system", "reset", "--force"], check=True, capture_output=True, timeout=120)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.usefixtures("own_storage")
@pytest.mark.tools("podman", "mmdebstrap")
def test_limits_of_a_podman_container_hold(tmp_path: Path) -> None:
    root = device_root(host_architecture())
    image = build_image(PODMAN, root)
    assert image == reference(root)
    assert PODMAN.has(image)
    check_confinement(tmp_path, podman_run(), image)


def _shards(folder: Path) -> list[ShardFile]:
    data = load_dataset("digits")
    dealt = deal(data, parse_split("fd"), devices=2, samples=60, seed=0)
    return write_shards(folder, dealt, scale=data.scale, label_count=data.label_count)


def _order(folder: Path, shard: ShardFile, url: str, kind: Kind, memory_mib: int = 512) -> Order:
    return Order(
        device=shard.device,
        fleet="t",
        broker=url,
        profile=load_profile("pi-zero-2-w"),
        limits=Limits(cpus=1, memory_mib=memory_mib),
        link=UNSHAPED,
        arch=kind.arch,
        runtime=kind.runtime,
        program=PROGRAM,
        data=shard.path,
        work=folder / "work" / shard.device,
        log=folder / f"{shard.device}.log",
        namespace=None,
    )


def _aggregator(folder: Path, processes: Processes, url: str) -> Child:
    ends = ["--devices=2", "--quorum=2", "--rounds=2", "--start-deadline=200", "--deadline=200"]
    recipe = ["--method=fd", "--steps=8", "--lr=0.1", "--seed=3", "--bits=32"]
    words = ["broker", "run", "--json", "--broker", url, "--fleet", "t", "--program", str(PROGRAM)]
    words += ["--ledger", str(folder / "ledger.sqlite"), *ends, *recipe]
    return processes.start("the aggregator", words, folder / "aggregator.log", piped=True)


def _reports(folder: Path, processes: Processes, url: str) -> dict[tuple[str, int], dict[str, Any]]:
    aggregator = _aggregator(folder, processes, url)
    events = list(lines(aggregator, processes))
    processes.forget(aggregator)
    assert events[-1]["event"] == "end"
    assert events[-1]["complete"], events[-1]
    return {(event["device"], event["round"]): event for event in events if event["event"] == "report"}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.usefixtures("own_storage")
@pytest.mark.tools("podman", "mmdebstrap", QEMU)
def test_arm_code_learns_in_a_container_what_x86_learns_in_a_process(tmp_path: Path) -> None:
    shards = _shards(tmp_path / "shards")
    with Processes() as processes:
        _, url = start_broker(processes, tmp_path / "broker.log")
        here = tmp_path / "here"
        for shard in shards:
            order = _order(here, shard, url, NATIVE)
            words = order.arguments(program=str(PROGRAM), data=str(order.data), work=str(order.work))
            processes.start(shard.device, words, order.log)
        expected = _reports(here, processes, url)
    with Processes() as processes, Leftovers.of_new_run(dict(REMOVERS)) as leftovers:
        _, url = start_broker(processes, tmp_path / "broker.log")
        there = tmp_path / "there"
        backend = ContainerBackend(PREFIX, leftovers, {NATIVE, ARM})
        try:
            assert "qemu-user" in backend.prepare().instruction_set
            orders = [_order(there, shard, url, kind) for shard, kind in zip(shards, (NATIVE, ARM), strict=True)]
            running = [backend.start(order) for order in orders]
            found = _reports(there, processes, url)
            for device in running:
                device.terminate()
            assert [device.wait(60) for device in running] == [0, 0]
            native, arm = (device.usage() for device in running)
            assert native.oom_kills == 0
            assert native.cpu_s is not None
            assert arm.cpu_s is None, "seconds of an emulator"
            assert arm.memory_peak_bytes is not None
            assert arm.memory_peak_bytes > 2**26
            backend.start(orders[0]).kill()
        finally:
            backend.close()
        for log in there.glob("d*.log"):
            assert "left (SIGTERM)" in log.read_text()
    assert found.keys() == expected.keys() == {(f"d{device}", round_) for device in (0, 1) for round_ in (0, 1)}
    for key, report in found.items():
        assert report["loss"] == pytest.approx(expected[key]["loss"], rel=1e-4), key
        # One of 100 test samples may fall on the other side of a tie.
        assert report["accuracy"] == pytest.approx(expected[key]["accuracy"], abs=0.01), key
        assert report["payload_up"] == expected[key]["payload_up"], key
    assert not [*ROOT.glob(f"{PREFIX}-*"), *ROOT.glob(f"*/{PREFIX}-*")]
    assert not PODMAN.run("ps", "--all", "--quiet").strip()


@pytest.mark.root
@pytest.mark.usefixtures("own_storage")
@pytest.mark.tools("podman", "mmdebstrap")
def test_a_device_with_too_little_memory_is_killed_and_it_shows(tmp_path: Path) -> None:
    shards = _shards(tmp_path / "shards")
    with Leftovers.of_new_run(dict(REMOVERS)) as leftovers:
        backend = ContainerBackend(PREFIX, leftovers, {NATIVE})
        try:
            backend.prepare()
            starved = backend.start(_order(tmp_path, shards[0], "mqtt://127.0.0.1:9", NATIVE, memory_mib=24))
            assert starved.wait(60) == -9
            assert starved.usage().oom_kills == 1
            with pytest.raises(BackendError, match="no image"):
                backend.start(_order(tmp_path, shards[1], "mqtt://127.0.0.1:9", ARM))
        finally:
            backend.close()
