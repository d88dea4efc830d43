"""The embedded broker: rumqttd from the `iotcore` wheel, in a child process, through a TOML of our own.

Nothing but this file knows `iotcore`. What had to be set or done, with what was seen (iotcore 0.4, rumqttd 0.20):

- its default address is 0.0.0.0 and its default payload limit 20 kB: both are set here;
- it does not set TCP_NODELAY: a QoS 1 message took 44 ms in each direction on loopback (the PUBLISH that follows a
  PUBACK waits for the peer's delayed acknowledgement). Linux hands the option on from a listening socket to the
  sockets accepted from it, so the child sets it there: a round trip of two QoS 1 messages is then about 1 ms;
- it keeps at most 100 unacknowledged messages in flight to a client, whatever Receive Maximum says;
- its MQTT 5 sessions do not queue for an absent client and retained messages end with the process: the aggregator
  publishes plan and parameters again whenever it connects, and devices send their pending upload again.

The child ends when its standard input closes, so it never outlives its parent, however that dies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from broker.servers import MAX_FRAME_BYTES, START_S, Server, ServerError, bracketed, check_port

_TOML = """\
id = 0
[router]
id = 0
max_connections = {connections}
max_outgoing_packet_count = 200
max_segment_size = {segment_bytes}
max_segment_count = 4
[v5.1]
name = "v5"
listen = "{host}:{port}"
next_connection_delay_ms = 0
[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload_bytes}
max_inflight_count = 100
"""

READY = b"listening\n"


def configuration(host: str, port: int, *, connections: int = 1010, payload_bytes: int = MAX_FRAME_BYTES) -> str:
    """The TOML. rumqttd keeps up to 5 segments of every topic filter's messages in memory: 160 MB at most."""
    return _TOML.format(
        connections=connections,
        segment_bytes=payload_bytes,
        payload_bytes=payload_bytes,
        host=bracketed(host),
        port=port,
    )


class EmbeddedBroker(Server):
    """`with EmbeddedBroker() as broker:` listens on `broker.url` (MQTT 5 only). Raises `ServerError`."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)

    def __enter__(self) -> Self:
        if importlib.util.find_spec("iotcore") is None:
            raise ServerError("the embedded broker is not installed: pip install 'potstill[embedded]'")
        check_port(self._host, self._port)
        self._own_folder = tempfile.TemporaryDirectory(prefix="potstill-broker-")
        config = Path(self._own_folder.name) / "rumqttd.toml"
        config.write_text(configuration(_address(self._host), self._port))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "broker.servers.embedded", str(config), str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for the parent, which stops the broker last
        )
        try:
            self._await_listening(self._process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await_listening(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != READY:
            process.kill()
            lines = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise ServerError(
                f"the embedded broker did not start on {self._host}:{self._port} (is the port taken?): "
                + (lines[-1] if lines else f"it said nothing for {START_S:g} s")
            )
        drain = threading.Thread(target=_drain, args=(process.stderr.fileno(),), daemon=True)
        drain.start()


def _address(host: str) -> str:
    """Of a host by its name: rumqttd takes no names."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return str(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)[0][4][0])


def _drain(fd: int) -> None:
    """A full pipe would stop the broker."""
    with contextlib.suppress(OSError):
        while os.read(fd, 65536):
            pass


# ---------------------------------------------------------------- the child process


def _die_with_parent() -> None:
    try:
        sys.stdin.buffer.read()  # returns when the parent's end of the pipe closes
    finally:
        os._exit(0)


def _set_nodelay_and_say_so(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        for listener in _listeners(port):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            os.write(1, READY)
            return
        time.sleep(0.005)
    os._exit(3)


def _listeners(port: int) -> list[socket.socket]:
    """Listening sockets of this process on `port`, found among its file descriptors (Linux)."""
    found = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            candidate = socket.socket(fileno=os.dup(int(entry.name)))
            listening = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listening and candidate.getsockname()[1] == port:
                found.append(candidate)
            else:
                candidate.close()
    return found


def _child(config: str, port: int) -> None:
    from iotcore import IotCoreBroker

    # rumqttd reports every packet as an error to Python's logging.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    threading.Thread(target=_set_nodelay_and_say_so, args=(port,), daemon=True).start()
    IotCoreBroker(config_path=config).run_forever()


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]))
