"""How a run of the reference trainer stands, for trainer/progress.py. Pure."""

from __future__ import annotations

from trainer.progress import Heads, Row
from trainer.reference.run import Standing
from trainer.reference.settings import Settings

HEADS = Heads(run=("split", "method", "seed"), figures=("round", "mean", "worst", "bytes up"))


def row(settings: Settings, label: str, now: Standing) -> Row:
    """A line a measurement."""
    split, method, seed = settings.split, f"{settings.method} {label}".strip(), str(settings.seed)
    rounds, up = f"{now.round}/{settings.rounds}", f"{now.up:,.0f}"
    mean, worst, line = "", "", None
    if now.points:
        score = now.points[-1].score
        mean, worst = f"{score.mean:.3f}", f"{score.worst:.3f}"
        if now.points[-1].round == now.round - 1:
            line = f"{split:12} {method:16} seed {seed}  round {rounds:>7}  mean {mean} worst {worst}  up {up} B"
    return Row(
        run=(split, method, seed), done=now.round / settings.rounds, figures=(rounds, mean, worst, up), line=line
    )
