"""`potstill edge`: the device's commands. Options and one call each; numpy and paho are loaded by `run` alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_RUNTIMES = ("onnx", "tflite", "numpy", "torch")
_LEVELS = ("debug", "info", "warning", "error")


def prepare_environment() -> None:
    """Before numpy and onnxruntime are imported: both read these once.

    A second BLAS thread makes batches of 32 slower and takes memory; onnxruntime from 1.29 on sends telemetry
    unless this variable stands before its import.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


@click.group()
def edge() -> None:
    """The device: train on local data, publish logits, learn from everybody's average."""


@edge.command()
@click.option("--broker", required=True, metavar="URL", help="mqtt://HOST[:1883] or mqtts://HOST[:8883].")
@click.option("--fleet", required=True, help="Name of the fleet: a-z, 0-9 and '-'.")
@click.option("--device", required=True, help="Name of this device, unique in its fleet.")
@click.option("--program", required=True, type=_FOLDER, help="Folder of the compiled program.")
@click.option(
    "--data", required=True, type=_FILE, help="This device's samples: train_x, train_y, test_x, test_y (.npz)."
)
@click.option("--work", required=True, type=_FOLDER, help="Folder this device keeps its state in; one for each device.")
@click.option("--runtime", type=click.Choice(_RUNTIMES), help="Default: the best that is installed.")
@click.option("--profile", help="What kind of board this is (`potstill profiles list`); default: unknown.")
@click.option("--power", metavar="SENSOR", help="Measure joules with this sensor (`potstill edge power` lists them).")
@click.option("--power-rate", type=float, metavar="HZ", help="Readings a second; default 10, a plug's 1, the pmic's 2.")
@click.option("--power-rest", type=float, metavar="SECONDS", help="At rest, for the idle baseline; default 10.")
@click.option("--keepalive", type=int, metavar="SECONDS", help="Between signs of life on an idle link; default 300.")
@click.option("--cafile", type=_FILE, help="CA of the broker's certificate (mqtts); default: the system's.")
@click.option("--cert", type=_FILE, help="This device's certificate (mqtts), with --key.")
@click.option("--key", type=_FILE, help="The certificate's private key.")
@click.option(
    "--credentials",
    type=_FILE,
    help="File of two lines, user and password, readable by its owner alone. "
    "Or set POTSTILL_MQTT_USER and POTSTILL_MQTT_PASSWORD.",
)
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True, help="What is logged.")
def run(
    *,
    broker: str,
    fleet: str,
    device: str,
    program: Path,
    data: Path,
    work: Path,
    runtime: str | None,
    profile: str | None,
    power: str | None,
    power_rate: float | None,
    power_rest: float | None,
    keepalive: int | None,
    cafile: Path | None,
    cert: Path | None,
    key: Path | None,
    credentials: Path | None,
    log_level: str,
) -> None:
    """Be one device: join run after run until a STOP from the aggregator, SIGTERM or Ctrl-C.

    A second start with the same --work goes on where the first one ended. What the run asks for (method, steps,
    learning rate, QoS) comes with the aggregator's plan.

    \b
    Example:
      potstill edge run --broker mqtt://127.0.0.1:1883 --fleet lab --device d00 \\
        --program programs/digits-cnn --data d00.npz --work state/d00
    """  # noqa: D301 - click's mark must be the character itself
    prepare_environment()
    _log(log_level)
    from edge import client, store
    from edge.runtime.choose import RuntimeMissing

    typed: dict[str, Any] = {
        "runtime": runtime,
        "profile": profile,
        "power": power,
        "power_rate_hz": power_rate,
        "power_rest_s": power_rest,
        "keepalive_s": keepalive,
    }
    try:
        user, password = _credentials(credentials)
        _check_profile(profile)
        settings = client.Settings(
            broker=broker,
            fleet=fleet,
            device=device,
            program=program,
            data=data,
            work=work,
            cafile=cafile,
            cert=cert,
            key=key,
            user=user,
            password=password,
            **{name: value for name, value in typed.items() if value is not None},
        )
        client.run(settings)
    except (ValueError, RuntimeMissing, store.WorkFolderError) as problem:
        raise click.ClickException(str(problem)) from problem


@edge.command()
@click.option("--broker", required=True, metavar="URL", help="mqtt://HOST[:1883] or mqtts://HOST[:8883].")
@click.option("--fleet", required=True, help="Name of the fleet: a-z, 0-9 and '-'.")
@click.option("--device", required=True, help="Name of this device, unique in its fleet.")
@click.option("--program", required=True, type=_FOLDER, help="Folder that `potstill trainer agent` wrote.")
@click.option("--env", "task", required=True, help="What is played: CartPole-v1 or Acrobot-v1 (gymnasium's names).")
@click.option("--work", required=True, type=_FOLDER, help="Folder this device keeps its state in; one for each device.")
@click.option("--runtime", type=click.Choice(_RUNTIMES), help="Default: the best that is installed.")
@click.option("--profile", help="What kind of board this is (`potstill profiles list`); default: unknown.")
@click.option("--keepalive", type=int, metavar="SECONDS", help="Between signs of life on an idle link; default 300.")
@click.option("--cafile", type=_FILE, help="CA of the broker's certificate (mqtts); default: the system's.")
@click.option("--cert", type=_FILE, help="This device's certificate (mqtts), with --key.")
@click.option("--key", type=_FILE, help="The certificate's private key.")
@click.option("--credentials", type=_FILE, help="File of two lines, user and password, as for `potstill edge run`.")
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True, help="What is logged.")
def agent(*, credentials: Path | None, log_level: str, **options: Any) -> None:
    """Be one agent: play, learn by actor-critic, tell the fleet what it does, learn from what the fleet does.

    Needs gymnasium (pip install 'potstill[rl]'). Otherwise as `potstill edge run`; the aggregator's run is one of
    `potstill broker run --task`. Agents of one task may have different networks and different runtimes.

    \b
    Example:
      potstill edge agent --broker mqtt://127.0.0.1:1883 --fleet lab --device d00 \\
        --program programs/cartpole --env CartPole-v1 --work state/d00
    """  # noqa: D301
    prepare_environment()
    _log(log_level)
    from edge import client, store
    from edge.runtime.choose import RuntimeMissing

    keepalive = options.pop("keepalive")
    typed = options | {"keepalive_s": keepalive}
    try:
        user, password = _credentials(credentials)
        _check_profile(typed["profile"])
        given = {name: value for name, value in typed.items() if value is not None}
        client.run(client.Settings(user=user, password=password, **given))
    except (ValueError, RuntimeMissing, store.WorkFolderError) as problem:
        raise click.ClickException(str(problem)) from problem


@edge.command()
@click.option("--work", required=True, type=_FOLDER, help="The device's folder, as given to `potstill edge run`.")
def show(work: Path) -> None:
    """Say what a device has on its disk: run, round, pending upload, bytes.

    \b
    Example:
      potstill edge show --work state/d00
    """  # noqa: D301
    prepare_environment()
    from edge import store

    newest, problems = store.read_newest(work)
    for problem in problems:
        click.echo(problem, err=True)
    if newest is None:
        raise click.ClickException(f"{work}: no whole snapshot; no round was finished here yet, or --work is another")
    for name, value in store.describe(newest[1]):
        click.echo(f"{name:<16} {value}")


@edge.command("power")
@click.argument("sensor", required=False)
@click.option("--broker", metavar="URL", help="Where a plug is whose name says no broker.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True, help="How long to look.")
@click.option("--rate", type=float, metavar="HZ", help="Readings a second; default 10, a plug's 1, the pmic's 2.")
def power_(sensor: str | None, broker: str | None, seconds: float, rate: float | None) -> None:
    """Read a power sensor now, to check its wiring; without SENSOR, list what this board has.

    SENSOR is what `potstill edge run --power` takes: hwmon:auto, ina219:0x40, pmic, rapl, plug:tasmota/NAME,
    trace:FILE.

    \b
    Example:
      potstill edge power ina219:0x40 --seconds 10
    """  # noqa: D301
    from edge.meter.power.choose import FORMS, found_sensors, open_sensor
    from edge.meter.power.protocol import SensorMissing
    from edge.meter.power.sampler import default_rate_hz, look

    if sensor is None:
        found = found_sensors()
        for spec, what in found:
            click.echo(f"{spec:<20} {what}")
        if not found:
            click.echo(f"No power sensor shows itself here. What there can be: {FORMS}")
        return
    try:
        opened = open_sensor(sensor, broker=broker)
        click.echo(f"{opened.name}: {opened.covers}")
        for second, watts in look(opened, seconds=seconds, rate_hz=rate or default_rate_hz(sensor)):
            click.echo(f"{second:8.2f} s  {watts:9.4f} W")
    except SensorMissing as problem:
        raise click.ClickException(str(problem)) from problem


@edge.command()
@click.option("--work", required=True, type=_FOLDER, help="The device's folder, as given to `potstill edge run`.")
@click.option("--run", "run_number", type=int, metavar="RUN", help="Of this run; default: the last one.")
@click.option("--json", "as_json", is_flag=True, help="Every line of the record, one JSON object (docs/bytes.md).")
def meter(work: Path, run_number: int | None, as_json: bool) -> None:
    """Say what a device's runs cost on the link, by layer and by what it was for.

    \b
    Example:
      potstill edge meter --work state/d00
    """  # noqa: D301
    prepare_environment()
    import json

    from edge.meter import journal, table

    try:
        lines, damaged = journal.read(work)
    except OSError as problem:
        raise click.ClickException(
            f"{problem.filename}: {problem.strerror}; a device writes it while it runs, or --work is another"
        ) from problem
    if damaged:
        click.echo(f"{damaged} lines of the record are damaged and left out", err=True)
    numbers = table.runs(lines)
    if run_number is not None and run_number not in numbers:
        raise click.ClickException(f"no run {run_number} in {work}; it has: {', '.join(map(str, numbers)) or 'none'}")
    if as_json:
        shown = [line for line in lines if run_number in {None, line.run}]
        click.echo(json.dumps({"damaged": damaged, "lines": table.plain(shown)}))
        return
    if not numbers:
        raise click.ClickException(f"{work}: no run yet")
    for line in table.text(lines, numbers[-1] if run_number is None else run_number):
        click.echo(line)


def _log(level: str) -> None:
    import logging

    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(message)s")


def _credentials(file: Path | None) -> tuple[str | None, str | None]:
    """User and password from the file or the environment; (None, None) if there are none."""
    if file is None:
        return os.environ.get("POTSTILL_MQTT_USER"), os.environ.get("POTSTILL_MQTT_PASSWORD")
    try:
        mode = file.stat().st_mode
        lines = file.read_text().splitlines()
    except OSError as problem:
        raise ValueError(f"{file}: {problem.strerror}; --credentials names a file of two lines") from problem
    if mode & 0o077:
        raise ValueError(f"{file}: others can read it; chmod 600 {file}")
    if len(lines) != 2:
        raise ValueError(f"{file}: two lines are wanted, the user and the password")
    return lines[0], lines[1]


def _check_profile(name: str | None) -> None:
    """Only what was typed is looked up: a device needs no profile. Raises ValueError that lists the names."""
    if name is not None and name != "unknown":
        from firmware_profiles.load import profile_file

        profile_file(name)
