"""The link of a device when its connection dies unseen: under a message that is being sent."""

from __future__ import annotations

import socket
import threading

from broker.servers.embedded import EmbeddedBroker
from edge.link import Happening, Link
from edge.meter.traffic import Traffic
from edge.mqtt import parse_url
from edge.session import LinkDown, LinkUp


def wait_for(link: Link, kind: type[LinkUp | LinkDown]) -> list[Happening]:
    found: list[Happening] = []
    while not any(isinstance(happening, kind) for happening in found):
        found += link.poll(0.1)
    return found


def test_a_message_on_a_connection_that_has_died_waits_for_the_next() -> None:
    with EmbeddedBroker() as broker, socket.create_server(("127.0.0.1", 0)) as gate:
        port = gate.getsockname()[1]
        address = parse_url(f"mqtt://127.0.0.1:{port}")
        link = Link(address, fleet="f", device="d", keepalive_s=60, traffic=Traffic())
        with Through(gate, broker.url):
            wait_for(link, LinkUp)
        for _ in range(3):  # the first finds the connection reset at the latest
            link.publish("ps/f/m/d", b"report", qos=1)
        wait_for(link, LinkDown)
        with Through(gate, broker.url):
            wait_for(link, LinkUp)
            link.part("ps/f/s/d", b"gone")
        link.close()


class Through:
    """One connection to the broker, which is cut at the end."""

    def __init__(self, gate: socket.socket, url: str) -> None:
        self._gate = gate
        self._port = int(url.rpartition(":")[2])
        self._ends: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> None:
        self._accepting.start()

    def _accept(self) -> None:
        client, _ = self._gate.accept()
        broker = socket.create_connection(("127.0.0.1", self._port))
        self._ends = [client, broker]
        for source, sink in ((client, broker), (broker, client)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._accepting.join()
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)
            end.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return
