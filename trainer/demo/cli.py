"""`potstill demo`: options, and one call."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.data import DataError, load_dataset
from trainer.demo.progress import HEADS
from trainer.demo.run import run_demo
from trainer.demo.settings import METHODS, OFFERED, RUNTIMES, DemoError, Wish, settle
from trainer.demo.table import differences, explanation, rows_of, text
from trainer.partition import SplitError
from trainer.progress import choose
from trainer.record.folder import FolderError, run_folder
from trainer.report.cli import drawn


def _list(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(item.strip() for item in value.split(",") if item.strip())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", default="digits", show_default=True, help="digits, mnist:DIR or npz:DIR (docs/data.md).")
@click.option(
    "--split", "splits", callback=_list, help="With commas: iid, fd, mix2fld, dirichlet:A.  [default: iid,fd]"
)
@click.option(
    "--methods",
    callback=_list,
    default=",".join(METHODS),
    show_default=True,
    help=f"With commas, of {', '.join(OFFERED)} (docs/methods.md).",
)
@click.option("--devices", default=10, show_default=True, type=int, help="Each is a process of its own.")
@click.option("--samples", type=click.IntRange(1), help="Training samples a device.  [default: 60 digits, 500 mnist]")
@click.option("--test", type=click.Choice(["common", "own"]), help="Test set.  [default: common; own for natural]")
@click.option("--rounds", type=click.IntRange(1), help="[default: suits the program]")
@click.option("--steps", type=click.IntRange(1), help="Local steps a round.  [default: suits the program]")
@click.option("--lr", type=float, help="Learning rate.  [default: suits the program]")
@click.option("--gamma", type=float, help="Weight of distillation (fd, share).  [default: 1]")
@click.option("--normalise/--no-normalise", default=None, help="Divide fd's target by 1 + gamma.  [default: for HAR]")
@click.option("--bits", default=4, show_default=True, type=int, help="Of a logit on the wire: 32, 16, 8, 4 or 3 (fd).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of split and batches.")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="On every device.  [default: the best installed]")
@click.option(
    "--program", type=click.Path(path_type=Path), help="Compiled program.  [default: a shipped one that fits]"
)
@click.option("--broker", metavar="URL", help="mqtt://HOST:PORT.  [default: the demo starts the embedded broker]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Run folder.  [default: runs/TIME]")
def demo(*, test: str | None, out: Path | None, **options: object) -> None:
    """Train a fleet on real data over MQTT: alone, FL and FD side by side.

    Starts an embedded broker and one process a device, runs each method on the same split, start, seed and number of
    steps, and prints what came out: accuracy, bytes, seconds. Nothing is downloaded.

    \b
    Examples:
      potstill demo
      potstill demo --methods alone,fl,fd,share
      potstill demo --data mnist:DIR --split fd --methods alone,fd
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with a backspace character
    try:
        wish = Wish(own_test=None if test is None else test == "own", **options)  # type: ignore[arg-type]
        folder = run_folder(out)
        dataset = load_dataset(wish.data)
        settings = settle(wish, dataset)
        with choose(HEADS) as progress:
            progress.say(
                f"{dataset.name}, {settings.devices} devices, splits {', '.join(map(str, settings.splits))}, "
                f"methods {', '.join(settings.methods)}; all that happens is kept in {folder}"
            )
            found = run_demo(settings, dataset, folder, progress)
    except (DemoError, FolderError, DataError, SplitError) as problem:
        raise click.ClickException(str(problem)) from problem
    except KeyboardInterrupt:
        click.echo("Stopped; every process has ended. What was done is in the run folder.", err=True)
        raise SystemExit(130) from None
    rows = rows_of(found)
    click.echo(f"\n{text(rows)}")
    for line in differences(rows):
        click.echo(line)
    files = (*drawn(found, folder), "run.json", "table.md", "ledger", "logs")
    click.echo(f"\n{explanation(found)}\nRun folder: {folder} ({', '.join(files)})")
