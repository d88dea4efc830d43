"""`potstill profiles instructions`: options, and one call."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.programs import SHIPPED, shipped


@click.command()
@click.option(
    "--program",
    "programs",
    multiple=True,
    metavar="NAME|FOLDER",
    help="A shipped program or the folder of another, again for more; default: all that ship.",
)
@click.option(
    "--runtime",
    type=click.Choice(["numpy", "onnx", "tflite"]),
    default="numpy",
    show_default=True,
    help="What takes the step.",
)
@click.option("--profile", default="pi-4b", show_default=True, help="The board whose core is emulated.")
@click.option(
    "--steps", type=click.IntRange(1, 10_000), default=9, show_default=True, help="Of which the median is taken."
)
def instructions(programs: tuple[str, ...], runtime: str, profile: str, steps: int) -> None:
    """Count the ARM instructions of one training step, exactly, in an emulator.

    Nothing is timed: the count is the same on a busy machine, and the numpy runtime's is the same to the instruction.
    Needs Debian's qemu-user, gcc, libc6-dev and mmdebstrap.

    \b
    Example:
      potstill profiles instructions --program cnn-8x8 --runtime onnx
    """  # noqa: D301
    from edge.meter.energy import NotCalibratedError, compute_from_instructions
    from firmware_profiles.load import load_profile
    from trainer.instructions.count import CountError, count_step

    click.echo(
        f"{'PROGRAM':<12} {'RUNTIME':<29} {'CORE':<11} {'INSTRUCTIONS/STEP':>17} {'SPREAD':>8}  ABOVE IDLE (MODELLED)"
    )
    for name in programs or tuple(SHIPPED):
        try:
            folder = Path(name) if (Path(name) / "manifest.json").is_file() else shipped(name)
            count = count_step(folder, runtime=runtime, profile=profile, steps=steps)
        except (CountError, ValueError) as problem:
            raise click.ClickException(str(problem)) from problem
        try:
            compute = compute_from_instructions(load_profile(profile), instructions=count.each)
            joules = f"{compute.joules * 1000:.3g} mJ ({compute.quality})"
        except NotCalibratedError:
            joules = "no nJ an instruction in the profile"
        click.echo(
            f"{count.program:<12} {count.runtime:<29} {count.cpu:<11} {count.each:>17,} {count.spread:>8.3%}  {joules}"
        )
