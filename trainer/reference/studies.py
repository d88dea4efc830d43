"""Questions about the methods, each a set of runs and a table: quantisation, payload, channel, models, people.

A study names its runs (what differs between two of them is their label) and makes its table of the curves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from trainer.record.reach import first_reaching
from trainer.record.run import Curve, Table
from trainer.reference.settings import RunError
from trainer.reference.settle import Wish, settle
from trainer.reference.study import Job
from trainer.reference.summary import Cell, column, groups, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    about: str
    jobs: Callable[[Wish, Path], list[Job]]
    """What was typed, and a folder for programs that must be compiled -> the runs."""
    table: Callable[[Sequence[Curve]], Table]


def made(wish: Wish, cache: Path, methods: Sequence[str], label: str = "", **changes: object) -> list[Job]:
    """Runs of some methods with settings of the study; what the user typed wins."""
    asked = replace(wish, methods=tuple(methods), changes={**changes, **wish.changes})
    return [Job(settings=settings, label=label) for settings in settle(asked, cache)]


def of(curves: Sequence[Curve], split: str, name: str) -> list[Curve]:
    """The seeds of one run."""
    return [curve for curve in curves if (curve.split, curve.name) == (split, name)]


def splits_of(curves: Sequence[Curve]) -> list[str]:
    return list(dict.fromkeys(curve.split for curve in curves))


def final(curves: Sequence[Curve]) -> str:
    """Mean score after the last round, and its spread over seeds."""
    return spread([curve.points[-1].score.mean for curve in curves])


def up_a_round(curves: Sequence[Curve]) -> float:
    """Payload bytes of a device, mean over rounds and seeds."""
    last = [curve.points[-1] for curve in curves]
    return mean(point.up.payload / (point.round + 1) for point in last if point.up)


# ---------------------------------------------------------------- quantisation

CODES_STUDIED = ("float32", "float16", "log8", "log4", "log3", "linear8", "linear4", "linear2", "argmax")


def _quantisation_jobs(wish: Wish, cache: Path) -> list[Job]:
    coded = [job for code in CODES_STUDIED for job in made(wish, cache, ["fd"], code, code=code)]
    return [*coded, *made(wish, cache, ["alone"])]


def _quantisation_table(curves: Sequence[Curve]) -> Table:
    splits = splits_of(curves)
    rows: list[tuple[Cell, ...]] = []
    for name in dict.fromkeys(curve.name for curve in curves):
        bytes_ = round(up_a_round(of(curves, splits[0], name)))
        rows.append((name, bytes_, *(final(of(curves, split, name)) for split in splits)))
    return Table(
        title="FD's logits at fewer bits: accuracy after the last round",
        heads=("code", "bytes", *splits),
        rows=tuple(rows),
        notes=(
            "bytes: payload of a device and round: coded rows and a byte a label for the count. Both directions coded.",
            "What FD transfers sits in off-diagonals of 1e-3 to 1e-4: linear codes round them to 0, logarithms do not.",
        ),
    )


# ---------------------------------------------------------------- payload

TARGETS = (0.80, 0.85, 0.90, 0.93, 0.95, 0.96)


def _payload_jobs(wish: Wish, cache: Path) -> list[Job]:
    plain = made(wish, cache, ["fd", "cfd", "ds-fl", "share", "fl"], every=1)
    return [*plain, *made(wish, cache, ["fl"], "shifted", every=1, shift=2)]


def _payload_table(curves: Sequence[Curve]) -> Table:
    rows = [
        (split, name, *(_paid(of(curves, split, name), target) for target in TARGETS), final(of(curves, split, name)))
        for split, name in groups(curves)
    ]
    return Table(
        title="Bytes that a device has sent when the mean accuracy first reaches a target",
        heads=("split", "method", *(f"{target:.2f}" for target in TARGETS), "last round"),
        rows=tuple(rows),
        notes=(
            "Payload, mean over the seeds; empty where a seed never got there. Accuracy measured after every round.",
        ),
    )


def _paid(curves: Sequence[Curve], target: float) -> int | None:
    points = [first_reaching(curve, target) for curve in curves]
    return round(mean(point.up.payload for point in points if point and point.up)) if all(points) else None


# ---------------------------------------------------------------- channel


def _channel_jobs(wish: Wish, cache: Path) -> list[Job]:
    return [
        job
        for channel in ("mix2fld-asym", "mix2fld-sym")
        for job in made(
            wish,
            cache,
            ["fl", "fd", "fld", "mix2fld", "share"],
            channel.removeprefix("mix2fld-"),
            channel=channel,
            every=1,
            code="float32",
        )
    ]


BUDGETS_S = (0.25, 0.5, 1.0, 2.0, 5.0)


def _channel_table(curves: Sequence[Curve]) -> Table:
    """Against the clock: what a method has reached when so many seconds have gone by."""
    rows: list[tuple[Cell, ...]] = []
    for split, name in groups(curves):
        runs = of(curves, split, name)
        rounds = runs[0].points[-1].round + 1
        devices = len(runs[0].points[-1].devices)
        lost = mean(float(curve.figures["uploads_lost"]) for curve in runs) / (rounds * devices)
        at = [spread(_within(runs, budget)) for budget in BUDGETS_S]
        rows.append(
            (
                split,
                name,
                f"{100 * lost:.0f} %",
                f"{mean(curve.points[-1].seconds or 0 for curve in runs) / rounds:.3f}",
                *at,
                final(runs),
            )
        )
    return Table(
        title="Accuracy against the clock over a fading channel",
        heads=("split", "method", "lost", "s a round", *(f"after {budget:g} s" for budget in BUDGETS_S), "last round"),
        rows=tuple(rows),
        notes=(
            "lost: uploads that were not through after 100 slots; their device does not count in that round.",
            (
                "seconds: measured computing of the slowest device and of the server, and modelled slots ("
                "settings of ours): asym 23 dBm up, 40 dBm down; sym 40 dBm both. Logits as float32, as in the paper."
            ),
            "Computing is that of this machine; a board takes longer, and the channel weighs less.",
        ),
    )


def _within(curves: Sequence[Curve], budget_s: float) -> list[float]:
    """The last score of each seed within a time; 0 where no round had ended."""
    return [
        max([(p.round, p.score.mean) for p in curve.points if (p.seconds or 0) <= budget_s], default=(0, 0.0))[1]
        for curve in curves
    ]


# ---------------------------------------------------------------- models


KINDS = 3


def _models_jobs(wish: Wish, cache: Path) -> list[Job]:
    models = wish.models or ("mlp", "cnn", "cnn-wide")
    if len(models) != KINDS:
        raise RunError(f"the study compares {KINDS} models, such as --model mlp,cnn,cnn-wide: not {len(models)}")
    return made(replace(wish, models=models), cache, ["alone", "fd", "ds-fl", "share"])


def _models_table(curves: Sequence[Curve]) -> Table:
    """Means over the devices of each model: device i has model i modulo 3."""
    rows: list[tuple[Cell, ...]] = []
    for split, name in groups(curves):
        runs = of(curves, split, name)
        scores = [list(column_of(curve)) for curve in runs]  # seeds x D
        each = [spread([mean(seed[kind::KINDS]) for seed in scores]) for kind in range(KINDS)]
        rows.append((split, name, round(up_a_round(runs)), *each, final(runs)))
    return Table(
        title="Devices with different models in one run",
        heads=("split", "method", "bytes up", "first model", "second model", "third model", "all devices"),
        rows=tuple(rows),
        notes=("FedAvg cannot do this: parameters of different models have no mean. Logits and labels have.",),
    )


def column_of(curve: Curve) -> list[float]:
    """(D,) what the score is the mean of."""
    devices = curve.points[-1].devices
    first = next(iter(next(iter(devices.values()))))
    return [float(figures[first]) for figures in devices.values()]


# ---------------------------------------------------------------- people


def _people_jobs(wish: Wish, cache: Path) -> list[Job]:
    """One person a device; the last five persons' windows are the shared pool, without labels."""
    ours = replace(wish, devices=wish.devices or 25, batch=wish.batch or 16)
    soft = {"label_code": "log4", "buffer": 10, "gamma": 0.0, "inputs": 56}
    return [*made(ours, cache, ["alone", "fd", "fl"]), *made(ours, cache, ["share"], "soft", **soft)]


def _people_table(curves: Sequence[Curve]) -> Table:
    rows = []
    for split, name in groups(curves):
        runs = of(curves, split, name)
        whose = "server" if runs[0].method == "fl" else "devices"
        last = [curve.points[-1] for curve in runs]
        own, common = (
            spread([column(point.devices, f"{whose} {view}") for point in last]) for view in ("own", "common")
        )
        worst = min(point.score.worst for point in last)
        rows.append((name, round(up_a_round(runs)), own, f"{worst:.3f}", common))
    return Table(
        title="One person a device: on the person's own test windows, and on everybody's",
        heads=("method", "bytes up", "own (sd)", "worst person", "everybody (sd)"),
        rows=tuple(rows),
        notes=(
            "On people's own data the global model is the wrong target; on everybody's it is the right one.",
            "share: soft 4-bit labels of windows of persons outside the fleet; single persons' models vote badly.",
        ),
    )


STUDIES = {
    "quantisation": Study(
        about="FD's logits at 32 to 3 bits, linear and logarithmic",
        jobs=_quantisation_jobs,
        table=_quantisation_table,
    ),
    "payload": Study(
        about="what each method has sent when it reaches an accuracy", jobs=_payload_jobs, table=_payload_table
    ),
    "channel": Study(
        about="accuracy against the clock, uplink dear and downlink cheap", jobs=_channel_jobs, table=_channel_table
    ),
    "models": Study(about="devices with different models in one run", jobs=_models_jobs, table=_models_table),
    "people": Study(
        about="one person a device (features:DIR): own and everybody's test data",
        jobs=_people_jobs,
        table=_people_table,
    ),
}
