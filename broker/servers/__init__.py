"""MQTT brokers that Potstill configures, starts and stops: rumqttd from the `iotcore` wheel, and Debian's mosquitto.

Both are a `Server`, a context manager; any other MQTT 5 broker is used through its URL alone.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

MAX_FRAME_BYTES = 32 * 2**20
"""Largest message a broker of ours passes on: parameters of an 8 M parameter model as float32."""

START_S = 10.0
"""A broker starts in 0.1 to 0.3 s on an idle machine; this is for a loaded one."""


class ServerError(Exception):
    """The broker did not start; the message says why and what to do."""


class Server(ABC):
    """A broker that this process owns: it listens from `__enter__`, which raises `ServerError`, to `__exit__`."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port or free_port(host if is_loopback(host) else "127.0.0.1")
        self._process: subprocess.Popen[bytes] | None = None
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        """Removed at the end."""

    @property
    def url(self) -> str:
        """`mqtt://host:port`."""
        return f"mqtt://{bracketed(self._host)}:{self._port}"

    @property
    def pid(self) -> int:
        """Of the broker process, while it runs."""
        assert self._process is not None, "the broker runs inside its with block"
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            stop_process(self._process)
        if self._own_folder is not None:
            self._own_folder.cleanup()


def bracketed(host: str) -> str:
    """As a URL has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def check_port(host: str, port: int) -> None:
    """Raises `ServerError` when `host:port` cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free
        try:
            probe.bind((host, port))
        except OSError as problem:
            raise ServerError(f"cannot listen on {host}:{port} ({problem}): choose another --port or --host") from (
                problem
            )


def is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def wait_until_listening(process: subprocess.Popen[bytes], host: str, port: int, *, timeout_s: float = START_S) -> None:
    """Raises `ServerError` when the process ends or the port stays closed."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerError(f"the broker process ended at once with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=0.2):
            return
        time.sleep(0.01)
    raise ServerError(f"nothing listens on {host}:{port} after {timeout_s:g} s: is the machine overloaded?")


def stop_process(process: subprocess.Popen[bytes], *, patience_s: float = 5.0) -> None:
    """Ask with SIGTERM, then insist."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of ending the process."""
    event = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda *_: event.set())
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def serve(server: Server, stop: threading.Event) -> None:
    """Return when `stop` is set or the broker has died; raises `ServerError` for the latter."""
    while not stop.wait(0.2):
        if not server.running():
            raise ServerError("the broker process has died")
