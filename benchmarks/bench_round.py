"""Milliseconds a round takes with next to no local work: four real devices, the aggregator and the broker on ONE core.

    python benchmarks/bench_round.py [--kind mosquitto|embedded] [--rounds 200] [--repeats 3] [--method fd] [--json]

Every process is `potstill ...` as a user starts it, pinned to one core. A round holds, with nothing taken off: the plan
to 4 devices, one training step of a softmax regression (650 parameters, numpy runtime) on each, each device's state
written and synced to its disk, 4 uploads at QoS 1, the ledger (a transaction a batch, one fsync a round), the mean,
and the broker's work. No reports. The figure is the run's time from its first plan to its end over the rounds.

What of it is local work is told beside it: the same training step with its batch, targets and label means, in a process
that does nothing else, times 4. In a device's process it takes longer, whose caches others have used: a lower bound.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import numpy as np

from broker.servers import Server
from broker.servers.embedded import EmbeddedBroker
from broker.servers.mosquitto import Mosquitto
from edge.learner import Classifier
from edge.session import Train
from edge.wire.messages import Method, Plan

POTSTILL = [sys.executable, "-m", "potstill"]
DEVICES = 4


def tiny_program() -> ModuleType:
    """The small program that the device's tests use."""
    path = Path(__file__).resolve().parent.parent / "tests" / "edge" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_program", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_device(url: str, folder: Path, device: str) -> subprocess.Popen[bytes]:
    command = [*POTSTILL, "edge", "run", "--broker", url, "--fleet", "bench", "--device", device, "--runtime", "numpy"]
    command += ["--program", str(folder / "program"), "--data", str(folder / "shard.npz")]
    command += ["--work", str(folder / device), "--log-level", "warning"]
    return subprocess.Popen(command)


def one_run(url: str, folder: Path, *, rounds: int, method: str) -> list[float]:
    """Seconds of each round, as the aggregator saw it."""
    command = [*POTSTILL, "broker", "run", "--broker", url, "--fleet", "bench", "--program", str(folder / "program")]
    command += ["--method", method, "--rounds", str(rounds), "--steps", "1", "--devices", str(DEVICES), "--no-report"]
    command += ["--ledger", str(folder / "ledger.sqlite"), "--json"]
    told = folder / "events.jsonl"  # a file, not a pipe: nobody but the fleet runs on its core
    with told.open("w") as file:
        subprocess.run(command, stdout=file, timeout=300, check=True)
    events = [json.loads(line) for line in told.read_text().splitlines()]
    return [event["seconds"] for event in events if event["event"] == "round"]


def local_work_s(folder: Path) -> float:
    """Median seconds of a device's training in one round, on this process's core."""
    learner = Classifier(folder / "program", folder / "shard.npz", "numpy")
    plan = Plan(
        run=1,
        round=0,
        rounds=1,
        method=Method.FD,
        steps=1,
        seed=0,
        lr=0.1,
        gamma=1.0,
        bits=4,
        deadline_s=60.0,
        qos=1,
        report=False,
        normalise=False,
        program=learner.program,
        cohort=frozenset(),
        contributors=np.zeros(learner.labels, np.uint32),
        logits=None,
    )
    work = Train(plan, teacher=np.zeros((learner.labels, learner.labels), np.float32))
    seconds = []
    for _ in range(500):
        began = time.perf_counter()
        learner.train(work, "d0", lambda: True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["mosquitto", "embedded"], default="mosquitto")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--method", choices=["alone", "fl", "fd"], default="fd")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 1 <= options.rounds <= 5000 or not 1 <= options.repeats <= 20:
        parser.error("1 to 5,000 rounds, 1 to 20 repeats")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by every process below
    tiny = tiny_program()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tiny.write_program(folder / "program")
        tiny.write_shard(folder / "shard.npz")
        broker: Server = Mosquitto() if options.kind == "mosquitto" else EmbeddedBroker()
        server = stack.enter_context(broker)
        devices = [start_device(server.url, folder, f"d{number}") for number in range(DEVICES)]
        try:
            runs = [
                one_run(server.url, folder, rounds=options.rounds, method=options.method)
                for _ in range(options.repeats)
            ]
        finally:
            for device in devices:
                device.terminate()
            for device in devices:
                device.wait()
        work_ms = 1000 * DEVICES * local_work_s(folder)
    mean_ms = [1000 * statistics.mean(seconds) for seconds in runs]
    median_ms = 1000 * statistics.median(second for seconds in runs for second in seconds)
    if options.json:
        print(json.dumps({"mean_ms": mean_ms, "median_ms": median_ms, "local_work_ms": work_ms, "kind": options.kind}))
        return
    print(f"{options.kind}, {options.method}, {DEVICES} devices, aggregator and broker on one core:")
    print(f"  mean of {options.rounds} rounds: {', '.join(f'{ms:.1f}' for ms in mean_ms)} ms")
    print(f"  median round {median_ms:.1f} ms; of it local work, at least {work_ms:.1f}")
    print(f"  without it {median_ms - work_ms:.1f} ms   (aim: less than 12)")


if __name__ == "__main__":
    main()
