"""`potstill trainer run`: options, and one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from trainer.channel import POWERS_DBM
from trainer.data import DataError, load_dataset
from trainer.partition import SplitError
from trainer.progress import choose
from trainer.record.folder import FolderError, make_folder, run_folder
from trainer.record.run import Curve, Table, now, write_record
from trainer.reference.engines import ENGINES, engine
from trainer.reference.progress import HEADS
from trainer.reference.quantise import CODES
from trainer.reference.settings import RUNTIMES, WEIGHTS, RunError
from trainer.reference.settle import Wish, settle
from trainer.reference.study import Job, record_of, run_jobs
from trainer.reference.summary import markdown, summary, text
from trainer.report.cli import drawn

_F = TypeVar("_F", bound=Callable[..., Any])


def listed(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return () if value is None else tuple(item.strip() for item in value.split(",") if item.strip())


def common_options(command: _F) -> _F:
    """Of every command that runs methods: what on, how many, where."""
    for option in reversed(
        (
            click.option(
                "--data", default="digits", show_default=True, help="digits, mnist:DIR, npz:DIR or features:DIR."
            ),
            click.option("--devices", type=click.IntRange(1, 65535), help="[default: 10, or all that the data has]"),
            click.option("--samples", type=click.IntRange(1), help="Training samples a device.  [default: 60 or 500]"),
            click.option(
                "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many: 0, 1, ..."
            ),
            click.option("--rounds", type=click.IntRange(1), help="[default: suits the data]"),
            click.option(
                "--engine",
                "engine_name",
                type=click.Choice(ENGINES),
                default="local",
                show_default=True,
                help="A process a core, or a Ray cluster.",
            ),
            click.option("--workers", type=click.IntRange(1, 4096), help="Processes.  [default: one a core]"),
            click.option("--address", help="Of the Ray cluster.  [default: a node of its own]"),
            click.option(
                "--out",
                type=click.Path(file_okay=False, path_type=Path),
                help="Run folder; one of an interrupted run goes on.  [default: runs/TIME]",
            ),
        )
    ):
        command = option(command)
    return command


@click.command("run")
@click.argument("methods", nargs=-1, required=True, metavar="METHOD...")
@common_options
@click.option("--split", "splits", callback=listed, help="With commas: iid, fd, mix2fld, dirichlet:A, natural.")
@click.option("--model", "models", callback=listed, help="With commas: device i takes number i, round and round.")
@click.option("--program", "programs", callback=listed, help="Compiled programs, instead of --model.")
@click.option("--steps", type=click.IntRange(1), help="K local steps a round.  [default: suits the data]")
@click.option("--lr", type=float, help="Learning rate.  [default: suits the data]")
@click.option("--gamma", type=float, help="Weight of fd's teacher.  [default: 1]")
@click.option("--normalise/--no-normalise", default=None, help="Divide fd's target by 1 + gamma.  [default: for HAR]")
@click.option("--bits", type=click.Choice(["32", "16", "8", "4", "3"]), help="Of a logit.  [default: 4]")
@click.option("--code", type=click.Choice(CODES), help="Of logits, by name; instead of --bits.")
@click.option("--shift", type=click.IntRange(0, 8), help="Shift images by up to so many pixels.  [share: 2, else 0]")
@click.option("--inputs", type=click.IntRange(1), help="S: shared inputs a round.  [default: 900; cfd: 1000]")
@click.option("--label-code", type=click.Choice(CODES), help="Of their labels.  [default: argmax; ds-fl: float32]")
@click.option("--warm-up", type=click.IntRange(0), help="share: rounds without labels.  [default: 5]")
@click.option("--buffer", type=click.IntRange(1), help="share: labelled rounds that are kept.  [default: 3]")
@click.option("--weights", type=click.Choice(WEIGHTS), help="share: of a device's vote.  [default: sqrt of its count]")
@click.option("--temperature", type=float, help="ds-fl: of the entropy reduction.  [default: 0.1]")
@click.option(
    "--given", "seeds_given", type=click.IntRange(1), help="fld family: seeds that a device gives.  [default: 50]"
)
@click.option("--lam", type=float, help="mixfld, mix2fld: lambda.  [default: 0.1]")
@click.option("--beta", type=float, help="fld family: weight of the mean logits.  [default: 1]")
@click.option("--server-steps", type=click.IntRange(1), help="fld family, cfd: steps of the server.  [default: 32]")
@click.option("--channel", type=click.Choice(sorted(POWERS_DBM)), help="Wireless, modelled.  [default: none]")
@click.option("--batch", type=click.IntRange(1, 4096), help="B; compiles a program.  [default: the shipped one's, 32]")
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), help="Of the steps; eager is torch's autograd.  [default: onnx]"
)
@click.option("--initial", type=click.Choice(["seed", "program"]), help="Initial parameters.  [default: seed]")
@click.option("--every", type=click.IntRange(1), help="Rounds between two measurements.  [default: 5]")
def run(methods: tuple[str, ...], **options: Any) -> None:
    """Train a fleet by METHOD without a network, fast: the reference of the methods.

    METHOD is one or more of alone, fl, fd, fld, mixfld, mix2fld, ds-fl, cfd, share. A run is determined by its seed,
    whatever the engine; results go to run.json. Interrupted, the same command with --out goes on where it stopped.

    \b
    Examples:
      potstill trainer run alone fl fd
      potstill trainer run share --data mnist:DIR --split iid,fd,mix2fld --seeds 3
    """  # noqa: D301 - click's mark must be the character itself
    try:
        _run(methods, options)
    except (RunError, FolderError, DataError, SplitError) as problem:
        raise click.ClickException(str(problem)) from problem
    except KeyboardInterrupt:
        click.echo("Stopped. The same command with --out FOLDER goes on where it stood.", err=True)
        raise SystemExit(130) from None


_WISHES = ("data", "splits", "devices", "samples", "models", "programs", "batch")
_PLACES = ("engine_name", "workers", "address", "out", "seeds", "rounds")


def _run(methods: tuple[str, ...], options: dict[str, Any]) -> None:
    folder = run_folder(options["out"], again=True)
    wish = Wish(
        methods=methods,
        seeds=tuple(range(options["seeds"])),
        changes=changes(options),
        **{name: options[name] for name in _WISHES},
    )
    jobs = [Job(settings=settings) for settings in settle(wish, folder / "programs")]
    run_and_write(jobs, wish.data, folder, options, tables=lambda curves: [summary(curves)])


def run_and_write(
    jobs: Sequence[Job],
    data: str,
    folder: Path,
    options: dict[str, Any],
    *,
    tables: Callable[[Sequence[Curve]], Sequence[Table]],
) -> None:
    """Run all jobs where the options say, print the tables, leave run.json, tables.md and the page (matplotlib)."""
    started = now()
    make_folder(folder)
    click.echo(f"{len(jobs)} runs of {jobs[0].settings.rounds} rounds; all that happens is kept in {folder}")
    with (
        engine(options["engine_name"], options["workers"], options["address"]) as where,
        choose(HEADS) as progress,
    ):
        curves = run_jobs(jobs, where, folder / "state", progress)
    found = tables(curves)
    (folder / "tables.md").write_text("\n".join(f"**{table.title}**\n\n{markdown(table)}" for table in found))
    record = record_of(jobs, curves, load_dataset(data), started=started, settings={"data": data}, tables=found)
    write_record(record, folder / "run.json")
    for table in found:
        click.echo(f"\n{text(table)}")
    click.echo(f"Run folder: {folder} ({', '.join(('run.json', 'tables.md', *drawn(record, folder)))})")


def changes(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Settings` that were typed."""
    typed = {
        name: value
        for name, value in options.items()
        if value is not None and name not in {*_WISHES, *_PLACES, "bits", "seeds_given", "code"}
    }
    if options["rounds"] is not None:
        typed["rounds"] = options["rounds"]
    if options["code"] is not None:
        typed["code"] = options["code"]
    elif options["bits"] is not None:
        typed["code"] = {"32": "float32", "16": "float16"}.get(options["bits"], f"log{options['bits']}")
    if options["seeds_given"] is not None:
        typed["seeds"] = options["seeds_given"]
    return typed
