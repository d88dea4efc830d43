"""A Docker daemon of the tests' own."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer.emulate.image import Engine
from trainer.emulate.rootfs import ImageError

START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    engine: Engine
    namespace: str
    """In which its bridges are."""


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Debian's dockerd in a network namespace: its bridge, firewall chains and ip_forward go with it."""
    folder = tmp_path_factory.mktemp("docker")
    namespace = f"potstill-docker-{secrets.token_hex(3)}"
    # Not `ip netns exec`, which hides the cgroups behind a /sys of its own.
    inside = ["nsenter", f"--net=/run/netns/{namespace}"]
    files = ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")]
    socket = f"unix://{folder / 'socket'}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", socket)
            subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
            daemon = subprocess.Popen([*inside, "dockerd", *files, "--host", socket], stdout=log, stderr=log)
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
    end = time.monotonic() + START_S
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
