"""`potstill trainer`: compile programs, split data. Torch is imported where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.wire.manifest import OPTIMISERS
from trainer.channel_cli import channel
from trainer.pool import pool
from trainer.reference.cli import run
from trainer.reference.study_cli import study, table
from trainer.rl.cli import agent, rl
from trainer.split_cli import split

if TYPE_CHECKING:
    from trainer.compile.optimise import Optimiser
    from trainer.compile.package import Packed


class _Trainer(click.Group):
    """`run METHOD... --env NAME` is for agents: the command `rl`, whose options are others."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is run and any(arg == "--env" or arg.startswith("--env=") for arg in rest):
            return "run", rl, rest
        return name, command, rest


@click.group(cls=_Trainer, context_settings={"help_option_names": ["-h", "--help"]})
def trainer() -> None:
    """The workstation: compile programs, split data, run the reference."""


def _shape(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    sides = value.split(",")
    if not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise click.BadParameter("positive numbers with commas between them, such as 1,28,28")
    return tuple(int(side) for side in sides)


def _labels(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    return tuple(str(label) for label in range(int(value))) if len(names) == 1 and value.isdigit() else names


trainer.add_command(pool)
trainer.add_command(split)
trainer.add_command(channel)
trainer.add_command(run)
trainer.add_command(study)
trainer.add_command(table)
trainer.add_command(rl)
trainer.add_command(agent)


@trainer.command("compile")
@click.argument("model")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--optimizer", type=click.Choice(OPTIMISERS), help="The model's own where not given (else sgd).")
@click.option("--batch", type=click.IntRange(1, 65536), default=32, show_default=True, help="B of a training step.")
@click.option(
    "--input-shape", callback=_shape, metavar="C,H,W", help="Of one sample; needed for your own module:Class."
)
@click.option("--labels", callback=_labels, metavar="L|A,B,..", help="How many labels, or their names in order.")
@click.option("--name", help="Of the program; the model's where not given.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the initial parameters."
)
def compile_(  # noqa: PLR0917 - click passes them by name
    model: str,
    out: Path,
    optimizer: Optimiser | None,
    batch: int,
    input_shape: tuple[int, ...] | None,
    labels: tuple[str, ...] | None,
    name: str | None,
    seed: int,
) -> None:
    """Compile MODEL into a program that devices train.

    MODEL is mlp, cnn, cnn-8x8, har-cnn, or your own as module:Class or file.py:Class (called without arguments).

    \b
    Example:
      potstill trainer compile cnn --optimizer adam -o cnn-adam
    """  # noqa: D301 - click's mark must be the character itself
    try:
        from trainer.compile.build import build_program
        from trainer.compile.package import write_folder

        packed = build_program(
            model,
            optimiser=optimizer,
            batch=batch,
            input_shape=input_shape,
            labels=labels,
            name=name,
            seed=seed,
        )
        write_folder(packed, out)
    except ModuleNotFoundError as problem:
        raise click.ClickException(
            f"compiling needs {problem.name}: pip install 'potstill[trainer]' (the workstation only, not the devices)"
        ) from problem
    except (ValueError, OSError) as problem:
        raise click.ClickException(str(problem)) from problem
    _print(packed, out)


def _print(packed: Packed, out: Path) -> None:
    manifest = packed.manifest
    click.echo(
        f"{manifest.name}: {manifest.parameter_count:,} parameters, {manifest.optimiser}, batch {manifest.batch}"
    )
    click.echo(f"digest {manifest.digest.hex()}, label schema {manifest.schema.hex()}")
    for file, data in sorted(packed.files.items()):
        click.echo(f"  {out / file}  {len(data):,} bytes")
