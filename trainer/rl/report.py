"""What a study found, as a run record and as text: episodes to solve, returns, bytes, the published claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from edge.wire.messages import Method
from edge.wire.tasks import SOLVED_EPISODES
from trainer.record.run import Curve, Device, Layers, Point, Record, Spread, Table, environment, now
from trainer.rl.newcomer import Newcomer, teach
from trainer.rl.study import Figures, Group, Progress, Study, figures, run

Result = tuple[Study, list[Group]]


def label(study: Study) -> str:
    """What tells a study from others of its method."""
    if study.method not in {Method.FRD, Method.MIXFRD}:
        return ""
    options = study.learning.options
    return f"{'average' if options.average else 'current'}{' with values' if options.values else ''}"


def name(study: Study) -> str:
    return f"{study.method.name.lower()} {label(study)}".strip()


def follow(study: Study, tell: Callable[[str], None]) -> list[Group]:
    """The study's groups, with a line when it is done."""
    rounds = [0]

    def note(progress: Progress) -> None:
        rounds[0] = progress.round

    groups = run(study, note)
    found = figures(groups, study.cap)
    tell(
        f"{name(study):24} {found.solved} of {found.agents} agents solved it, {found.mean:.0f} episodes "
        f"({found.deviation:.0f}), slowest of a fleet {found.slowest:.0f}; {rounds[0]} rounds"
    )
    return groups


def newcomers(study: Study, tell: Callable[[str], None]) -> tuple[Newcomer, ...]:
    found = teach(study)
    for one in found:
        tell(f"newcomer {one.what:28} {one.payload:7,.0f} bytes  median return {one.median:.0f}")
    return tuple(found)


# ---------------------------------------------------------------- the record


def record_of(results: Sequence[Result], taught: Sequence[Newcomer], *, started: str) -> Record:
    first = results[0][0]
    tables = [summary(results), claims(results)]
    if taught:
        tables.insert(1, newcomer_table(taught))
    return Record(
        kind="rl",
        settings={
            "task": first.task.name,
            "agents": first.agents,
            "seeds": len(first.seeds),
            "episodes": first.episodes,
            "cap": first.cap,
            "lr": first.learning.lr,
            "clip": first.learning.clip,
            "bits": first.bits,
            "hidden": [list(layers) for layers in first.hidden],
            "options": asdict(first.learning.options),
            "point": f"an exchange every {first.episodes} episodes",
        },
        provenance={
            "score": f"measured: mean return of an agent's last {SOLVED_EPISODES} episodes",
            "bytes": "measured: length of the frames a device would send and hear (edge.wire); payload alone",
        },
        started=started,
        ended=now(),
        complete=True,
        score="return",
        environment=environment(),
        curves=tuple(_curve(study, group) for study, groups in results for group in groups),
        tables=tuple(tables),
    )


def _curve(study: Study, group: Group) -> Curve:
    rounds = max(-(-len(returns) // study.episodes) for returns in group.returns)
    points, up, down = [], 0.0, 0.0
    for round_ in range(rounds):
        scores = [_last(returns, (round_ + 1) * study.episodes) for returns in group.returns]
        if round_ < len(group.exchanges):
            up += float(np.mean(group.exchanges[round_].up))
            down += group.exchanges[round_].down
        points.append(
            Point(
                round=round_,
                score=Spread.of(scores),
                up=Layers(payload=up),
                down=Layers(payload=down),
            )
        )
    return Curve(
        method=study.method.name.lower(),
        split=study.task.name,
        seed=group.seed,
        label=label(study),
        points=tuple(points),
        complete=None not in group.solved,
        reason="every agent solved it" if None not in group.solved else f"{study.cap} episodes",
        devices=tuple(
            Device(name=agent, score=_last(returns, len(returns)), figures={"episodes to solve": solved})
            for agent, returns, solved in zip(group.names, group.returns, group.solved, strict=True)
        ),
    )


def _last(returns: Sequence[float], end: int) -> float:
    end = min(end, len(returns))
    return float(np.mean(returns[max(0, end - SOLVED_EPISODES) : end]))


# ---------------------------------------------------------------- tables


def summary(results: Sequence[Result]) -> Table:
    first = results[0][0]
    return Table(
        title=f"{first.task.name}: episodes to solve, {len(first.seeds)} fleets of {first.agents} agents",
        heads=("method", "solved", "episodes", "sd", "slowest", "sd", "B up", "B down", "B to solve"),
        rows=tuple(_row(name(study), figures(groups, study.cap)) for study, groups in results),
        notes=(
            f"Solved: the mean of {SOLVED_EPISODES} consecutive episodes above {first.task.solved:g}.",
            f"An agent that has not solved it within {first.cap} episodes counts as {first.cap}.",
            "Slowest: mean over the fleets of the last agent.",
            "Bytes: payload an exchange, an agent; to solve: up and down, an agent, until its fleet had solved.",
        ),
    )


def _row(what: str, found: Figures) -> tuple[str | float | int | None, ...]:
    episodes = (round(found.mean), round(found.deviation), round(found.slowest), round(found.slowest_deviation))
    payload = (round(found.up), round(found.down), round(found.to_solve))
    return (what, f"{found.solved}/{found.agents}", *episodes, *payload)


def newcomer_table(taught: Sequence[Newcomer]) -> Table:
    return Table(
        title="Newcomer: a fresh network taught by a fleet's memory alone, without playing",
        heads=("memory", "entries", "bytes", "median return", "worst", "best"),
        rows=tuple(
            (one.what, round(one.entries), round(one.payload), round(one.median), round(one.worst), round(one.best))
            for one in taught
        ),
        notes=("Entries and bytes: mean over the fleets. Return: of the greedy policy, 20 episodes a fleet.",),
    )


def claims(results: Sequence[Result]) -> Table:
    """What the abstracts say of MixFRD, and the figures of this run that speak to it."""
    found = [(name(study), figures(groups, study.cap)) for study, groups in results]
    spread = ", ".join(f"{what} {one.deviation:.0f}" for what, one in found)
    spent = ", ".join(f"{what} {one.to_solve:,.0f}" for what, one in found if one.up)
    against = "against FRD, FRL and PD (published: abstract of arXiv 2005.06105)"
    return Table(
        title="Published claims, and what was found here",
        heads=("claim", "here"),
        rows=(
            (f"MixFRD lessens the variance of the time to complete the mission {against}", f"sd of episodes: {spread}"),
            (f"MixFRD lessens the cost of communication {against}", f"bytes to solve: {spent}"),
        ),
        notes=("Not the papers' settings, which they print in part; docs/rl.md says which are ours.",),
    )


def text(table: Table) -> str:
    """For a terminal."""
    rows = [table.heads, *(tuple("" if cell is None else str(cell) for cell in row) for row in table.rows)]
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(table.heads))]
    lines = ["  ".join(str(cell).ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.title, *lines, ""])
