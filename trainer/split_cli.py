"""`potstill trainer split`: deal a data set to devices, one shard file each."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trainer.data import DataError, load_dataset
from trainer.partition import SplitError, parse_split, resolve
from trainer.shards import deal, default_samples, write_shards


@click.command()
@click.option("--data", "spec", default="digits", show_default=True, help="digits, mnist:DIR, npz:DIR or features:DIR.")
@click.option("--split", "split_text", default="iid", show_default=True, help="iid, fd, mix2fld, dirichlet:A, natural.")
@click.option("--devices", default=10, show_default=True, type=click.IntRange(1, 65535), help="How many.")
@click.option("--samples", type=click.IntRange(1), help="Samples a device.  [default: 60 digits, 500 mnist, all npz]")
@click.option("--test", type=click.Choice(["common", "own"]), default="common", show_default=True, help="Test sets.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of the draw.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
def split(*, spec: str, split_text: str, devices: int, samples: int | None, test: str, seed: int, out: Path) -> None:
    """Deal a data set to devices: one .npz each, and split.json that says how.

    Example: potstill trainer split --data digits --split fd --devices 4 --out shards
    """
    try:
        dataset = load_dataset(spec)
        wanted = samples or default_samples(dataset, devices)
        chosen = resolve(parse_split(split_text), wanted, dataset.label_count)
        shards = deal(dataset, chosen, devices=devices, samples=wanted, seed=seed, own_test=test == "own")
        files = write_shards(out, shards, scale=dataset.scale, label_count=dataset.label_count)
    except (DataError, SplitError, OSError) as problem:
        raise click.ClickException(str(problem)) from problem
    note = {
        "data": dataset.name,
        "split": str(chosen),
        "seed": seed,
        "input_shape": list(dataset.input_shape),
        "labels": dataset.label_count,
        "devices": {file.device: {"samples": list(file.counts), "test_samples": file.test_samples} for file in files},
    }
    (out / "split.json").write_text(json.dumps(note, indent=1) + "\n")
    for file in files:
        click.echo(f"{file.path}  {sum(file.counts)} samples, by label {' '.join(map(str, file.counts))}")
