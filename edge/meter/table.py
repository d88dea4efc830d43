"""What a device's journal says, as lines of text or as plain values for JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edge.meter.energy import Energy, Measured, energy_from_plain, summed
from edge.meter.journal import Line
from edge.meter.layers import CLASSES, Layers, by_class, layers
from edge.meter.traffic import Account, to_plain

_NAMES = {"payload": "payload", "mqtt": "MQTT", "tls": "TLS", "tcpip": "TCP/IP", "link": "Ethernet"}


def runs(lines: Sequence[Line]) -> list[int]:
    """Numbers of the runs in the journal, in the order of their last line."""
    last = {line.run: place for place, line in enumerate(lines) if line.run is not None}
    return sorted(last, key=last.__getitem__)


def plain(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One for each line: what it is about, layers and classes up and down, and the counts they come from."""
    return [
        {
            "at": line.at,
            "run": line.run,
            "round": line.round,
            "tls": line.tls,
            "layers": {d: asdict(layers(line.account, d)) for d in ("up", "down")},
            "classes": {
                d: {name: asdict(part) for name, part in by_class(line.account, d).items()} for d in ("up", "down")
            },
            "counts": to_plain(line.account),
            "energy": line.energy,
        }
        for line in lines
    ]


def text(lines: Sequence[Line], run: int) -> list[str]:
    """A run's table: rounds together, and what the device sent and heard outside of them."""
    rounds = [line for line in lines if line.run == run and line.round is not None]
    outside = [line for line in lines if line.run == run and line.round is None]
    total = _sum(rounds)
    count = len({line.round for line in rounds})
    told = [f"run {run}: {count} rounds, {total.elapsed_s:.1f} s{', TLS' if any(x.tls for x in rounds) else ''}", ""]
    told += [*_layer_table(total, count), "", *_class_table(total), "", *_notes(total)]
    told += _energy(rounds)
    if outside:
        apart = _sum(outside)
        up, down = layers(apart, "up").total, layers(apart, "down").total
        told += [f"outside of its rounds (start, joining, farewell): {_bytes(up)} up, {_bytes(down)} down"]
    return told


def _sum(lines: Sequence[Line]) -> Account:
    return sum((line.account for line in lines), Account())


def _layer_table(total: Account, rounds: int) -> list[str]:
    up, down = layers(total, "up"), layers(total, "down")
    rows = [f"{'bytes':<16}{'up':>12}{'down':>12}{'up a round':>14}{'down a round':>14}"]
    for field, name in _NAMES.items():
        rows.append(_row(name, getattr(up, field), getattr(down, field), rounds))
    return [*rows, _row("together", up.total, down.total, rounds)]


def _row(name: str, up: int | None, down: int | None, rounds: int) -> str:
    each = [None if value is None or not rounds else round(value / rounds) for value in (up, down)]
    return f"{name:<16}{_bytes(up):>12}{_bytes(down):>12}{_bytes(each[0]):>14}{_bytes(each[1]):>14}"


def _class_table(total: Account) -> list[str]:
    up, down = by_class(total, "up"), by_class(total, "down")
    rows = [f"{'what for':<16}{'MQTT up':>12}{'MQTT down':>12}{'on link up*':>14}{'on link down*':>14}"]
    rows += [
        f"{name:<16}{_bytes(_mqtt(up[name])):>12}{_bytes(_mqtt(down[name])):>12}"
        f"{_bytes(up[name].total):>14}{_bytes(down[name].total):>14}"
        for name in CLASSES
    ]
    return [*rows, "* modelled below MQTT: TLS and TCP/IP are shared out; each column adds up to what was counted"]


def _mqtt(part: Layers) -> int:
    return part.payload + part.mqtt


def _notes(total: Account) -> list[str]:
    notes = [
        f"connections made {total.connects}, attempts that failed {total.failed}",
        f"processor {total.cpu_s:.2f} s, of it {total.review_cpu_s:.2f} s to evaluate the model for reports",
    ]
    stream = total.stream
    if stream is None:
        return ["TLS, TCP/IP and Ethernet: unknown, this kernel has no TCP_INFO (qemu-user)", *notes]
    segments = f"segments {stream.segments_out} out, {stream.segments_in} in"
    again = f"sent again {stream.retransmitted_segments} ({stream.retransmitted} bytes)"
    return [f"{segments}; {again}; bytes that came twice, estimated: {stream.received_again}", *notes]


def _energy(rounds: Sequence[Line]) -> list[str]:
    """Nothing where the device had no power sensor (docs/energy.md)."""
    found = [(line.round, energy_from_plain(line.energy)) for line in rounds if line.energy is not None]
    if not found:
        return []
    total = summed(energy for _, energy in found)
    count = len({number for number, _ in found})
    lacking = "" if len(found) == len(rounds) else f"; {len(rounds) - len(found)} lines without a sensor are not in it"
    return [f"energy {total}; {total.total_j / count:.3g} J a round{lacking}", f"  {_how(total)}"]


def _how(energy: Energy) -> str:
    basis = energy.basis
    if not isinstance(basis, Measured):
        return f"{basis.profile}: {basis.compute}; {basis.radio} ({basis.quality})"
    rest = (
        "no idle baseline" if basis.idle_w is None else f"{basis.idle_w:.3f} W at rest over {basis.idle_window_s:.1f} s"
    )
    return f"{basis.sensor}, {basis.rate_hz:g} a second, {basis.samples} readings, {rest}; it sees {basis.covers}"


def _bytes(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
