"""How a run on processes stands, for trainer/progress.py. Pure."""

from __future__ import annotations

from trainer.demo.observe import Observed
from trainer.progress import Heads, Row

HEADS = Heads(run=("split", "method"), figures=("round", "mean", "worst", "devices"))
EVERY = 5
"""Rounds between two plain lines."""


def row(split: str, method: str, seen: Observed, up: int) -> Row:
    """`up` device processes are alive."""
    newest = seen.newest
    mean, worst, line = "", "", None
    if newest is not None:
        accuracy = seen.accuracy(newest)
        mean, worst = f"{accuracy.mean:.3f}", f"{accuracy.worst:.3f}"
        if not (newest + 1) % EVERY or newest + 1 == seen.rounds:
            round_ = f"round {newest + 1:3}/{seen.rounds}"
            line = f"{split:12} {method:6} {round_}  accuracy mean {mean} worst {worst}  devices up {up}/{seen.devices}"
    joined = seen.closed or seen.born == seen.devices
    devices = f"{up}/{seen.devices}" if joined else f"{seen.born} joined"
    return Row(
        run=(split, method),
        done=seen.closed / seen.rounds,
        figures=(f"{seen.closed}/{seen.rounds}", mean, worst, devices),
        line=line,
    )
