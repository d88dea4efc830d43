"""`potstill budget`: options, one call, and a table."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge.meter.budget import Cost, Limits, Setting

_SERVICES = ("ttn", "aws-iot")
OFTEN = 8640
"""Rounds a day, one in ten seconds: from here on the air is not what a round waits for."""


def _number(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """DR3 or 3 -> 3."""
    if value is None:
        return None
    digits = value.upper().removeprefix("DR")
    if not digits.isdecimal():
        raise click.BadParameter("a data rate is DR0, DR1 ... or its number")
    return int(digits)


@click.command()
@click.option("--radio", required=True, help="Of `potstill profiles list`: lora-eu868, nb-iot, ble, wifi-2.4-fair ...")
@click.option(
    "--data-rate", callback=_number, metavar="DR", help="Of LoRaWAN: DR0 to DR6 or 0 to 6; default: the profile's."
)
@click.option("--labels", type=click.IntRange(2, 1000), default=10, show_default=True, help="Of the task, L.")
@click.option(
    "--devices", type=click.IntRange(2, 1000), default=10, show_default=True, help="In the fleet: a plan names them."
)
@click.option(
    "--rounds", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="A day that must fit."
)
@click.option(
    "--shared",
    type=click.IntRange(1, 20_000),
    metavar="INPUTS",
    help="Also `share`: labels (argmax) of so many inputs.",
)
@click.option("--parameters", type=click.IntRange(1, 10_000_000), help="Also FL: the model's parameters, both ways.")
@click.option(
    "--duty-cycle",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the time to send in; default: the radio's.",
)
@click.option(
    "--energy",
    type=click.FloatRange(0, min_open=True),
    metavar="JOULES",
    help="That the rounds of a day may take; default: no limit.",
)
@click.option(
    "--service",
    multiple=True,
    type=click.Choice(_SERVICES),
    help="Whose limits hold too: TTN's fair use, AWS IoT's 128 kB.",
)
@click.option("--tls/--no-tls", default=True, help="TLS 1.3 on radios that carry IP; default: with.")
@click.option(
    "--qos", type=click.IntRange(0, 1), default=1, show_default=True, help="MQTT QoS of uploads, where IP is carried."
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def budget(
    *,
    radio: str,
    data_rate: int | None,
    labels: int,
    devices: int,
    rounds: float,
    shared: int | None,
    parameters: int | None,
    duty_cycle: float | None,
    energy: float | None,
    service: tuple[str, ...],
    tls: bool,
    qos: int,
    as_json: bool,
) -> None:
    """What fits a radio: bits, rounds a day, airtime and energy of a round; exit 1 if `--rounds` a day do not fit.

    \b
    Example:
      potstill budget --radio lora-eu868 --data-rate DR3 --rounds 24
    """  # noqa: D301
    from edge.meter.budget import Setting, advice, cost, limits, pace
    from edge.meter.exchange import BITS, fd, fl, share
    from firmware_profiles.load import ProfileError, load_radio

    try:
        setting = Setting(radio=load_radio(radio), data_rate=data_rate, tls=tls, qos=qos)
        within = limits(setting, duty_cycle=duty_cycle, joules_a_day=energy, services=service)
        exchanges = [fd(labels=labels, devices=devices, bits=bits) for bits in BITS]
        if shared is not None:
            exchanges.append(share(labels=labels, devices=devices, bits=4, inputs=shared))
        if parameters is not None:
            exchanges.append(fl(parameters=parameters, labels=labels, devices=devices))
        costs = [cost(setting, exchange, within) for exchange in exchanges]
    except (ProfileError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem
    fitting = [each.exchange.name for each in costs if each.rounds_a_day >= rounds]
    others = [] if fitting else advice(setting, within, labels=labels, devices=devices, rounds=rounds)
    if as_json:
        click.echo(json.dumps(_plain(setting, within, costs, fitting=fitting, others=others), indent=2))
    else:
        for line in _table(setting, within, costs, labels=labels, devices=devices):
            click.echo(line)
        asked = pace(rounds)
        fits = f"{asked} fits with: " if rounds < 2 else f"{asked} fit with: "
        click.echo("\n" + (fits + "; ".join(fitting) if fitting else f"Refused: {asked} cannot be had here."))
        if not fitting:
            click.echo("What would fit: " + ("; ".join(others) or "nothing of this kind: take another radio") + ".")
    if not fitting:
        raise click.exceptions.Exit(1)


def _table(setting: Setting, within: Limits, costs: list[Cost], *, labels: int, devices: int) -> list[str]:
    rows = [("ONE ROUND", "UP", "DOWN", "FRAMES", "SENDING", "ENERGY", "FITS", "BOUND BY")]
    rows += [
        (
            each.exchange.name,
            f"{sum(each.exchange.up):,} B",
            f"{sum(each.exchange.down):,} B",
            f"{each.frames_up:,} + {each.frames_down:,}",
            _seconds(each.sending_s),
            _joules(each.active_j),
            *_fits(each),
        )
        for each in costs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    carried = "MQTT 5 over TCP" + (" and TLS 1.3" if setting.tls else "") if setting.carries_ip else "the frame alone"
    named = [within.sending_why] * (within.sending_s is not None)
    named += [within.downlinks_why] * (within.downlinks is not None)
    named += [f"{within.joules:g} J a day"] if within.joules is not None else []
    named += [within.message_why] * (within.message_bytes is not None)
    return [
        f"{setting.radio.title}{_rate(setting)}: {labels} labels, {devices} devices, {carried}",
        f"Limits: {'; '.join(named) or 'none but the airtime'}. Frames are encoded, airtime and energy modelled.",
        "",
        *lines,
    ]


def _fits(each: Cost) -> tuple[str, str]:
    """Rounds a day, and what bounds them: where only the air would, training does long before."""
    from edge.meter.budget import AIRTIME, pace

    if each.bound == AIRTIME and each.rounds_a_day > OFTEN:
        return "as often as it trains", "nothing here"
    return pace(each.rounds_a_day), each.bound


def _rate(setting: Setting) -> str:
    from edge.meter.radio.air import lora_rate
    from firmware_profiles.radio_schema import Lora

    phy = setting.phy
    if not isinstance(phy, Lora):
        return ""
    rate = phy.default_data_rate.value if setting.data_rate is None else setting.data_rate
    factor, bandwidth_hz, _ = lora_rate(phy, rate)
    return f", DR{rate} (SF{factor}, {bandwidth_hz / 1000:g} kHz)"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _joules(joules: float) -> str:
    return f"{joules:.2f} J" if joules >= 1 else f"{1000 * joules:.3g} mJ"


def _plain(
    setting: Setting, within: Limits, costs: list[Cost], *, fitting: list[str], others: list[str]
) -> dict[str, object]:
    return {
        "radio": setting.radio.name,
        "data_rate": setting.data_rate,
        "limits": dataclasses.asdict(within),
        "rounds": [{"name": each.exchange.name, **dataclasses.asdict(each)} for each in costs],
        "fits": fitting,
        "would_fit": others,
        "frames": "encoded",
        "airtime_and_energy": "modelled",
    }
