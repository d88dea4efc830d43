"""What a method pays to reach a score: the first point at or above it, and its cumulated bytes, joules and seconds."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.record.run import Curve, Point, Record, Table


def first_reaching(curve: Curve, target: float) -> Point | None:
    """The first point whose mean score is at least `target`; None if there is none."""
    return next((point for point in curve.points if point.score.mean >= target), None)


def common_target(curves: Sequence[Curve]) -> float:
    """The best score that every curve reached, rounded down to a hundredth. Raises ValueError without points."""
    best = [max(point.score.mean for point in curve.points) for curve in curves if curve.points]
    if not best:
        raise ValueError("no curve has a point: nothing has been reached")
    return int(min(best) * 100 + 1e-9) / 100


def total_bytes(point: Point) -> float | None:
    """Both directions, a device, over the layers that are known; None where no byte was counted."""
    known = [layers.known for layers in (point.up, point.down) if layers is not None]
    return sum(known) if known else None


def total_joules(point: Point) -> float | None:
    return None if point.joules is None else point.joules.known


def reach_table(record: Record, split: str, target: float | None = None) -> Table:
    """A row a curve of one split: what it had spent, a device, when its mean score first reached the target.

    Without a target: the best that all of them reached.
    """
    curves = [curve for curve in record.curves if curve.split == split and curve.points]
    target = common_target(curves) if target is None else target
    return Table(
        title=f"To {record.score} {target:g}, {split}: rounds, and by a device bytes, joules and seconds",
        heads=("method", "seed", "rounds", "bytes", "joules", "seconds", f"best {record.score}"),
        rows=tuple(_row(curve, target) for curve in curves),
        notes=("An empty cell: not reached, or not known.",),
    )


def _row(curve: Curve, target: float) -> tuple[str | float | int | None, ...]:
    best = max(point.score.mean for point in curve.points)
    point = first_reaching(curve, target)
    if point is None:
        return (curve.name, curve.seed, None, None, None, None, best)
    return (curve.name, curve.seed, point.round + 1, total_bytes(point), total_joules(point), point.seconds, best)
