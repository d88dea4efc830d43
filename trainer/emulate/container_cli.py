"""`potstill container`: options, and one call a command."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def container() -> None:
    """Devices in containers: the client's image, and a fleet as a compose file."""


@container.command()
@click.option("--arch", type=click.Choice(["arm64", "amd64"]), help="Of the image.  [default: this machine's]")
@click.option("--runtime", type=click.Choice(["onnx", "tflite", "numpy"]), default="onnx", show_default=True,
              help="Which one trains in it.")  # fmt: skip
@click.option("--engine", type=click.Choice(["podman", "docker"]), help="Who builds it.  [default: the one installed]")
@click.option("--context", type=_FOLDER, help="Keep the Containerfile and its archives in this empty folder.")
@click.option("--refresh", is_flag=True, help="Fetch Debian's packages and the wheels anew.")
def image(arch: str | None, runtime: str, engine: str | None, context: Path | None, *, refresh: bool) -> None:
    """Build the client's container image, without a registry: Debian packages, wheels and the client, no torch.

    Packages come from the archive that this machine's apt is set to, wheels through this machine's pip. What was
    fetched is kept in the user's cache, so that the next image takes seconds.

    \b
    Example:
      potstill container image --arch arm64
    """  # noqa: D301 - click's mark must be the character itself
    from trainer.emulate.image import build_image, find_engine
    from trainer.emulate.rootfs import ARCHITECTURES, ImageError, device_root, host_architecture

    try:
        builder = find_engine(engine)
        architecture = ARCHITECTURES[arch] if arch else host_architecture()
        root = device_root(architecture, runtime=runtime, refresh=refresh)
        if context is not None:
            context.mkdir(parents=True, exist_ok=True)
        click.echo(build_image(builder, root, context=context))
    except (ImageError, OSError) as problem:
        raise click.ClickException(str(problem)) from problem


@container.command()
@click.argument("fleet_file", metavar="FLEET.toml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=_FOLDER, help="Folder to write.")
@click.option("--engine", type=click.Choice(["podman", "docker"]), help="Whose images.  [default: the one installed]")
@click.option("--broker", metavar="URL", help="mqtt://HOST:PORT.  [default: this machine, on the containers' network]")
def compose(fleet_file: Path, out: Path, engine: str | None, broker: str | None) -> None:
    """Render FLEET.toml as a compose file: each device a container with its profile's limits and its group's link.

    Builds the images it names, writes each device's data and the program beside it, and says how to start it.

    \b
    Example:
      potstill container compose docs/fleets/twenty.toml -o composed
    """  # noqa: D301
    from trainer.data import DataError, load_dataset
    from trainer.demo.settings import DemoError
    from trainer.emulate.compose import BROKER, GATEWAY
    from trainer.emulate.compose import compose as render
    from trainer.emulate.fleet import FleetError
    from trainer.emulate.fleet_file import read_fleet
    from trainer.emulate.image import find_engine
    from trainer.emulate.rootfs import ImageError
    from trainer.emulate.settle import settle
    from trainer.partition import SplitError

    try:
        fleet = read_fleet(fleet_file)
        dataset = load_dataset(fleet.training.data)
        settled = settle(fleet, dataset, fleet_file.resolve().parent)
        done = render(fleet, settled, dataset, find_engine(engine), out, broker=broker or BROKER)
    except (FleetError, DataError, DemoError, SplitError, ImageError, OSError) as problem:
        raise click.ClickException(str(problem)) from problem
    click.echo(f"{done.file}: {len(fleet.members)} devices")
    for line in done.left_out:
        click.echo(f"Left out: {line}")
    click.echo(f"docker compose -f {done.file} up -d   # or docker-compose")
    if broker is None:
        click.echo(f"potstill broker serve --host {GATEWAY} --port 1883 --expose")
    click.echo(done.aggregator)
