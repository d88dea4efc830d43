"""Uploads a second that the aggregator takes, against a paho subscriber that does nothing, on the same mosquitto.

    python benchmarks/bench_aggregator.py [--uploads 10000] [--repeats 3] [--json]

Each turn sends the same frames from one raw socket (QoS 1, one topic a device, as fast as the broker takes them) and
stops the clock when the subscriber has had the last one. Three subscribers take turns; medians, and their ratios:

    plain       paho, loop_forever, QoS 1, paho acknowledges; on_message counts
    manual      the same with manual_ack: on_message acknowledges and counts
    aggregator  `potstill broker run` as a user starts it, one FD round of as many devices: decoded, admitted, stepped,
                written to the ledger, acknowledged; the round's mean and its plan are in the time
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from broker.servers.mosquitto import Mosquitto
from edge.wire import topics
from edge.wire.codec import encode
from edge.wire.manifest import FORMAT, Manifest, Tensor
from edge.wire.messages import Birth, Upload
from edge.wire.rows import code_counts, code_rows, read_counts

FLEET = "bench"
LABELS = 10
RUN = 7

SUBSCRIBER = """
import sys, socket
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
port, count, manual = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "manual"
client = mqtt.Client(CallbackAPIVersion.VERSION2, "bench-sub", protocol=mqtt.MQTTv5, manual_ack=manual)
client.on_socket_open = lambda c, u, s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
got = 0
def on_message(client, user, message):
    global got
    if manual:
        client.ack(message.mid, message.qos)
    got += 1
    if got == count:
        print("done", flush=True)
        client.disconnect()
client.on_message = on_message
client.on_subscribe = lambda *a: print("ready", flush=True)
client.on_connect = lambda c, *a: c.subscribe("ps/bench/u/+", 1)
client.connect("127.0.0.1", port)
client.loop_forever()
"""


def manifest() -> Manifest:
    return Manifest(
        format=FORMAT,
        name="nothing",
        labels=tuple(str(label) for label in range(LABELS)),
        input_shape=(1,),
        batch=1,
        predict_batch=1,
        optimiser="sgd",
        parameters=(Tensor(name="w", shape=(1,)),),
        optimiser_state=(),
        files={},
    )


# ---------------------------------------------------------------- MQTT 5 by hand: the load must cost next to nothing


def _packet(kind: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([kind])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def _string(text: str) -> bytes:
    return struct.pack("!H", len(text)) + text.encode()


def connect_packet(name: str) -> bytes:
    return _packet(0x10, _string("MQTT") + b"\x05\x02\x00\x00\x00" + _string(name))


def publish_packet(topic: str, payload: bytes, mid: int) -> bytes:
    return _packet(0x32, _string(topic) + struct.pack("!H", mid) + b"\0" + payload)


class Load:
    """One connection that sends packets prepared beforehand and throws the answers away."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.sendall(connect_packet("bench-load"))
        self._sock.recv(4096)
        self._sock.setblocking(False)

    def send(self, data: bytes, *, timeout_s: float = 120.0) -> None:
        view, end = memoryview(data), time.monotonic() + timeout_s
        while view:
            if time.monotonic() > end:
                raise SystemExit("the broker does not take the load: is mosquitto running?")
            readable, writable, _ = select.select([self._sock], [self._sock], [], 1.0)
            if readable:
                self._sock.recv(1 << 16)
            if writable:
                view = view[self._sock.send(view[: 1 << 16]) :]

    def close(self) -> None:
        self._sock.close()


def uploads(count: int) -> bytes:
    """An FD upload (4 bits) of each device, ready to send."""
    rng = np.random.default_rng(1)
    check = int.from_bytes(manifest().schema[:2], "big")
    packets = []
    for number in range(count):
        rows = code_rows(rng.dirichlet(np.ones(LABELS), LABELS), 4)
        counts = read_counts(code_counts(rng.integers(1, 200, LABELS)))
        frame = encode(Upload(run=RUN, round=0, check=check, counts=counts, logits=rows))
        packets.append(publish_packet(topics.upload(FLEET, f"d{number:05d}"), frame, 1 + number % 65535))
    return b"".join(packets)


def births(count: int) -> bytes:
    program = manifest()
    birth = Birth(
        profile="",
        runtime="none",
        version="0",
        program=program.digest,
        schema=program.schema,
        samples=np.ones(LABELS, np.uint32),
    )
    frame = encode(birth)
    return b"".join(
        publish_packet(topics.birth(FLEET, f"d{number:05d}"), frame, 1 + number % 65535) for number in range(count)
    )


# ---------------------------------------------------------------- the subscribers


def _wait_for(process: subprocess.Popen[str], words: Sequence[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if any(word in line for word in words):
            return
    raise SystemExit(f"the subscriber ended before it said {words[0]}")


def _timed(process: subprocess.Popen[str], load: Load, data: bytes, done: str) -> float:
    began = time.perf_counter()
    load.send(data)
    _wait_for(process, [done])
    return time.perf_counter() - began


def time_subscriber(port: int, load: Load, data: bytes, count: int, mode: str) -> float:
    with subprocess.Popen(
        [sys.executable, "-c", SUBSCRIBER, str(port), str(count), mode], stdout=subprocess.PIPE, text=True
    ) as process:
        _wait_for(process, ["ready"])
        return _timed(process, load, data, "done")


def time_aggregator(port: int, load: Load, data: bytes, count: int, folder: Path) -> float:
    (folder / "manifest.json").write_text(manifest().to_json())
    ledger = folder / f"ledger-{time.monotonic_ns()}.sqlite"
    command = [sys.executable, "-m", "potstill", "broker", "run", "--broker", f"mqtt://127.0.0.1:{port}", "--json"]
    command += ["--fleet", FLEET, "--program", str(folder), "--devices", str(count), "--ledger", str(ledger)]
    command += ["--rounds", "1", "--run", str(RUN), "--no-report", "--deadline", "300", "--start-deadline", "120"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _wait_for(process, ['"waiting"'])
        load.send(births(count))
        _wait_for(process, [f'"born": {count}'])
        seconds = _timed(process, load, data, '"round"')
        process.communicate()
    if process.returncode:
        raise SystemExit("the aggregator failed")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 1 <= options.uploads <= 60_000 or not 1 <= options.repeats <= 20:
        parser.error("1 to 60,000 uploads (the broker queues as many), 1 to 20 repeats")
    data, count = uploads(options.uploads), options.uploads
    rates: dict[str, list[float]] = {"plain": [], "manual": [], "aggregator": []}
    with Mosquitto() as server, tempfile.TemporaryDirectory() as folder:
        port = int(server.url.rpartition(":")[2])
        load = Load(port)
        for _ in range(options.repeats):
            for mode in ("plain", "manual"):
                rates[mode].append(count / time_subscriber(port, load, data, count, mode))
            rates["aggregator"].append(count / time_aggregator(port, load, data, count, Path(folder)))
        load.close()
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {f"aggregator/{name}": median["aggregator"] / median[name] for name in ("plain", "manual")}
    if options.json:
        print(json.dumps({"uploads_per_s": median, "ratios": ratios}))
        return
    for name, values in rates.items():
        print(f"{name:12} {median[name]:8.0f} uploads/s   ({', '.join(f'{value:.0f}' for value in values)})")
    for name, ratio in ratios.items():
        print(f"{name:20} {ratio:.2f}   (aim: at least 0.70)")


if __name__ == "__main__":
    main()
