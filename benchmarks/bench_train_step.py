"""Train step of every installed runtime against torch eager (module and torch.optim), one thread, batch 32.

    python benchmarks/bench_train_step.py [--repeats 60] [--programs dense cnn cnn-8x8 har-cnn] [--json]

All runtimes and torch take their turns in one process, each on its own state, so that load on the machine falls on
all alike; a turn is a few steps in a row, as in training, when the caches hold one runtime's state. The figure is the
median over the turns of torch's time divided by the runtime's. A step includes what the Protocol asks for: copies of x
and target in, loss and logits out.
"""

from __future__ import annotations

import os

# Before numpy, torch and onnxruntime are imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from edge.runtime.choose import installed, load_runtime
from edge.runtime.graph import FloatArray
from edge.runtime.program import load_program
from trainer.compile.package import pack, write_folder
from trainer.models import MODELS

BATCH, LR, WARM_UP, STEPS = 32, 0.05, 2, 6
PROGRAMS = {"dense": "mlp", "cnn": "cnn", "cnn-8x8": "cnn-8x8", "har-cnn": "har-cnn"}
"""784-128-10; the 12,544-parameter CNN; the demo's; phone sensors'. All take plain SGD."""
GOAL = {"dense": 2.5, "cnn": 1.5, "cnn-8x8": 1.5, "har-cnn": 1.5}
"""Of onnx against torch eager."""

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for program in arguments.programs for row in measure(program, arguments.repeats)]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'program':9} {'runtime':28} {'ms a step':>9} {'torch eager / it':>17}  goal")
    for row in rows:
        print(f"{row['program']:9} {row['runtime']:28} {row['ms']:9.3f} {row['ratio']:17.2f}  {row['goal']}")


def measure(program: str, repeats: int) -> list[dict[str, str | float]]:
    kind = MODELS[PROGRAMS[program]]
    torch.manual_seed(0)
    module = kind.build(kind.input_shape, len(kind.labels))
    rng = np.random.default_rng(0)
    x = rng.random((BATCH, *kind.input_shape), np.float32)
    target = rng.dirichlet(np.ones(len(kind.labels)), BATCH).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(
            module, name=program, input_shape=kind.input_shape, labels=kind.labels, optimiser="sgd", batch=BATCH
        )
        write_folder(packed, Path(folder))
        loaded = load_program(Path(folder))
    runtimes = [load_runtime(loaded, name) for name in installed()]
    steps: list[Step] = [torch_step(module, x, target)]
    steps += [lambda runtime=runtime: runtime.train(x, target, LR) for runtime in runtimes]  # type: ignore[misc]
    seconds = taken_in_turn(steps, repeats)  # (repeats, 1 + runtimes)
    return [
        {
            "program": program,
            "runtime": label,
            "ms": 1000 * median(column),
            "ratio": median(eager / own for eager, own in zip(seconds[:, 0], column, strict=True)),
            "goal": f">= {GOAL[program]}" if label.startswith("onnx") else "",
        }
        for label, column in zip(
            [f"torch eager {torch.__version__.partition('+')[0]}", *(runtime.name for runtime in runtimes)],
            seconds.T,
            strict=True,
        )
    ]


def torch_step(module: nn.Module, x: FloatArray, target: FloatArray) -> Step:
    """What a client on torch runs: forward, backward and update, in eager mode."""
    optimiser = torch.optim.SGD(module.parameters(), lr=LR)
    batch, wanted = torch.from_numpy(x), torch.from_numpy(target)

    def step() -> float:
        optimiser.zero_grad()
        loss = -(wanted * torch.log_softmax(module(batch), 1)).sum() / BATCH
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    return step


def taken_in_turn(steps: list[Step], repeats: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(repeats, runtimes) seconds a step."""
    taken = np.empty((repeats, len(steps)))
    for turn in range(-WARM_UP, repeats):
        for place, step in enumerate(steps):
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            if turn >= 0:
                taken[turn, place] = (time.perf_counter() - started) / STEPS
    return taken


if __name__ == "__main__":
    main()
