"""What runs as ARM code: training steps of one program, marks between them. Started by `count`, never imported.

    python step.py PROGRAM RUNTIME STEPS

Every step is the first: it starts from the program's initial state, on one batch, so that all do the same work.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np

from edge.runtime.choose import load_runtime
from edge.runtime.program import load_program

MARK = 0o521
"""As trainer/instructions/plugin.c waits for it."""
WARM_UP = 2
LR = 0.05


def main(folder: str, runtime_name: str, steps: int) -> None:
    """Marks: two with nothing between them, then one after each step."""
    program = load_program(Path(folder))
    manifest = program.manifest
    runtime = load_runtime(program, runtime_name)
    state = runtime.state()
    rng = np.random.Generator(np.random.PCG64(0))
    x = rng.random((manifest.batch, *manifest.input_shape), np.float32)  # (B, ...)
    target = np.eye(len(manifest.labels), dtype=np.float32)[np.arange(manifest.batch) % len(manifest.labels)]  # (B, L)
    print(runtime.name)
    gc.disable()
    for _ in range(WARM_UP):
        runtime.set_state(state)
        runtime.train(x, target, LR)
    for step in range(-2, steps):
        if step >= 0:
            runtime.set_state(state)
        os.umask(MARK)
        if step >= 0:
            runtime.train(x, target, LR)
        os.umask(MARK)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
