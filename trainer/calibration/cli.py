"""`potstill profiles calibrate`: options, and one call a step."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.programs import shipped

if TYPE_CHECKING:
    from edge.meter.power.sampler import EnergyMeter
    from firmware_profiles.schema import Profile
    from trainer.calibration.measure import Figures, Power, Steps

STANDARD = "cnn-8x8"
"""The program whose step is timed where none is named: the demo's."""


@click.command()
@click.option("--base", metavar="NAME", help="The profile to start from; default: the board's own, where it says.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Profile to write; default: only say."
)
@click.option("--program", default=STANDARD, show_default=True, help="A shipped program.")
@click.option("--power", metavar="SENSOR", help="Read watts with this sensor (`potstill edge power` lists them).")
@click.option("--power-rate", type=float, metavar="HZ", help="Readings a second; default: as the sensor can.")
@click.option("--broker", metavar="URL", help="Where a plug is whose name says no broker.")
@click.option("--seconds", type=click.FloatRange(0.05, 3600), default=10.0, show_default=True, help="Each runtime.")
@click.option("--rest", type=click.FloatRange(0.05, 3600), default=20.0, show_default=True, help="Seconds, first.")
def calibrate(  # noqa: PLR0917 - click passes them by name
    base: str | None,
    out: Path | None,
    program: str,
    power: str | None,
    power_rate: float | None,
    broker: str | None,
    seconds: float,
    rest: float,
) -> None:
    """Measure this machine with a standard program: step times, and watts where a sensor is given.

    Leave the board alone meanwhile: what else runs is in the watts. The profile written holds the figures with date,
    machine and sensor, and keeps what it knew before as other sources.

    \b
    Example:
      potstill profiles calibrate --power ina219:0x40 -o my-pi-4b.toml
    """  # noqa: D301
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")  # as `potstill edge run` sets them: before numpy and onnxruntime are imported
    from firmware_profiles.load import ProfileError
    from trainer.calibration.measure import measure

    try:
        start = _base(base, needed=out is not None)
        cores = os.cpu_count() or 1
        meter = _meter(power, rate_hz=power_rate, broker=broker)
        try:
            folder = shipped(program)
            figures = measure(folder, seconds=seconds, rest_s=rest, meter=meter, cores=cores, say=_say)
        finally:
            if meter is not None:
                meter.close()
        _show(figures, start)
        if out is not None:
            assert start is not None
            _write(start, figures, out)
    except (ProfileError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem


def _say(text: str) -> None:
    click.echo(f"... {text}", err=True)


def _base(name: str | None, *, needed: bool) -> Profile | None:
    """Raises ValueError where one is needed and this machine is no board that is known."""
    from firmware_profiles.load import list_profiles, load_profile
    from trainer.calibration.measure import machine

    if name is not None:
        return load_profile(name)
    here = machine()
    profiles = [load_profile(known) for known in list_profiles()]
    fitting = [profile for profile in profiles if here.startswith(profile.title)]
    if fitting:
        return max(fitting, key=lambda profile: len(profile.title))
    if needed:
        raise ValueError(f"{here}: no board of {', '.join(list_profiles())}; say with --base which one to start from")
    return None


def _meter(power: str | None, *, rate_hz: float | None, broker: str | None) -> EnergyMeter | None:
    if power is None:
        return None
    from edge.meter.power.choose import open_sensor
    from edge.meter.power.sampler import EnergyMeter, default_rate_hz

    return EnergyMeter(open_sensor(power, broker=broker), rate_hz=rate_hz or default_rate_hz(power))


def _show(figures: Figures, base: Profile | None) -> None:
    click.echo(f"{figures.machine}, {figures.date}; {figures.program}; sensor: {figures.sensor}")
    if figures.idle is not None:
        click.echo(f"at rest              {_watts(figures.idle)}")
    for steps in figures.runtimes:
        busy = "" if steps.power is None else f"   {_watts(steps.power)}"
        click.echo(f"{steps.version:<28} {steps.cpu_s * 1e6:10.1f} us a step{busy}{_against(base, steps, figures)}")
    if figures.all_cores is not None:
        click.echo(f"all cores            {_watts(figures.all_cores)}")


def _write(base: Profile, figures: Figures, out: Path) -> None:
    from firmware_profiles.load import ProfileError, read_profile
    from firmware_profiles.write import profile_toml
    from trainer.calibration.profile import calibrated
    from trainer.instructions.counts import known_counts

    counts = known_counts(base.hardware.core.value, figures.program) if platform.machine() == "aarch64" else {}
    if base.hardware.isa.value not in {platform.machine(), platform.machine()[:5]}:
        isa = base.hardware.isa.value
        click.echo(
            f"warning: {base.name} is {isa} and this machine {platform.machine()}: these are not a board's figures",
            err=True,
        )
    profile = calibrated(base, figures, name=out.stem, counts=counts)
    out.write_text(profile_toml(profile), encoding="utf-8")
    read = read_profile(out)
    if isinstance(read, list):
        out.unlink()
        raise ProfileError(
            "the figures and the profile contradict each other (is the sensor where the whole board's current flows, "
            "and the board otherwise idle?):\n" + "\n".join(map(str, read))
        )
    click.echo(f"written: {out}")


def _against(base: Profile | None, steps: Steps, figures: Figures) -> str:
    """How far this machine is from a board that was calibrated before."""
    from edge.meter.energy import NotCalibratedError, slowdown

    if base is None:
        return ""
    try:
        slow = slowdown(base, runtime=steps.runtime, program=figures.program, host_step_s=steps.cpu_s)
    except NotCalibratedError:
        return ""
    return f"   {base.name} takes {slow.factor:.3g} times as long"


def _watts(power: Power) -> str:
    return f"{power.watts:.3f} W over {power.seconds:.1f} s"
