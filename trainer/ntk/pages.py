"""What `potstill ntk kd`, `cd` and `fd` run, and the pages they make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from trainer.data import Dataset
from trainer.ntk import experiments as ex
from trainer.ntk.experiments import Linearised, Outcome, linearise
from trainer.ntk.networks import Points, Trajectory, draw_points
from trainer.ntk.report import Page, Plot, Series

Say = Callable[[str], None]
FLIP_LAMBDAS = (0.25, 0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0, 4.0)
SHOWN = 4
"""Outputs drawn as trajectories: more cannot be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    widths: tuple[int, ...]
    weights: tuple[float, ...]
    """lambdas, or gammas."""
    seeds: int
    steps: int
    samples: int
    classes: int
    unseen: int = 20


def points_of(dataset: Dataset, setting: Setting) -> Points:
    """One draw; seeds are those of the networks. Raises ValueError."""
    return draw_points(dataset, train=setting.samples, unseen=setting.unseen, classes=setting.classes, seed=0)


def _rows(outcomes: Sequence[Outcome]) -> tuple[tuple[str, ...], ...]:
    """The mean over seeds: method, weight, K, width, errors, time."""
    keys = list(dict.fromkeys((o.method, o.weight, o.workers, o.width) for o in outcomes))
    rows = []
    for key in keys:
        same = [o for o in outcomes if (o.method, o.weight, o.workers, o.width) == key]
        method, weight, workers, width = key
        means = [sum(getattr(o, name) for o in same) / len(same) for name in ("train_error", "unseen_error", "seconds")]
        rows.append(
            (method, f"{weight:g}", str(workers), str(width), f"{means[0]:.4f}", f"{means[1]:.4f}", f"{means[2]:.2f}")
        )
    return tuple(rows)


HEADS = ("method", "weight", "K", "width", "train error", "unseen error", "seconds")


def _page(
    title: str, dataset: Dataset, setting: Setting, outcomes: Sequence[Outcome], *, plots: list[Plot], notes: list[str]
) -> Page:
    return Page(
        title=title,
        settings={"data": dataset.name, **asdict(setting)},
        heads=HEADS,
        rows=_rows(outcomes),
        notes=tuple(notes + _slopes(outcomes)),
        plots=(*plots, *_width_plot(outcomes)),
        results=tuple(outcome.plain() for outcome in outcomes),
    )


def _slopes(outcomes: Sequence[Outcome]) -> list[str]:
    if len({o.width for o in outcomes}) < 2:
        return []
    lines = []
    for which, word in (("train_error", "training"), ("unseen_error", "unseen")):
        widths, errors = zip(*ex.by_width(outcomes, which), strict=True)
        lines.append(f"Exponent of the {word} error in width: {ex.slope(widths, errors):.2f} (1/sqrt(width) is -0.50).")
    return lines


def _width_plot(outcomes: Sequence[Outcome]) -> list[Plot]:
    widths = sorted({o.width for o in outcomes})
    if len(widths) < 2:
        return []
    series = []
    for weight, workers in sorted({(o.weight, o.workers) for o in outcomes}):
        same = [o for o in outcomes if (o.weight, o.workers) == (weight, workers)]
        for which, word in (("train_error", "training"), ("unseen_error", "unseen")):
            errors = [error for _, error in ex.by_width(same, which)]
            if weight == max(o.weight for o in outcomes) or which == "train_error":
                series.append(Series(label=f"weight {weight:g}, K {workers}, {word}", x=widths, measured=errors))
    first = next(ex.by_width(outcomes, "train_error"))
    guide = [first[1] * (width / first[0]) ** -0.5 for width in widths]
    return [
        Plot(
            name="error-width",
            title="Error of the prediction against width",
            x_label="width m",
            y_label="relative error",
            series=(*series[:6], Series(label="1/sqrt(m)", x=widths, predicted=guide)),
            caption="Marks: mean over seeds. The line has the slope of 1/sqrt(m). " + " ".join(_slopes(outcomes)),
            log_x=True,
            log_y=True,
        )
    ]


def _trajectory_plot(outcome: Outcome, name: str, what: str, pick: Callable[[Trajectory], Tensor]) -> Plot:
    """pick: -> (T, outputs)."""
    measured, predicted = pick(outcome.measured), pick(outcome.predicted)
    chosen = torch.linspace(0, measured.shape[1] - 1, SHOWN).round().long().tolist()
    series = tuple(
        Series(
            label=f"output {i}",
            x=outcome.measured.steps,
            measured=measured[:, i].tolist(),
            predicted=predicted[:, i].tolist(),
        )
        for i in chosen
    )
    return Plot(
        name=name,
        title=f"{what}, width {outcome.width}, weight {outcome.weight:g}",
        x_label="gradient descent step",
        y_label="output f",
        series=series,
        caption="Marks: the trained network. Lines: the closed form with the kernel at the start.",
        log_x=True,
    )


# ---------------------------------------------------------------- KD


def kd_page(dataset: Dataset, setting: Setting, say: Say) -> Page:
    points, outcomes, nets = points_of(dataset, setting), [], {}
    for width in setting.widths:
        for seed in range(setting.seeds):
            net = linearise(points, width, seed)
            nets[width] = (net, seed)
            for lam in setting.weights:
                teacher = ex.noisy_teacher(points, seed)
                outcomes.append(ex.run_kd(points, net, teacher, lam=lam, width=width, seed=seed, steps=setting.steps))
                say(_said(outcomes[-1]))
    widest = max(setting.widths)
    net, seed = nets[widest]
    teacher = ex.noisy_teacher(points, seed)
    shown = [o for o in outcomes if o.width == widest and o.seed == seed]
    plots = [
        _trajectory_plot(shown[-1], "trajectories-train", "Training outputs", lambda t: t.train.flatten(1)),
        _trajectory_plot(shown[-1], "trajectories-unseen", "Outputs on unseen points", lambda t: t.unseen.flatten(1)),
        _mode_plot(points, net, shown[-1], teacher),
        _speed_plot(points, net, shown, teacher),
        _blend_plot(points, shown, teacher),
    ]
    narrowest = min(setting.widths)
    narrow, narrow_seed = nets[narrowest]
    flip, notes = _flip_plot(points, narrow, say, seed=narrow_seed, width=narrowest, steps=setting.steps)
    return _page("Knowledge distillation", dataset, setting, outcomes, plots=[*plots, flip], notes=notes)


def _said(o: Outcome) -> str:
    return (
        f"{o.method}, weight {o.weight:g}, K {o.workers}, width {o.width}, seed {o.seed}: "
        f"train {o.train_error:.4f}, unseen {o.unseen_error:.4f}, {o.seconds:.1f} s"
    )


def _chosen_modes(net: Linearised) -> list[int]:
    """Fast to slow."""
    size = len(net.modes.values)
    return [size - 1, size - 3, size // 2, size // 4, 0]


def _mode_plot(points: Points, net: Linearised, outcome: Outcome, teacher: Tensor) -> Plot:
    chosen = _chosen_modes(net)
    measured, predicted = ex.mode_decay(points, net, outcome, teacher, chosen)
    top = float(net.modes.values[-1])
    series = tuple(
        Series(
            label=f"lambda_i = {float(net.modes.values[i]) / top:.2g} of the largest",
            x=outcome.measured.steps,
            measured=measured[:, j].clamp(min=1e-4).tolist(),
            predicted=predicted[:, j].clamp(min=1e-4).tolist(),
        )
        for j, i in enumerate(chosen)
    )
    return Plot(
        name="modes",
        title=f"Decay of eigenmodes, lambda {outcome.weight:g}, width {outcome.width}",
        x_label="gradient descent step",
        y_label="|q_i (f - f*)|, of its start (cut at 1e-4)",
        series=series,
        caption="Each mode decays as (1 - eta (1 + lambda) lambda_i)^k; where marks level off, width is finite.",
        log_x=True,
        log_y=True,
    )


def _speed_plot(points: Points, net: Linearised, outcomes: Sequence[Outcome], teacher: Tensor) -> Plot:
    """One slow mode over eta k: its rate is (1 + lambda) lambda_i."""
    mode = _chosen_modes(net)[2]
    series = []
    for outcome in outcomes:
        measured, predicted = ex.mode_decay(points, net, outcome, teacher, [mode])
        time = [outcome.eta * step for step in outcome.measured.steps]
        series.append(
            Series(
                label=f"lambda {outcome.weight:g}",
                x=time,
                measured=measured[:, 0].tolist(),
                predicted=predicted[:, 0].tolist(),
            )
        )
    return Plot(
        name="speed",
        title="One eigenmode over time eta k: (1 + lambda) times faster",
        x_label="eta k",
        y_label="|q_i (f - f*)|, of its start",
        series=tuple(series),
        caption=f"Mode {mode} of {len(net.modes.values)}; the slope is (1 + lambda) lambda_i.",
        log_y=True,
    )


def _blend_plot(points: Points, outcomes: Sequence[Outcome], teacher: Tensor) -> Plot:
    lams = [o.weight for o in outcomes]
    reached = [
        [ex.blend_reached(points, trajectory.train[-1, 0], teacher) for trajectory in trajectories]
        for trajectories in ([o.measured for o in outcomes], [o.predicted for o in outcomes])
    ]
    return Plot(
        name="blend",
        title="Between label (0) and teacher (1)",
        x_label="lambda",
        y_label="share of the way to the teacher",
        series=(
            Series(label=f"after {outcomes[0].steps} steps", x=lams, measured=reached[0], predicted=reached[1]),
            Series(label="limit lambda / (1 + lambda)", x=lams, predicted=[lam / (1 + lam) for lam in lams]),
        ),
        caption="Projection of the training outputs on the line from the labels to the teacher's outputs.",
    )


def _flip_plot(
    points: Points, net: Linearised, say: Say, *, seed: int, width: int, steps: int
) -> tuple[Plot, list[str]]:
    wrong, measured, predicted = ex.wrong_teacher(points), [], []
    for lam in FLIP_LAMBDAS:
        outcome = ex.run_kd(points, net, wrong, lam=lam, width=width, seed=seed, steps=5 * steps)
        measured.append(ex.follows_teacher(outcome.measured.train[-1, 0], wrong))
        predicted.append(ex.follows_teacher(outcome.predicted.train[-1, 0], wrong))
    say(f"wrong one-hot teacher, lambda {FLIP_LAMBDAS}: {measured} follow it")
    series = (
        Series(label=f"after {5 * steps} steps, width {width}", x=FLIP_LAMBDAS, measured=measured, predicted=predicted),
        Series(label="limit", x=(0.25, 1, 1, 4), predicted=(0, 0, 1, 1)),
    )
    plot = Plot(
        name="flip",
        title="A wrong one-hot teacher wins above lambda = 1",
        x_label="lambda",
        y_label="share of training samples that follow the teacher",
        series=series,
        caption="In the limit the largest output is the teacher's if and only if lambda > 1.",
        log_x=True,
        line_at=1,
    )
    pairs = ", ".join(f"{lam:g}: {m:.2f}/{p:.2f}" for lam, m, p in zip(FLIP_LAMBDAS, measured, predicted, strict=True))
    return plot, [f"Share that follows a wrong teacher, measured/predicted, by lambda: {pairs}."]


# ---------------------------------------------------------------- CD


def cd_page(dataset: Dataset, setting: Setting, workers: tuple[int, ...], period: int, say: Say) -> Page:
    points, outcomes = points_of(dataset, setting), []
    for width in setting.widths:
        for seed in range(setting.seeds):
            nets = [linearise(points, width, 100 * seed + k) for k in range(max(workers))]
            for count in workers:
                for lam in setting.weights:
                    for every in (0, period) if period else (0,):
                        outcomes.append(
                            ex.run_cd(
                                points,
                                nets[:count],
                                lam=lam,
                                width=width,
                                seed=seed,
                                steps=setting.steps,
                                period=every,
                            )
                        )
                        say(_said(outcomes[-1]))
    widest = [o for o in outcomes if o.width == max(setting.widths) and o.seed == 0]
    plots = [
        _trajectory_plot(
            widest[0], "trajectories-train", "Worker 0, training outputs", lambda t: t.train[:, 0].flatten(1)
        ),
        _trajectory_plot(
            widest[0], "trajectories-unseen", "Worker 0, unseen points", lambda t: t.unseen[:, 0].flatten(1)
        ),
        *(_consensus_plot(points, widest, part) for part in ("mean", "deviation")),
        _workers_plot(points, [o for o in outcomes if o.width == max(setting.widths)]),
    ]
    return _page("Co-distillation", dataset, setting, outcomes, plots=plots, notes=[])


def _parts(points: Points, f: Tensor, part: str) -> Tensor:
    """(..., K, n, L) -> (...): root mean square of the mean's error, or of the workers' deviations from the mean."""
    mean = f.mean(-3, keepdim=True)
    return (((mean - points.labels) if part == "mean" else (f - mean)) ** 2).mean((-3, -2, -1)).sqrt()


def _consensus_plot(points: Points, outcomes: Sequence[Outcome], part: str) -> Plot:
    largest = max(o.workers for o in outcomes)
    series = tuple(
        Series(
            label=f"{o.method}, K {o.workers}, lambda {o.weight:g}",
            x=[o.eta * step for step in o.measured.steps],
            measured=_parts(points, o.measured.train, part).tolist(),
            predicted=_parts(points, o.predicted.train, part).tolist(),
        )
        for o in outcomes
        if part == "deviation" or o.workers == largest
    )[:7]
    mean = part == "mean"
    return Plot(
        name="mean-error" if mean else "consensus",
        title="Error of the workers' mean" if mean else "Consensus: how far the workers are from their mean",
        x_label="eta k",
        y_label="root mean square",
        series=series,
        caption="Live, the mean goes to the labels whatever lambda is; between exchanges frozen teachers hold it back."
        if mean
        else "Live deviations decay with (1 + lambda K / (K - 1)) Theta.",
        log_y=True,
    )


def _typical(points: Points, outcomes: Sequence[Outcome], which: str, part: str, *, workers: int, lam: float) -> float:
    """The geometric mean over seeds and, where several periods were run, over those."""
    same = [getattr(o, which).train[-1] for o in outcomes if (o.workers, o.weight) == (workers, lam)]
    return ex.geometric_mean([float(_parts(points, f, part)) for f in same])


def _workers_plot(points: Points, outcomes: Sequence[Outcome]) -> Plot:
    """Where all have trained equally long: what the mean's error and the workers' own come to as K grows."""
    live = [o for o in outcomes if o.method == "cd"]
    lam = max(o.weight for o in live)
    counts = sorted({o.workers for o in live})
    series = []
    for part, label in (("mean", "error of the mean"), ("deviation", "deviation from the mean")):
        values = [
            [_typical(points, live, which, part, workers=count, lam=lam) for count in counts]
            for which in ("measured", "predicted")
        ]
        series.append(Series(label=label, x=counts, measured=values[0], predicted=values[1]))
    return Plot(
        name="workers",
        title=f"As K grows: lambda {lam:g}, after {live[0].steps} steps",
        x_label="workers K",
        y_label="root mean square, geometric mean of seeds",
        series=tuple(series),
        caption="Independent starts: the slow part of the mean's error has variance 1/K. The labels' own part stays.",
        log_x=True,
        log_y=True,
    )


# ---------------------------------------------------------------- FD


def fd_page(dataset: Dataset, setting: Setting, devices: int, period: int, say: Say) -> Page:
    points, outcomes = points_of(dataset, setting), []
    for width in setting.widths:
        for seed in range(setting.seeds):
            net = linearise(points, width, seed)
            for gamma in setting.weights:
                outcomes.append(
                    ex.run_fd(
                        points,
                        net,
                        gamma=gamma,
                        devices=devices,
                        width=width,
                        seed=seed,
                        rounds=max(1, setting.steps // period),
                        period=period,
                    )
                )
                say(_said(outcomes[-1]))
    widest = [o for o in outcomes if o.width == max(setting.widths) and o.seed == 0]
    shares = ex.device_shares(points, devices)
    labels = torch.stack([points.labels[share] for share in shares])  # (K, n_k, L)
    plots = [
        _trajectory_plot(widest[-1], "trajectories-train", "Device 0, own samples", lambda t: t.train[:, 0].flatten(1)),
        _trajectory_plot(
            widest[-1], "trajectories-unseen", "Device 0, unseen points", lambda t: t.unseen[:, 0].flatten(1)
        ),
        _fd_plot(widest, labels),
    ]
    held = "; ".join(str(torch.bincount(points.train_label[s], minlength=points.classes).tolist()) for s in shares)
    notes = [f"Samples of each label by device: {held}."]
    return _page("Federated distillation", dataset, setting, outcomes, plots=plots, notes=notes)


def _fd_plot(outcomes: Sequence[Outcome], labels: Tensor) -> Plot:
    def error(trajectory: Trajectory) -> list[float]:
        values: list[float] = ((trajectory.train - labels) ** 2).mean((1, 2, 3)).sqrt().tolist()
        return values

    series = tuple(
        Series(
            label=f"gamma {o.weight:g}", x=o.measured.steps, measured=error(o.measured), predicted=error(o.predicted)
        )
        for o in outcomes
    )
    return Plot(
        name="labels",
        title="Per-label teachers: the labels are the only fixed point",
        x_label="step (teachers change at each mark)",
        y_label="root mean square of f - Y, all devices",
        series=series,
        caption="Each device on its own samples. A larger gamma takes smaller steps; frozen teachers hold back.",
        log_y=True,
    )
