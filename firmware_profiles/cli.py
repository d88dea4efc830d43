"""`potstill profiles`: options, and one call a command."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import click

from firmware_profiles.facts import Fact
from firmware_profiles.load import (
    SOURCES_FILE,
    Finding,
    list_profiles,
    list_radios,
    load_profile,
    load_radio,
    load_sources,
    profile_file,
    radio_file,
    read_either,
    read_sources,
)
from firmware_profiles.schema import Profile

WIDTH = 120


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def profiles() -> None:
    """Device classes and radios: what is known about each, with a source for every number."""


@profiles.command("list")
def list_() -> None:
    """One line a device class, then one line a radio.

    \b
    Example:
      potstill profiles list
    """  # noqa: D301
    rows = [_summary(load_profile(name)) for name in list_profiles()]
    for line in _aligned([("NAME", "BOARD", "ISA", "RAM MiB", "IDLE W", "ALL CORES W", "RUNTIMES"), *rows]):
        click.echo(line)
    click.echo("")
    for line in _aligned([("RADIO", "WHAT IT IS", "UP", "DOWN", "DELAY", "LOSS"), *map(_radio_summary, list_radios())]):
        click.echo(line)


@profiles.command()
@click.argument("name")
def show(name: str) -> None:
    """Everything that is known about one device class or radio, and by whom.

    \b
    Example:
      potstill profiles show pi-zero-2-w
    """  # noqa: D301
    if name not in {*list_profiles(), *list_radios()}:
        known = f"a device class: {', '.join(list_profiles())}; or a radio: {', '.join(list_radios())}"
        raise click.ClickException(f"no profile {name!r}: name {known}")
    profile = load_radio(name) if name in list_radios() else load_profile(name)
    click.echo(f"{profile.title} ({profile.name})\n")
    facts = [row for key, fact in profile.facts() for row in _rows(key, fact)]
    for line in _aligned([("KEY", "VALUE", "QUALITY", "SOURCE"), *facts]):
        click.echo(line)
    click.echo("\nNotes")
    for key, fact in profile.facts():
        for each in (fact, *fact.others):
            if each.note:
                click.echo(textwrap.fill(f"{key} = {_text(each.value)}: {each.note}", WIDTH, subsequent_indent="    "))
    click.echo("\nSources")
    used = {row[3] for row in facts}
    for source in sorted(used):
        entry = load_sources()[source]
        click.echo(f"{source}: {entry.title}\n    {entry.address}" + (f"\n    {entry.note}" if entry.note else ""))


@profiles.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check profile files, or every one that ships; list everything that is wrong, and exit 1 if anything is.

    \b
    Example:
      potstill profiles check my-board.toml
    """  # noqa: D301
    shipped = (SOURCES_FILE, *map(profile_file, list_profiles()), *map(radio_file, list_radios()))
    findings = _check(files or shipped)
    for finding in findings:
        click.echo(str(finding), err=True)
    if findings:
        raise click.exceptions.Exit(1)
    click.echo("No problems.")


def _check(files: Sequence[Path]) -> list[Finding]:
    found: list[Finding] = []
    for file in files:
        read = read_sources(file) if file.name == SOURCES_FILE.name else read_either(file)
        found += read if isinstance(read, list) else []
    return found


def _radio_summary(name: str) -> tuple[str, ...]:
    radio = load_radio(name)
    up, down = radio.up, radio.down
    delays = {f"{each.delay_ms.value:g} ms" for each in (up, down)}
    losses = {f"{100 * each.loss_fraction.value:g} %" for each in (up, down)}
    rates = (_rate(each.rate_kbit_per_s.value) for each in (up, down))
    return (name, radio.title, *rates, " / ".join(delays), " / ".join(losses))


def _rate(kbit_per_s: float) -> str:
    return f"{kbit_per_s / 1000:g} Mbit/s" if kbit_per_s >= 1000 else f"{kbit_per_s:g} kbit/s"


def _summary(profile: Profile) -> tuple[str, ...]:
    runtimes = [
        key.partition(".")[2] for key, fact in profile.facts() if key.startswith("runtimes.") and fact.value is True
    ]
    return (
        profile.name,
        profile.title,
        profile.hardware.isa.value,
        _text(profile.hardware.ram_mib.value),
        _text(profile.power.idle_w.value),
        _text(profile.power.all_cores_w.value),
        ", ".join(runtimes),
    )


def _rows(key: str, fact: Fact[object]) -> list[tuple[str, ...]]:
    first = (key, _text(fact.value), str(fact.quality), fact.source)
    return [first, *(("  also", _text(other.value), str(other.quality), other.source) for other in fact.others)]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
