"""`potstill trainer pool`: give a program a pool of inputs that every device of its fleet then has, for `share`.

The pool is a file of the program, so its hash is in the manifest and the program's digest says which pool it is: a
device with another one is refused like one with another model. The same inputs make the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from edge.runtime.program import MANIFEST, load_program
from edge.wire.manifest import POOL_FILE, Manifest
from trainer.data import DataError, Dataset, Inputs, load_dataset
from trainer.partition import Split, SplitError, parse_split, resolve
from trainer.shards import default_samples, left_over

INPUTS = 1000
"""As many as the figures of docs/methods.md were measured with; 200 cost 3 points (200: .923, 1,000: .95)."""


@click.command()
@click.argument("program", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", "spec", default="digits", show_default=True, help="digits, mnist:DIR, npz:DIR or features:DIR.")
@click.option("--split", "split_text", default="iid", show_default=True, help="As given to trainer split.")
@click.option("--devices", default=10, show_default=True, type=click.IntRange(1, 65535), help="As given to it.")
@click.option("--samples", type=click.IntRange(1), help="As given to it.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="As given to it.")
@click.option("--inputs", default=INPUTS, show_default=True, type=click.IntRange(1), help="At most so many.")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
def pool(
    *, program: Path, spec: str, split_text: str, devices: int, samples: int | None, seed: int, inputs: int, out: Path
) -> None:
    """Copy PROGRAM with a pool of shared inputs in it: those of the data that the split leaves to nobody.

    \b
    Example:
      potstill trainer pool cnn --data mnist:mnist --split fd --devices 10 -o cnn-shared
    """  # noqa: D301 - click's mark must be the character itself
    try:
        dataset = load_dataset(spec)
        wanted = samples or default_samples(dataset, devices)
        chosen = resolve(parse_split(split_text), wanted, dataset.label_count)
        left = left_over(dataset, chosen, devices=devices, samples=wanted, seed=seed)[:inputs]
        manifest = write_with_pool(program, left, scale=dataset.scale, out=out)
    except (DataError, SplitError, OSError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem
    click.echo(f"{out}: {manifest.name} with {len(left)} shared inputs, digest {manifest.digest.hex()}")


def for_run(
    program: Path,
    methods: Collection[str],
    dataset: Dataset,
    split: Split,
    *,
    devices: int,
    samples: int,
    seed: int,
    out: Path,
) -> Path:
    """The program itself; where `share` is to be run and it has no pool, a copy in `out` that has one.

    Raises SplitError where the split leaves no input over.
    """
    if "share" not in methods or POOL_FILE in load_program(program).manifest.files:
        return program
    left = left_over(dataset, split, devices=devices, samples=samples, seed=seed)[:INPUTS]
    if not len(left):
        raise SplitError(f"{split} leaves no input over for share's pool: fewer samples a device, or fewer devices")
    write_with_pool(program, left, scale=dataset.scale, out=out)
    return out


def write_with_pool(program: Path, x: Inputs, *, scale: float, out: Path) -> Manifest:
    """The files of `program` and x (M, ...) as its pool, in the folder `out`. Raises ValueError, OSError."""
    manifest = load_program(program).manifest
    if not len(x):
        raise ValueError("no input is left over for a pool: fewer --samples a device, or fewer --devices")
    if int(np.prod(x.shape[1:])) != manifest.sample_size:
        raise ValueError(f"inputs of {x.shape[1:]}, and {manifest.name} takes {manifest.input_shape}")
    files = {name: (program / name).read_bytes() for name in manifest.files}
    files[POOL_FILE] = pool_bytes(x.reshape(len(x), *manifest.input_shape), scale)
    written = replace(manifest, files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # the manifest last: a copy that was cut short is refused
    for name, data in files.items():
        (out / name).write_bytes(data)
    (out / MANIFEST).write_text(written.to_json(), encoding="utf-8")
    return written


def pool_bytes(x: Inputs, scale: float) -> bytes:
    """An .npz of x (M, ...) and scale, the same bytes each time: a zip file otherwise holds the hour of its making."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in (("x", x), ("scale", np.float32(scale))):
            entry = zipfile.ZipInfo(f"{name}.npy")  # of 1 January 1980
            archive.writestr(entry, _npy(np.asarray(array)), compress_type=zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()
