"""`potstill report`: the page of a run again, or one page of several runs. matplotlib is imported where it is used."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from trainer.record.run import Record


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: of the first run]")
def report(*, runs: tuple[Path, ...], out: Path | None) -> None:
    """Write report.html, its figures, points.csv and devices.csv from run records.

    RUNS are run folders or run.json files. Several are shown on one page, each curve named after its run.

    \b
    Examples:
      potstill report runs/20261122-190000
      potstill report runs/fd runs/share --out compared
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with a backspace character
    from trainer.record.run import RecordError, read_record

    files = [run / "run.json" if run.is_dir() else run for run in runs]
    try:
        records = [read_record(file) for file in files]
        page = draw(merged(records, [file.parent.name for file in files]), out or files[0].parent)
    except RecordError as problem:
        raise click.ClickException(str(problem)) from problem
    except OSError as problem:
        raise click.ClickException(
            f"{problem.filename}: {problem.strerror}; name another folder with --out"
        ) from problem
    click.echo(f"Report: {page}")


def draw(record: Record, folder: Path) -> Path:
    """-> the page. Raises RecordError where matplotlib is missing."""
    from trainer.record.run import RecordError

    if find_spec("matplotlib") is None:
        raise RecordError("the report needs matplotlib: pip install 'potstill[demo]'")
    from trainer.report.write import write_report

    return write_report(record, folder)


def drawn(record: Record, folder: Path) -> tuple[str, ...]:
    """The page's name once it is drawn; nothing where matplotlib is missing: a run is whole without its page."""
    from trainer.record.run import RecordError

    try:
        return (draw(record, folder).name,)
    except RecordError:
        return ()


def merged(records: list[Record], names: list[str]) -> Record:
    """One record of several: curves labelled with their run's name. Raises RecordError where scores differ."""
    from dataclasses import replace

    from trainer.record.run import RecordError

    if len(records) == 1:
        return records[0]
    if len({record.score for record in records}) > 1:
        raise RecordError("accuracies and returns do not go on one page: report on these runs one by one")
    curves = tuple(
        replace(curve, label=f"{curve.label} ({name})".strip())
        for record, name in zip(records, names, strict=True)
        for curve in record.curves
    )
    return replace(
        records[0],
        settings={name: record.settings for record, name in zip(records, names, strict=True)},
        provenance={
            f"{figure} ({name})": source
            for record, name in zip(records, names, strict=True)
            for figure, source in record.provenance.items()
        },
        complete=all(record.complete for record in records),
        curves=curves,
        events=(),  # each on the time axis of its own run
        tables=(),
    )
