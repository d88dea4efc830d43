"""A fleet as a compose file: what it says, and docker-compose running it with limits and links that hold."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.emulate.confinement import check_confinement
from trainer.data import load_dataset
from trainer.emulate import inside
from trainer.emulate.compose import BROKER, GATEWAY, compose, kinds
from trainer.emulate.fleet import Fleet, FleetError
from trainer.emulate.fleet_file import parse_fleet
from trainer.emulate.image import Engine, build_image
from trainer.emulate.rootfs import ImageError, device_root, host_architecture
from trainer.emulate.settle import settle

TRAINING = {"methods": ["fd"], "rounds": 1, "steps": 3}
NARROW = {"profile": "pi-zero-2-w", "count": 2, "link": "lossy-250k", "cpus": 0.4, "memory_mib": 160}
READ_LINK = "/sbin/tc -json qdisc show"
DAEMON_S = 60.0
"""For it to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """A daemon of the tests' own."""

    engine: Engine
    namespace: str
    """In which its bridges are."""


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Debian's dockerd in a network namespace: its bridge, firewall chains and ip_forward go with it."""
    folder = tmp_path_factory.mktemp("docker")
    namespace = f"potstill-docker-{secrets.token_hex(3)}"
    # Not `ip netns exec`, which hides the cgroups behind a /sys of its own.
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"]
    files = ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")]
    socket = f"unix://{folder / 'socket'}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", socket)
            subprocess.run([*prefix, "ip", "link", "set", "lo", "up"], check=True)
            daemon = subprocess.Popen([*prefix, "dockerd", *files, "--host", socket], stdout=log, stderr=log)
            try:
                engine = Engine(name="docker")
                _wait(engine, daemon, folder / "log")
                yield Docker(engine=engine, namespace=namespace)
            finally:
                daemon.terminate()
                daemon.wait(60)
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def _wait(engine: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Until the daemon answers."""
    end = time.monotonic() + DAEMON_S
    while not _answers(engine):
        assert daemon.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.2)  # dockerd announces nothing but its socket, which is there before it answers


def _answers(engine: Engine) -> bool:
    try:
        engine.run("version")
    except ImageError:
        return False
    return True


def _fleet(**group: object) -> Fleet:
    return parse_fleet({"fleet": TRAINING, "group": [{**NARROW, **group}]}, name="composed")


def test_a_machine_is_no_container() -> None:
    with pytest.raises(FleetError, match="d0, d1: a whole machine is no container"):
        kinds(_fleet(backend="machine"))


def test_arm_groups_stay_arm() -> None:
    assert {kind.arch for kind in kinds(_fleet(backend="container", arch="arm64")).values()} == {"arm64"}


def _read(file: Path) -> dict[str, Any]:
    """Its first line is a comment, the rest JSON."""
    found: dict[str, Any] = json.loads(file.read_text().partition("\n")[2])
    return found


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.tools("docker", "dockerd", "docker-compose", "iptables", "mmdebstrap")
def test_docker_compose_runs_a_fleet_with_its_limits_and_links(docker: Docker, tmp_path: Path) -> None:
    fleet, data = _fleet(), load_dataset("digits")
    settled = settle(fleet, data, tmp_path)
    done = compose(fleet, settled, data, docker.engine, tmp_path / "out")
    services = _read(done.file)["services"]
    assert services.keys() == {"d0", "d0-link", "d1", "d1-link"}
    base = ["docker-compose", "--project-name", "potstilltest", "--file", str(done.file)]
    arguments = [sys.executable, "-m", "potstill", "broker"]
    serve = [*arguments, "serve", "--json", "--host", GATEWAY, "--port", "1883", "--expose"]
    run = [*arguments, "run", "--json", "--broker", BROKER, "--fleet", "composed", "--method=fd", "--devices=2"]
    run += ["--quorum=2", "--rounds=1", "--steps=3", "--start-deadline=200", "--program", str(settled.program)]
    run += ["--ledger", str(tmp_path / "ledger.sqlite")]
    broker = None
    try:
        subprocess.run([*base, "up", "--detach"], check=True, capture_output=True, timeout=200)
        broker = subprocess.Popen(inside.command(serve, namespace=docker.namespace), stdout=subprocess.PIPE)
        assert broker.stdout is not None
        assert b"serving" in broker.stdout.readline()
        events = _events(inside.command(run, namespace=docker.namespace))
        assert events[-1]["complete"], events[-1]
        assert {event["device"] for event in events if event["event"] == "report"} == {"d0", "d1"}
        held = docker.engine.run(
            "inspect", "--format", "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}", "potstilltest_d0_1"
        )
        assert held.split() == ["400000000", str(160 * 2**20)]
        # A finished link container has laid its link, or the device is not shaped: its exit code says which.
        links = [f"potstilltest_{name}-link_1" for name in ("d0", "d1")]
        assert docker.engine.run("wait", *links).split() == ["0", "0"]
        for interface in ("eth0", "ifb0"):
            assert _rate_bit_per_s(docker, services["d0"]["image"], interface) == 250_000
    finally:
        if broker is not None:
            broker.terminate()
            broker.communicate(timeout=60)
        subprocess.run([*base, "down", "--timeout", "5"], check=True, capture_output=True, timeout=200)


def _events(words: list[str]) -> list[dict[str, Any]]:
    done = subprocess.run(words, capture_output=True, check=False, timeout=280, env=dict(os.environ))
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _rate_bit_per_s(docker: Docker, image: str, interface: str) -> int:
    """As the kernel tells of the device's network, whichever discipline holds it."""
    words = ["run", "--rm", "--pull=never", "--network=container:potstilltest_d0_1", "--user=0:0"]
    told = json.loads(docker.engine.run(*words, "--entrypoint=/sbin/tc", image, *READ_LINK.split()[1:]))
    (options,) = [each["options"] for each in told if each["dev"] == interface and each["kind"] in {"tbf", "netem"}]
    rate = options["rate"]
    return 8 * int(rate["rate"] if isinstance(rate, dict) else rate)


@pytest.mark.root
@pytest.mark.tools("docker", "dockerd", "iptables", "mmdebstrap")
def test_limits_of_a_docker_container_hold(docker: Docker, tmp_path: Path) -> None:
    image = build_image(docker.engine, device_root(host_architecture()))
    check_confinement(tmp_path, ["docker", "run"], image)
