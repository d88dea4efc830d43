"""Peak memory of one device process while it trains, by runtime, beside a process that only imports torch.

Also the seconds from the process's start to its first upload, imports, connection and first round included.

    python benchmarks/bench_memory.py [--program DIR] [--rounds 8] [--steps 60]

Starts the embedded broker and, for each runtime that is installed, a real `potstill edge run` with the dense program
784-128-10 (compiled here with torch unless --program is given) on 500 random samples of bytes, and leads it through
an FD and an FL run. PSS is read from /proc/PID/smaps_rollup about every 5 ms from the process's first moment to its
last; RSS is the kernel's own high-water mark. Broker and leader map some of the same files, which PSS shares out.
"""

from __future__ import annotations

import argparse
import queue
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from broker.servers.embedded import EmbeddedBroker
from edge.wire import topics
from edge.wire.codec import decode, encode
from edge.wire.manifest import Manifest, parse_manifest
from edge.wire.messages import Birth, Command, Message, Method, Order, Parameters, ParameterUpload, Plan, Seat, Upload

FLEET, DEVICE = "bench", "d0"
MOST_BYTES = 10**7
RUNTIMES = ("onnx", "tflite", "numpy", "torch")
TARGET_MIB = {"onnx": 60, "tflite": 50, "numpy": 45}
WAIT_S = 60.0


class Memory:
    """Peak PSS and RSS of a process, MiB."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self.pss_mib = 0.0
        self.rss_mib = 0.0

    def sample(self) -> None:
        self.pss_mib = max(self.pss_mib, self._field("smaps_rollup", "Pss:"))
        self.rss_mib = max(self.rss_mib, self._field("status", "VmHWM:"))

    def _field(self, file: str, name: str) -> float:
        try:
            lines = (self._folder / file).read_text().splitlines()
        except OSError:  # the process has ended
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


class Leader:
    """Just enough of an aggregator to lead one device."""

    def __init__(self, url: str, manifest: Manifest, *, rounds: int, steps: int) -> None:
        self._manifest, self._rounds, self._steps = manifest, rounds, steps
        self._heard: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.first_upload_at: float | None = None
        self._mqtt = paho.Client(CallbackAPIVersion.VERSION2, client_id="leader", protocol=paho.MQTTv5)
        self._mqtt.on_message = self._on_message
        host, port = url.removeprefix("mqtt://").split(":")
        self._mqtt.connect(host, int(port))
        self._mqtt.subscribe([(topics.every_birth(FLEET), 1), (topics.every_upload(FLEET), 1)])
        self._mqtt.loop_start()

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._heard.put(decode(bytes(message.payload), limit=MOST_BYTES))

    def wait(self, kind: type[Message], memory: Memory) -> Message:
        """The next message of this kind; samples the memory meanwhile."""
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            memory.sample()
            try:
                message = self._heard.get(timeout=0.005)
            except queue.Empty:
                continue
            if isinstance(message, kind):
                return message
        raise SystemExit(f"no {kind.__name__} within {WAIT_S:g} s: see what the device has written above")

    def lead(self, run: int, method: Method, memory: Memory) -> None:
        kind: type[Message] = Upload if method is Method.FD else ParameterUpload
        self._say(topics.plan(FLEET), self._plan(run, 0, method, None), retain=True)
        self._say(topics.command(FLEET, DEVICE), Seat(run=run, seat=0))
        for round_ in range(self._rounds):
            upload = self.wait(kind, memory)
            self.first_upload_at = self.first_upload_at or time.monotonic()
            if isinstance(upload, ParameterUpload):
                average = Parameters(run=run, round=round_ + 1, parameters=upload.parameters)
                self._say(topics.parameters(FLEET), average, retain=True)
            self._say(topics.plan(FLEET), self._plan(run, round_ + 1, method, upload), retain=True)

    def stop(self) -> None:
        self._say(topics.command(FLEET, DEVICE), Command(order=Order.STOP))

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def _say(self, topic: str, message: Message, *, retain: bool = False) -> None:
        self._mqtt.publish(topic, encode(message), qos=1, retain=retain)

    def _plan(self, run: int, round_: int, method: Method, upload: Message | None) -> Plan:
        L = len(self._manifest.labels)
        rows = upload.logits if isinstance(upload, Upload) else None
        holders = np.minimum(upload.counts, 1) if isinstance(upload, Upload) else np.zeros(L, np.uint32)
        return Plan(
            run=run,
            round=round_,
            rounds=self._rounds,
            method=method,
            steps=self._steps,
            seed=1,
            lr=0.05,
            gamma=1.0,
            bits=8,
            deadline_s=60.0,
            qos=1,
            report=True,
            normalise=True,
            program=self._manifest.digest,
            cohort=frozenset({0} if round_ else ()),
            contributors=holders if method is Method.FD else np.zeros(0, np.uint32),
            logits=rows,
        )


def write_shard(file: Path) -> None:
    """500 random samples of bytes for 784-128-10, 500 more to test on."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (1000, 784), np.uint8), rng.integers(0, 10, 1000, np.uint8)
    np.savez(file, train_x=x[:500], train_y=y[:500], test_x=x[500:], test_y=y[500:], scale=np.float32(1 / 255))


def compile_program(folder: Path) -> Path:
    """In a process of its own, so that this one never loads torch."""
    command = [sys.executable, "-m", "potstill", "trainer", "compile", "mlp", "--input-shape", "784", "-o", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(
    url: str, program: Path, shard: Path, work: Path, runtime: str, *, rounds: int, steps: int
) -> tuple[Memory, float]:
    """-> its memory, and the seconds from its start to its first upload."""
    manifest = parse_manifest((program / "manifest.json").read_text())
    leader = Leader(url, manifest, rounds=rounds, steps=steps)
    arguments = ["--broker", url, "--fleet", FLEET, "--device", DEVICE, "--program", str(program)]
    arguments += ["--data", str(shard), "--work", str(work), "--runtime", runtime, "--log-level", "warning"]
    began = time.monotonic()
    device = subprocess.Popen([sys.executable, "-m", "potstill", "edge", "run", *arguments])
    try:
        memory = Memory(device.pid)
        leader.wait(Birth, memory)
        first = RUNTIMES.index(runtime) * 2 + 1
        leader.lead(first, Method.FD, memory)
        leader.lead(first + 1, Method.FL, memory)
        leader.stop()
        while device.poll() is None:
            memory.sample()
            time.sleep(0.005)
    finally:
        device.kill()
        leader.close()
    assert leader.first_upload_at is not None  # `lead` has waited for it
    return memory, leader.first_upload_at - began


def measure_torch_import() -> Memory:
    code = "import torch, sys; print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    memory = Memory(process.pid)
    memory.sample()
    process.stdin.close()
    process.wait()
    return memory


def _line(what: str, memory: Memory, target: str, first_upload: str) -> str:
    return f"  {what:<36} {memory.pss_mib:14.1f} {memory.rss_mib:14.1f} {target:>12} {first_upload:>16}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runtimes", nargs="*", default=RUNTIMES, choices=RUNTIMES)
    options = parser.parse_args()
    from edge.runtime.choose import installed

    with tempfile.TemporaryDirectory(prefix="potstill-bench-") as folder, EmbeddedBroker() as broker:
        base = Path(folder)
        program = options.program or compile_program(base / "mlp")
        write_shard(base / "shard.npz")
        print("784-128-10, batch 32, 500 samples       peak PSS MiB   peak RSS MiB   target PSS   first upload s")
        for runtime in (name for name in options.runtimes if name in installed()):
            work = base / f"work-{runtime}"
            memory, first_upload_s = measure(
                broker.url, program, base / "shard.npz", work, runtime, rounds=options.rounds, steps=options.steps
            )
            target = TARGET_MIB.get(runtime, "-")
            print(_line(f"edge run --runtime {runtime}", memory, str(target), f"{first_upload_s:.2f}"))
        if "torch" in installed():
            memory = measure_torch_import()
            print(_line("python -c 'import torch'", memory, "-", "-"))


if __name__ == "__main__":
    main()
