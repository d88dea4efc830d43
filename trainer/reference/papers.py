"""The papers' comparisons: published figures beside ours, and what differs. Nothing published is computed here.

Marks as in the papers' own text: printed there, or (ours) a setting that could not be read and is chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer.data import load_dataset
from trainer.record.reach import first_reaching
from trainer.record.run import Curve, Table
from trainer.reference.methods.fld import inverse_mixup, sample_privacy, seeds_of
from trainer.reference.settle import Wish
from trainer.reference.site import FloatArray
from trainer.reference.studies import Study, final, made, of, up_a_round
from trainer.reference.study import Job
from trainer.reference.summary import Cell, groups
from trainer.reference.work import site_of

# ---------------------------------------------------------------- FD, arXiv 1811.11479, Table 1

FD_DEVICES = (2, 4, 6, 8, 10)
FD_PUBLISHED = {
    "fd": (0.7230, 0.7304, 0.6951, 0.6839, 0.7524),
    "fl": (0.8077, 0.8684, 0.8738, 0.8878, 0.9060),
}
"""Non-IID, without augmentation, by number of devices."""
FD_BITS = {"fd": 102_400, "fl": 1_228_439_552}
"""Payload of 16 rounds, both directions of one device: 3,200 and 38,388,736 values of 32 bits."""
FD_ROUNDS = 16


def _fd_jobs(wish: Wish, cache: Path) -> list[Job]:
    jobs = []
    for devices in [wish.devices] if wish.devices else FD_DEVICES:
        asked = replace(wish, devices=devices, splits=wish.splits or ("fd",))
        jobs += made(
            asked, cache, ["alone", "fd", "fl"], f"D={devices}", rounds=FD_ROUNDS, code="float32", every=FD_ROUNDS
        )
    return jobs


def _fd_table(curves: Sequence[Curve]) -> Table:
    split = curves[0].split
    labels = list(dict.fromkeys(curve.label for curve in curves))
    rows: list[tuple[Cell, ...]] = []
    for method in ("fd", "fl"):
        by_devices = dict(zip((f"D={devices}" for devices in FD_DEVICES), FD_PUBLISHED[method], strict=True))
        published = [f"{by_devices[label]:.3f}" if label in by_devices else None for label in labels]
        rows.append((f"{method} published", *published, FD_BITS[method]))
    for method in ("alone", "fd", "fl"):
        runs = [of(curves, split, f"{method} {label}") for label in labels]
        rows.append((f"{method} ours", *(final(run) for run in runs), _bits(runs[-1])))
    return Table(
        title=f"Federated distillation, arXiv 1811.11479, Table 1 (split {split})",
        heads=("", *labels, "bits, both ways"),
        rows=tuple(rows),
        notes=(
            (
                "Published: MNIST, CNN of 1,199,648 weights, 2,000 samples a device, 3 labels cut to 5 each, batch "
                "64, K = 250, at most 16 rounds; accuracy of one reference device. Step size and gamma are not printed."
            ),
            (
                "Ours: mean over devices and seeds (sd over seeds) after 16 rounds; fl is the averaged model. Without "
                "options: the 12,544-parameter CNN, 500 of the 5,000 t10k images that we deal, batch 32, K = 32. "
                "With the full MNIST and hours: --model cnn-fd2018 --batch 64 --steps 250 --samples 2000."
            ),
            "bits: payload of one device over all rounds; ours counts a byte a label for its samples as well.",
        ),
    )


def _bits(runs: Sequence[Curve]) -> int:
    last = runs[0].points[-1]
    assert last.up is not None
    assert last.down is not None
    return round(8 * (last.up.payload + last.down.payload))


# ---------------------------------------------------------------- Mix2FLD, arXiv 2006.09801

MIX_SEEDS = (10, 50)


def _mix_jobs(wish: Wish, cache: Path) -> list[Job]:
    asked = replace(wish, splits=wish.splits or ("iid", "mix2fld"))
    jobs = []
    for channel in ("mix2fld-asym", "mix2fld-sym"):
        short = channel.removeprefix("mix2fld-")
        over = {"channel": channel, "code": "float32", "every": 1}
        jobs += made(asked, cache, ["fl", "fd"], short, **over)
        for seeds in MIX_SEEDS:
            jobs += made(asked, cache, ["fld", "mixfld", "mix2fld"], f"N={seeds} {short}", seeds=seeds, **over)
    return jobs


def _mix_table(curves: Sequence[Curve]) -> Table:
    """Ours beside FL on the same split and channel: the abstract's claims are ratios to FL."""
    rows: list[tuple[Cell, ...]] = []
    for split, name in groups(curves):
        runs = of(curves, split, name)
        fl = of(curves, split, f"fl {runs[0].label.rsplit(' ', 1)[-1]}")
        gain = _best(runs) / _best(fl) - 1
        rows.append(
            (
                split,
                name,
                final(runs),
                f"{100 * gain:+.1f} %",
                _seconds(runs),
                _faster(runs, fl),
            )
        )
    return Table(
        title="Mix2FLD, arXiv 2006.09801: over a fading channel, asymmetric and symmetric",
        heads=("split", "method", "last round", "against fl", "s to converge", "time against fl"),
        rows=tuple(rows),
        notes=(
            (
                "Published (abstract): Mix2FLD has up to 16.7 % more accuracy and 18.8 % less convergence time than "
                "FL under asymmetric channels. Its settings could not be read: those here are ours."
            ),
            (
                "against fl: best accuracy, relative. s to converge: until 95 % of the run's best, measured computing "
                "and modelled slots. fl and the fld family are judged by the server's model."
            ),
        ),
    )


def _best(runs: Sequence[Curve]) -> float:
    return sum(max(point.score.mean for point in run.points) for run in runs) / len(runs)


def _converged(run: Curve) -> float:
    best = max(point.score.mean for point in run.points)
    point = first_reaching(run, 0.95 * best)
    assert point is not None
    return point.seconds or 0.0


def _seconds(runs: Sequence[Curve]) -> str:
    return f"{sum(map(_converged, runs)) / len(runs):.2f}"


def _faster(runs: Sequence[Curve], fl: Sequence[Curve]) -> str:
    ours, theirs = (sum(map(_converged, each)) / len(each) for each in (runs, fl))
    return f"{100 * (ours / theirs - 1):+.0f} %"


def privacy_table(wish: Wish, cache: Path) -> Table:
    """Log distance of the nearest raw sample, of seeds as they are sent and as they are taken apart."""
    rows: list[tuple[Cell, ...]] = []
    for lam in (0.01, 0.1, 0.2, 0.4):
        (job, *_) = made(replace(wish, splits=("iid",), seeds=(0,)), cache, ["mix2fld"], lam=lam, seeds=10)
        sites = [site_of(job.settings, number, 0) for number in range(job.settings.devices)]
        parts = [seeds_of(site)[0] for site in sites]
        raw = [site.train for site in sites]
        mixed = [sample_privacy(part["x"], samples, sites[0].scale) for part, samples in zip(parts, raw, strict=True)]
        whole = {key: [value for part in parts for value in part[key]] for key in parts[0]}
        inverse = inverse_of(whole, lam)
        apart = [sample_privacy(inverse, samples, sites[0].scale) for samples in raw] if len(inverse) else []
        rows.append(
            (
                lam,
                round(sum(mixed) / len(mixed), 2),
                round(min(apart), 2) if apart else None,
                len(inverse),
            )
        )
    return Table(
        title="Sample privacy: log distance to the nearest raw sample (higher is more private)",
        heads=("lambda", "mixed seeds", "taken apart", "samples"),
        rows=tuple(rows),
        notes=(
            "mixed seeds: to the device's own samples, mean. taken apart: to the samples of the closest device, mean.",
        ),
    )


def inverse_of(whole: dict[str, list[object]], lam: float) -> FloatArray:
    arrays = {key: np.array(value) for key, value in whole.items()}
    return inverse_mixup(arrays["x"], arrays["first"], arrays["second"], arrays["owner"], lam)[0]


# ---------------------------------------------------------------- share, ours

SHARE_METHODS = ("fd", "cfd", "ds-fl", "share", "fl")


def _share_jobs(wish: Wish, cache: Path) -> list[Job]:
    asked = replace(wish, splits=wish.splits or ("iid", "fd", "mix2fld"))
    shifted = {"shift": 2} if len(load_dataset(wish.data).input_shape) == 3 else {}
    return [*made(asked, cache, SHARE_METHODS), *made(asked, cache, ["alone", "fd", "fl"], "shifted", **shifted)]


def _share_table(curves: Sequence[Curve]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for split, name in groups(curves):
        runs = of(curves, split, name)
        fl = up_a_round(of(curves, split, "fl"))
        worst = min(run.points[-1].score.worst for run in runs)
        up = up_a_round(runs)
        rows.append((split, name, round(up), f"{fl / up:,.0f}" if up else None, final(runs), f"{worst:.3f}"))
    return Table(
        title="share beside the published ways to label shared inputs",
        heads=("split", "method", "bytes up", "fl / it", "last round", "worst device"),
        rows=tuple(rows),
        notes=(
            (
                "Published: CFD (arXiv 2012.00632), CIFAR-10, VGG-16, to 80 %: 0.47 MB up against 32.00 (soft labels), "
                "671.16 (FedAvg), the strongest published ratio: 1,428. Another task: the ratio grows with the model."
            ),
            (
                "bytes up: payload of a device and round, mean over rounds. `shifted`: images moved by up to 2 pixels, "
                "as share moves them."
            ),
            "share takes half of each batch from shared inputs: twice the steps, as many local samples.",
        ),
    )


PAPERS = {
    "fd-2018": Study(about="FD against FL, arXiv 1811.11479, Table 1", jobs=_fd_jobs, table=_fd_table),
    "mix2fld": Study(about="FL, FD, FLD, Mix2FLD over a channel, arXiv 2006.09801", jobs=_mix_jobs, table=_mix_table),
    "share": Study(about="share beside CFD, DS-FL, FD and FedAvg", jobs=_share_jobs, table=_share_table),
}
