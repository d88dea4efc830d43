"""`potstill trainer study` and `potstill trainer table`: options, and one call."""

from __future__ import annotations

from typing import Any

import click

from trainer.data import DataError
from trainer.partition import SplitError
from trainer.record.folder import FolderError, run_folder
from trainer.record.run import Table
from trainer.reference.cli import common_options, listed, run_and_write
from trainer.reference.papers import PAPERS, privacy_table
from trainer.reference.settings import RunError
from trainer.reference.settle import Wish
from trainer.reference.studies import STUDIES, Study

_TYPED = ("rounds", "steps", "lr", "every")


def _more_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--split", "splits", callback=listed, help="With commas.  [default: suits the table]"),
            click.option("--model", "models", callback=listed, help="[default: suits the data]"),
            click.option("--batch", type=click.IntRange(1, 4096), help="B; compiles a program.  [default: 32]"),
            click.option("--steps", type=click.IntRange(1), help="K local steps a round.  [default: suits the data]"),
            click.option("--lr", type=float, help="Learning rate.  [default: suits the data]"),
            click.option("--every", type=click.IntRange(1), help="Rounds between measurements.  [default: suits]"),
        )
    ):
        command = option(command)
    return command


@click.command("study")
@click.argument("name", type=click.Choice(list(STUDIES)))
@common_options
@_more_options
def study(name: str, **options: Any) -> None:
    """Run a study and print its table: what a choice costs, what it brings.

    \b
    quantisation  FD's logits at 32 to 3 bits, linear and logarithmic
    payload       what each method has sent when it reaches an accuracy
    channel       accuracy against the clock, uplink dear and downlink cheap
    models        devices with different models in one run
    people        one person a device: own and everybody's test data

    \b
    Examples:
      potstill trainer study quantisation
      potstill trainer study people --data features:DIR --seeds 3
    """  # noqa: D301 - click's mark must be the character itself
    _do(name, STUDIES[name], options)


@click.command("table")
@click.argument("name", type=click.Choice(list(PAPERS)))
@common_options
@_more_options
def table(name: str, **options: Any) -> None:
    """Print a paper's figures beside ours, with seeds and spread, and what differs.

    \b
    fd-2018  FD against FL, arXiv 1811.11479, Table 1
    mix2fld  FL, FD, FLD, MixFLD, Mix2FLD over a channel, arXiv 2006.09801
    share    share beside CFD, DS-FL, FD and FedAvg

    \b
    Examples:
      potstill trainer table fd-2018
      potstill trainer table share --data mnist:DIR --seeds 3
    """  # noqa: D301 - click's mark must be the character itself
    _do(name, PAPERS[name], options)


def _do(name: str, chosen: Study, options: dict[str, Any]) -> None:
    wish = Wish(
        methods=(),
        data=options["data"],
        splits=options["splits"],
        devices=options["devices"],
        samples=options["samples"],
        seeds=tuple(range(options["seeds"])),
        models=options["models"],
        batch=options["batch"],
        changes={key: options[key] for key in _TYPED if options[key] is not None},
    )
    try:
        folder = run_folder(options["out"], again=True)
        jobs = chosen.jobs(wish, folder / "programs")
        more: list[Table] = [privacy_table(wish, folder / "programs")] if name == "mix2fld" else []
        run_and_write(jobs, wish.data, folder, options, tables=lambda curves: [chosen.table(curves), *more])
    except (RunError, FolderError, DataError, SplitError) as problem:
        raise click.ClickException(str(problem)) from problem
    except KeyboardInterrupt:
        click.echo(f"Stopped. The same command with --out {folder} goes on where it stood.", err=True)
        raise SystemExit(130) from None
