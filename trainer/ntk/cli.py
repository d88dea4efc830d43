"""`potstill ntk`: what theory says of distillation, beside what networks do. Torch is imported where it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.data import DataError, Dataset, load_dataset

if TYPE_CHECKING:
    from edge.wire.manifest import Manifest
    from trainer.ntk.exact import Claim
    from trainer.ntk.pages import Setting
    from trainer.ntk.report import Page

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ntk() -> None:
    """The kernel checks: distillation against neural tangent kernel theory."""


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(item) for item in value.split(","))
    except ValueError as problem:
        raise click.BadParameter("numbers with commas between them, such as 0.5,1,2") from problem
    if min(numbers) < 0:
        raise click.BadParameter("none may be negative")
    return numbers


def _counts(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
    items = [item.strip() for item in value.split(",")]
    if not all(item.isdigit() and int(item) > 0 for item in items):
        raise click.BadParameter("positive whole numbers with commas between them, such as 256,1024")
    return tuple(int(item) for item in items)


def _data(_ctx: click.Context, _param: click.Parameter, value: str) -> Dataset:
    try:
        return load_dataset(value)
    except DataError as problem:
        raise click.BadParameter(str(problem)) from problem


data_option = click.option(
    "--data",
    "dataset",
    default="digits",
    show_default=True,
    callback=_data,
    help="digits, or mnist:DIR (docs/data.md).",
)


@ntk.command()
@data_option
@click.option("--all", "every", is_flag=True, help="Print every claim, not only the failed ones and the trained ones.")
def check(dataset: Dataset, *, every: bool) -> None:
    """Print pass or fail for each claim, with what was measured, predicted and allowed; exit 1 if any failed.

    Example: potstill ntk check --data mnist:data/mnist
    """
    _need_torch()
    from trainer.ntk.check import all_claims

    failed = print_claims(all_claims(dataset), every=every)
    click.echo(f"on {dataset.name}: {'every claim holds' if not failed else f'{failed} failed'}")
    if failed:
        raise SystemExit(1)


def print_claims(claims: Iterable[Claim], *, every: bool) -> int:
    """As they come; the exact ones in one line unless `every`. -> how many failed."""
    from trainer.ntk.exact import EXACT

    made: list[Claim] = []
    for claim in claims:
        made.append(claim)
        if every or not claim.passed or claim.tolerance != EXACT:
            click.echo(line(claim))
    exact = [claim.measured for claim in made if claim.tolerance == EXACT]
    click.echo(f"{len(exact)} exact claims: largest difference {max(exact, default=0):.1e}, allowed {EXACT:.0e}")
    failed = sum(not claim.passed for claim in made)
    click.echo(f"{len(made) - failed} of {len(made)} claims hold")
    return failed


def line(claim: Claim) -> str:
    """Pass or fail, the claim, measured, predicted, tolerance."""
    allowed = f"at least {claim.tolerance:g}" if claim.at_least else f"within {claim.tolerance:g}"
    verdict = "pass" if claim.passed else "FAIL"
    return f"{verdict}  {claim.text:<82}  measured {claim.measured:<9.3g} predicted {claim.predicted:<6.3g} {allowed}"


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise click.ClickException("the kernels need torch: pip install 'potstill[trainer]'")


# ---------------------------------------------------------------- experiments


def _experiment(weight: str) -> Callable[[F], F]:
    """The options that all three share."""
    options = [
        data_option,
        click.option(weight, "weights", default="0.5,1,2,4", show_default=True, callback=_numbers, help="With commas."),
        click.option(
            "--width", "widths", default="256,1024", show_default=True, callback=_counts, help="m, with commas."
        ),
        click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Initialisations averaged."),
        click.option("--steps", default=200, show_default=True, type=click.IntRange(2), help="Of gradient descent."),
        click.option("--samples", default=32, show_default=True, type=click.IntRange(4), help="n, over all devices."),
        click.option("--classes", type=click.IntRange(2, 10), help="[default: 2; fd 3]"),
        click.option(
            "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: runs/ntk-TIME]"
        ),
    ]

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@ntk.command()
@_experiment("--lambda")
def kd(dataset: Dataset, out: Path | None, **options: Any) -> None:
    """Train networks by distillation from a fixed teacher, beside what their kernel predicts.

    Writes report.html, figures and run.json. Example: potstill ntk kd --lambda 0.5,1,2,4 --width 256,1024,4096
    """
    _need_torch()
    from trainer.ntk.pages import kd_page

    _finish(lambda: kd_page(dataset, _setting(options, 2), click.echo), out)


@ntk.command()
@_experiment("--lambda")
@click.option("--workers", default="2,4,8", show_default=True, callback=_counts, help="K, with commas.")
@click.option(
    "--period", default=0, show_default=True, type=click.IntRange(0), help="Also exchange every so many steps; 0: live."
)
def cd(dataset: Dataset, out: Path | None, workers: tuple[int, ...], period: int, **options: Any) -> None:
    """Train workers that teach each other on the same data, beside what their kernel predicts.

    Writes report.html, figures and run.json. Example: potstill ntk cd --workers 2,4,8 --lambda 1 --period 20
    """
    _need_torch()
    if min(workers) < 2:
        raise click.BadParameter("co-distillation takes at least 2 workers", param_hint="--workers")
    from trainer.ntk.pages import cd_page

    _finish(lambda: cd_page(dataset, _setting(options, 2), workers, period, click.echo), out)


@ntk.command()
@_experiment("--gamma")
@click.option("--devices", default=3, show_default=True, type=click.IntRange(2, 10), help="K, one class or more each.")
@click.option("--period", default=20, show_default=True, type=click.IntRange(1), help="Steps of a round.")
def fd(dataset: Dataset, out: Path | None, devices: int, period: int, **options: Any) -> None:
    """Train devices on their own data with per-label teachers, beside what their kernels predict.

    Writes report.html, figures and run.json. Example: potstill ntk fd --gamma 0,1,4 --devices 3
    """
    _need_torch()
    from trainer.ntk.pages import fd_page

    setting = _setting(options, 3)
    if setting.classes < devices:
        raise click.BadParameter(f"{devices} devices need as many --classes", param_hint="--devices")
    _finish(lambda: fd_page(dataset, setting, devices, period, click.echo), out)


def _setting(options: dict[str, Any], classes: int) -> Setting:
    from trainer.ntk.pages import Setting

    return Setting(**options | {"classes": options["classes"] or classes})


def _finish(make: Callable[[], Page], out: Path | None) -> None:
    from trainer.ntk.report import write
    from trainer.record.folder import FolderError, make_folder, run_folder
    from trainer.report.page import text_table

    if find_spec("matplotlib") is None:
        raise click.ClickException("the figures need matplotlib: pip install 'potstill[trainer]'")
    try:
        folder = run_folder(out, prefix="ntk-")
        make_folder(folder)
        page = make()
    except (FolderError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem
    write(page, folder)
    click.echo(
        "\n".join(
            ["", text_table(page.heads, page.rows), *page.notes, f"Report: {folder / 'report.html'} (and run.json)"]
        )
    )


# ---------------------------------------------------------------- what ships


@ntk.command()
@click.argument("program", type=click.Path(exists=True, path_type=Path))
@data_option
@click.option("--samples", default=64, show_default=True, type=click.IntRange(2), help="n that the kernel is taken of.")
@click.option("--lr", default=0.1, show_default=True, type=click.FloatRange(0, min_open=True), help="As in the run.")
@click.option("--steps", default=16, show_default=True, type=click.IntRange(1), help="Local steps a round.")
@click.option("--rounds", default=25, show_default=True, type=click.IntRange(1), help="To train and follow here.")
@click.option("--gamma", "gammas", default="0,1,4", show_default=True, callback=_numbers, help="With commas.")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A state of a run as a flat .npy; its kernel's drift is printed. May be repeated.",
)
@click.option(
    "--run",
    "record",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A demo's run.json: what the fleet did, beside the prediction.",
)
def program(
    program: Path, dataset: Dataset, checkpoints: tuple[Path, ...], record: Path | None, **options: Any
) -> None:
    """Take the empirical kernel of a compiled PROGRAM: spectrum, predicted FD rounds, how lazy it is.

    Devices keep only their newest state, so there are no checkpoints of past rounds unless you copied them: the
    drift is measured by training the program here, on these samples, as one device.

    Example: potstill ntk program trainer/programs/cnn-8x8 --data digits
    """
    _need_torch()
    import numpy as np
    import torch

    from edge.runtime.program import ProgramRefused, load_program
    from trainer.ntk.program import drift_of, fleet_lines, report
    from trainer.record.run import RecordError, read_record

    try:
        loaded, count = load_program(program), options.pop("samples")
        pool = dataset.pool.take(np.random.default_rng(0).permutation(len(dataset.pool))[:count])
        _fits(loaded.manifest, dataset)
        x = pool.x.astype(np.float32) * np.float32(dataset.scale)
        for text in report(loaded, x, torch.from_numpy(pool.y.astype(np.int64)), **options):
            click.echo(text)
        for path in checkpoints:
            drift, alignment = drift_of(loaded, x, np.load(path, allow_pickle=False))
            click.echo(f"{path}: kernel drift {drift:.3f}, alignment {alignment:.3f}")
        for text in fleet_lines(read_record(record)) if record else ():
            click.echo(text)
    except (ProgramRefused, RecordError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem


def _fits(manifest: Manifest, dataset: Dataset) -> None:
    if manifest.input_shape != dataset.input_shape or len(manifest.labels) != dataset.label_count:
        raise ValueError(
            f"the program takes {manifest.input_shape} and {len(manifest.labels)} labels, "
            f"{dataset.name} is {dataset.input_shape} and {dataset.label_count}: give --data that fits"
        )
