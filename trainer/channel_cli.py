"""`potstill trainer channel`: what a wireless channel does to messages of given sizes."""

from __future__ import annotations

import click

MESSAGES = (3_200, 65_920, 316_800, 401_408)
"""Bits: FD's 10 x 10 outputs; with 10 and with 50 seeds of 6,272; 12,544 parameters."""
TRIES = 10_000


@click.command()
@click.argument("name", metavar="CHANNEL")
@click.option(
    "--devices", type=click.IntRange(min=1), default=10, show_default=True, help="That share the uplink's band."
)
@click.option("--bits", type=click.IntRange(min=1), multiple=True, help="Of a message; may be given again.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the fading.")
def channel(*, name: str, devices: int, bits: tuple[int, ...], seed: int) -> None:
    """Slots and outage of messages on a modelled wireless channel, and the link an emulator makes of it.

    \b
    Example:
      potstill trainer channel mix2fld-asym --bits 3200 --bits 401408
    """  # noqa: D301
    import numpy as np

    from trainer.channel import load_channel

    try:
        found = load_channel(name, devices=devices)
    except ValueError as problem:
        raise click.ClickException(str(problem)) from problem
    link = found.link()
    click.echo(f"{name}, {devices} devices: modelled, {TRIES:,} messages each, seed {seed}\n")
    click.echo(f"{'':6}{'MEAN SNR':>10}{'BITS A SLOT':>13}{'SLOT LOST':>11}   AS A LINK")
    for way, hop, shape in (("up", found.up, link.up), ("down", found.down, link.down)):
        snr = 10 * np.log10(hop.mean_snr)
        lost = f"{100 * hop.slot_outage:.2f} %"
        figures = f"{shape.rate_bit_per_s / 1e6:.2f} Mbit/s, {1000 * shape.delay_s:g} ms, loss {100 * shape.loss:.2f} %"
        click.echo(f"{way:6}{snr:>7.1f} dB{hop.mean_bits:>13,.0f}{lost:>11}   {figures}")
    click.echo(f"\n{'BITS':>9}{'UP: SLOTS':>12}{'OUTAGE':>9}{'DOWN: SLOTS':>14}{'OUTAGE':>9}")
    for size in bits or MESSAGES:
        rng = np.random.default_rng(seed)
        up, down = (hop.deliver(size, TRIES, rng) for hop in (found.up, found.down))
        cells = (f"{each.slots.mean():.1f}" for each in (up, down))
        outages = (f"{100 * (1 - each.delivered.mean()):.2f} %" for each in (up, down))
        (a, c), (b, d) = cells, outages
        click.echo(f"{size:>9,}{a:>12}{b:>9}{c:>14}{d:>9}")
