"""The brokers that we start: they listen where they say, fast, on loopback, and end with their parent."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.servers import MAX_FRAME_BYTES, Server, ServerError, free_port
from broker.servers.embedded import EmbeddedBroker
from broker.servers.mosquitto import Mosquitto, configuration

KINDS = [
    pytest.param(EmbeddedBroker, id="embedded"),
    pytest.param(Mosquitto, id="mosquitto", marks=pytest.mark.mosquitto),
]
NAMES = [
    pytest.param("embedded", id="embedded"),
    pytest.param("mosquitto", id="mosquitto", marks=pytest.mark.mosquitto),
]


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def no_delay(_client: mqtt.Client, _user: object, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def echo(client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
    client.publish("ps/back", message.payload, 1)


class Peer:
    """A paho client of its own thread that keeps what it hears."""

    def __init__(self, url: str, name: str, topic: str | None = None) -> None:
        self.heard: list[mqtt.MQTTMessage] = []
        self.arrived = threading.Event()
        self._subscribed = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        self.client.on_socket_open = no_delay
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        host, _, port = url.removeprefix("mqtt://").rpartition(":")
        self.client.connect(host, int(port))
        self.client.loop_start()
        assert until(self.client.is_connected)
        if topic is not None:
            self.client.subscribe(topic, 1)
            assert self._subscribed.wait(10)

    def _on_message(self, _client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        self.heard.append(message)
        self.arrived.set()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def peer(stack: ExitStack, url: str, name: str, topic: str | None = None) -> Peer:
    made = Peer(url, name, topic)
    stack.callback(made.close)
    return made


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_at_qos_1_does_not_wait_for_delayed_acknowledgements(
    kind: Callable[[], Server], stack: ExitStack
) -> None:
    """Without TCP_NODELAY in the broker a trip takes 44 ms or more once the kernel has stopped acknowledging at once.

    The fastest quarter of what follows the first twenty leaves room for a loaded machine.
    """
    url = stack.enter_context(kind()).url
    here = peer(stack, url, "here", "ps/back")
    there = peer(stack, url, "there", "ps/forth")
    there.client.on_message = echo
    seconds = []
    for _ in range(60):
        here.arrived.clear()
        began = time.perf_counter()
        here.client.publish("ps/forth", bytes(100), 1)
        assert here.arrived.wait(5)
        seconds.append(time.perf_counter() - began)
    assert statistics.quantiles(seconds[20:])[0] < 0.015


@pytest.mark.parametrize("kind", KINDS)
def test_large_frames_retained_messages_and_wills_pass(kind: Callable[[], Server], stack: ExitStack) -> None:
    url = stack.enter_context(kind()).url
    sender = peer(stack, url, "sender")
    large = os.urandom(5_000_000)
    sender.client.publish("ps/w", large, 1, retain=True).wait_for_publish(10)
    reader = peer(stack, url, "reader", "ps/#")
    assert until(lambda: len(reader.heard) == 1)
    assert reader.heard[0].payload == large
    assert reader.heard[0].retain

    mortal = mqtt.Client(CallbackAPIVersion.VERSION2, "mortal", protocol=mqtt.MQTTv5)
    mortal.will_set("ps/s", b"gone", 1, retain=True)
    host, _, port = url.removeprefix("mqtt://").rpartition(":")
    mortal.connect(host, int(port))
    mortal.loop_start()
    assert until(mortal.is_connected)
    sock = mortal.socket()
    assert isinstance(sock, socket.socket)
    mortal.loop_stop()
    sock.close()
    assert until(lambda: reader.heard[-1].payload == b"gone")


@pytest.mark.parametrize("kind", KINDS)
def test_it_listens_on_loopback_alone_and_leaves_its_port(kind: Callable[[], Server]) -> None:
    with kind() as server:
        process = psutil.Process(server.pid)
        listening = {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        assert server.running()
    assert not server.running()
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_an_error_that_says_so(kind: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match="cannot listen"), kind(port=port):
            pass


@pytest.mark.mosquitto
def test_mosquitto_keeps_what_it_retained_over_a_restart(tmp_path: Path, stack: ExitStack) -> None:
    folder, port = tmp_path / "broker", free_port()
    with Mosquitto(folder=folder, port=port, persistent=True) as server:
        sender = Peer(server.url, "sender")
        sender.client.publish("ps/plan", b"plan", 1, retain=True).wait_for_publish(5)
        sender.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    server = stack.enter_context(Mosquitto(folder=folder, port=port, persistent=True))
    reader = peer(stack, server.url, "reader", "ps/#")
    assert until(lambda: [m.payload for m in reader.heard] == [b"plan"])


def test_mosquitto_is_told_the_limits() -> None:
    lines = configuration("127.0.0.1", 1883).splitlines()
    assert "listener 1883 127.0.0.1" in lines
    assert "max_inflight_messages 0" in lines
    assert "set_tcp_nodelay true" in lines
    assert f"max_packet_size {MAX_FRAME_BYTES}" in lines


def serve(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "potstill", "broker", "serve", *options], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_the_url_and_ends_in_good_order(kind: str, number: signal.Signals) -> None:
    with serve("--kind", kind, "--json") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["event"] == "serving"
        Peer(said["url"], "guest").close()
        process.send_signal(number)
        assert process.wait(10) == 0


@pytest.mark.parametrize("kind", NAMES)
def test_the_broker_does_not_outlive_a_killed_parent(kind: str) -> None:
    with serve("--kind", kind) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("mqtt://127.0.0.1:")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill()
        process.wait()
        assert psutil.wait_procs(children, timeout=10)[1] == []


def test_an_address_that_others_reach_needs_a_word() -> None:
    with serve("--host", "0.0.0.0") as process:  # noqa: S104
        assert process.wait(20) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_ipv6_address_stands_in_brackets_in_the_url(kind: Callable[..., Server]) -> None:
    try:
        free_port("::1")
    except OSError as problem:
        pytest.skip(f"no IPv6 here: {problem}")
    with kind(host="::1") as server:
        parts = urlsplit(server.url)
        assert parts.hostname == "::1"
        with socket.create_connection(("::1", parts.port or 0), timeout=5):
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_may_be_a_name(kind: Callable[..., Server]) -> None:
    with kind(host="localhost") as server:
        assert server.url.startswith("mqtt://localhost:")
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=5):
            pass
    with pytest.raises(ServerError, match="cannot listen on nowhere"), kind(host="nowhere.invalid"):
        pass
