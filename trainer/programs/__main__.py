"""Compile the shipped programs again, in place: python -m trainer.programs."""

from __future__ import annotations

import click

from trainer.compile.build import build_program
from trainer.compile.package import write_folder
from trainer.programs import SHIPPED, shipped


@click.command()
def main() -> None:
    """Compile every shipped program again, in place (needs torch)."""
    for name, model in SHIPPED.items():
        packed = build_program(model, name=name)
        write_folder(packed, shipped(name))
        click.echo(f"{name}: digest {packed.manifest.digest.hex()}")


if __name__ == "__main__":
    main()
