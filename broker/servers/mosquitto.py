"""Debian's mosquitto (2.0 or later), started on a configuration of our own in a folder that only its owner reads.

For tests, benchmarks and one machine. A fleet's mosquitto is a system service; `configuration` is what matters for
Potstill in it, apart from certificates and access control.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from broker.servers import (
    MAX_FRAME_BYTES,
    Server,
    ServerError,
    check_port,
    wait_until_listening,
)


def configuration(host: str, port: int, *, persistence: Path | None = None) -> str:
    """`max_inflight_messages 0`: as many unacknowledged messages as the client's Receive Maximum allows, so that the
    aggregator can acknowledge in batches. `persistence` keeps sessions and retained messages over a restart.
    """
    lines = [
        f"listener {port} {host}",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "max_inflight_messages 0",
        "max_queued_messages 65535",
        f"max_packet_size {MAX_FRAME_BYTES}",
        "connection_messages false",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # else mosquitto drops to a user that cannot read our folder
    if persistence is None:
        lines.append("persistence false")
    else:
        lines += ["persistence true", f"persistence_location {persistence}/", "autosave_interval 1"]
    return "\n".join(lines) + "\n"


def find_mosquitto() -> str | None:
    """Debian keeps it in /usr/sbin, which is not on every user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _dying_with_parent() -> list[str]:
    """util-linux's setpriv asks the kernel to end mosquitto with the process that started it, however that dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


class Mosquitto(Server):
    """`with Mosquitto() as broker:` listens on `broker.url`. Raises `ServerError`.

    `folder` (made with mode 0700) keeps the configuration, and with `persistent` the sessions, for the next start.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, folder: Path | None = None, persistent: bool = False
    ) -> None:
        super().__init__(host, port)
        self._folder = folder
        self._persistent = persistent

    def __enter__(self) -> Self:
        program = find_mosquitto()
        if program is None:
            raise ServerError("no mosquitto on this machine: apt-get install mosquitto, or use --kind embedded")
        check_port(self._host, self._port)
        folder = self._made_folder()
        config, log = folder / "mosquitto.conf", folder / "mosquitto.log"
        config.write_text(configuration(self._host, self._port, persistence=folder if self._persistent else None))
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*_dying_with_parent(), program, "-c", str(config)], stderr=stderr, start_new_session=True
            )
        try:
            wait_until_listening(self._process, self._host, self._port)
        except ServerError as problem:
            said = log.read_text(errors="replace").strip().splitlines()
            self.__exit__()
            raise ServerError(f"mosquitto did not start: {said[-1] if said else problem}") from problem
        return self

    def _made_folder(self) -> Path:
        if self._folder is None:
            self._own_folder = tempfile.TemporaryDirectory(prefix="potstill-mosquitto-")
            return Path(self._own_folder.name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder
