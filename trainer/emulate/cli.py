"""`potstill emulate`: options, and one call."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("fleet_file", metavar="[FLEET.toml]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Run folder.  [default: runs/TIME]")
@click.option("--target", type=click.FloatRange(0, 1), help="Accuracy to count bytes and joules to, for this run.")
@click.option("--check", is_flag=True, help="Read the fleet, say what it is, and start nothing.")
@click.option("--clean", is_flag=True, help="Remove what emulations that crashed have left, and start nothing.")
def emulate(*, fleet_file: Path | None, out: Path | None, target: float | None, check: bool, clean: bool) -> None:
    """Emulate a fleet of devices: their links, speed, memory and mishaps, on this machine.

    FLEET.toml says which devices there are and what they train; every method runs on the same fleet, data and seed.
    Prints what each method paid to reach the same accuracy, and leaves run.json in the run folder.

    \b
    Examples:
      potstill emulate docs/fleets/processes.toml
      sudo potstill emulate docs/fleets/twenty.toml
      sudo potstill emulate --clean
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with a backspace character
    if clean:
        _clean()
        return
    if fleet_file is None:
        raise click.UsageError("name a fleet's file, such as docs/fleets/processes.toml, or give --clean")
    from dataclasses import replace

    from trainer.data import DataError, load_dataset
    from trainer.demo.progress import HEADS
    from trainer.demo.settings import DemoError
    from trainer.emulate.backend import BackendError
    from trainer.emulate.fleet import FleetError
    from trainer.emulate.fleet_file import read_fleet
    from trainer.emulate.run import run_fleet
    from trainer.partition import SplitError
    from trainer.progress import choose
    from trainer.record.folder import FolderError, run_folder
    from trainer.report.cli import drawn
    from trainer.report.page import text_table

    try:
        fleet = read_fleet(fleet_file)
        if target is not None:
            fleet = replace(fleet, training=replace(fleet.training, target=target))
        if check:
            click.echo(f"{fleet.name}: {len(fleet.members)} devices, back ends {', '.join(fleet.backends)}")
            return
        folder = run_folder(out)
        dataset = load_dataset(fleet.training.data)
        with choose(HEADS) as progress:
            progress.say(f"{fleet.name}: {len(fleet.members)} devices; all that happens is kept in {folder}")
            found = run_fleet(fleet, dataset, folder, progress, folder=fleet_file.resolve().parent)
    except (FleetError, BackendError, DemoError, DataError, FolderError, SplitError) as problem:
        raise click.ClickException(str(problem)) from problem
    except KeyboardInterrupt:
        click.echo("Stopped; every device has ended and every link is gone. What was done is in run.json.", err=True)
        raise SystemExit(130) from None
    for table in found.tables:
        click.echo(f"\n{table.title}\n{text_table(table.heads, table.rows)}")
        for note in table.notes:
            click.echo(note)
    click.echo(f"\nRun folder: {folder} ({', '.join((*drawn(found, folder), 'run.json', 'ledger', 'logs'))})")


def _clean() -> None:
    from trainer.emulate.backends import REMOVERS
    from trainer.emulate.leftovers import clean

    removed, problems = clean(REMOVERS)
    for line in removed:
        click.echo(f"removed {line}")
    for line in problems:
        click.echo(f"still there: {line}", err=True)
    if problems:
        raise SystemExit(1)
    if not removed:
        click.echo("Nothing was left.")
