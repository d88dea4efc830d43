"""What a device's client sent and heard, its processor time, and where the last run and the last line began.

Pure: numbers in, numbers out. `Account` is a set of totals; what happened between two moments is their difference.
Letters: K kinds of packet (`edge.wire.messages.METER_KINDS`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from edge.meter.packets import KIND, PacketReader, Tally, empty_tally
from edge.meter.stream import Stream
from edge.wire.messages import METER_KINDS, Meter

METHOD_UP = ("upload",)
METHOD_DOWN = ("plan", "parameters")
"""Kinds of packet that a method needs; births, seats and commands are counted too, reports apart."""

PUBACK_BYTES = 4
"""Reason code 0 and no properties (MQTT 5, section 3.4): what rumqttd and, to a subscribed topic, mosquitto answer."""
TLS13_RECORD_BYTES = 22
"""Header 5, inner type 1, tag 16 (RFC 8446, section 5.2), a record for each packet."""


def publish_bytes(*, topic: str, payload_bytes: int, qos: int) -> int:
    """Bytes of one MQTT 5 PUBLISH without properties (section 3.3)."""
    remaining = 2 + len(topic.encode()) + (2 if qos else 0) + 1 + payload_bytes
    return 1 + _varint_bytes(remaining) + remaining


def _varint_bytes(value: int) -> int:
    return next(width for width in (1, 2, 3, 4) if value < 128**width)


_NOTHING = empty_tally()
_NOTHING.flags.writeable = False


class Account(NamedTuple):
    """Totals, or what was added to them between two moments."""

    up: Tally = _NOTHING
    """(K, 3) packets, payload bytes, bytes of the packets."""
    down: Tally = _NOTHING
    stream: Stream | None = Stream()
    """None where the kernel did not say for one connection or more."""
    connects: int = 0
    failed: int = 0
    """Attempts to connect that came to nothing; their bytes are in no other count."""
    cpu_s: float = 0.0
    review_cpu_s: float = 0.0
    """What of it went into evaluating the model for reports."""
    elapsed_s: float = 0.0

    def __add__(self, other: Account) -> Account:  # type: ignore[override]  # totals are added, not put end to end
        return self._with(other, operator.add)

    def __sub__(self, other: Account) -> Account:
        return self._with(other, operator.sub)

    def _with(self, other: Account, combine: Callable[[Any, Any], Any]) -> Account:
        up, down, stream, *numbers = self
        other_up, other_down, other_stream, *others = other
        both = None if stream is None or other_stream is None else Stream(*map(combine, stream, other_stream))
        return Account(combine(up, other_up), combine(down, other_down), both, *map(combine, numbers, others))

    @property
    def payload_up(self) -> int:
        """Of the method's messages."""
        return int(sum(self.up[KIND[kind], 1] for kind in METHOD_UP))

    @property
    def payload_down(self) -> int:
        return int(sum(self.down[KIND[kind], 1] for kind in METHOD_DOWN))

    def stream_without_reports(self, *, tls: bool) -> tuple[int, int]:
        """Bytes (up, down) on the TCP stream less this device's reports, their records and acknowledgements.

        (0, 0) where the kernel does not say.
        """
        if self.stream is None:
            return 0, 0
        packets, _, size = (int(count) for count in self.up[KIND["report"]])
        records = packets * TLS13_RECORD_BYTES if tls else 0
        up, down = size + records, packets * PUBACK_BYTES + records
        return max(0, self.stream.sent - up), max(0, self.stream.received - down)


def to_plain(account: Account) -> dict[str, Any]:
    """For JSON: kinds without a packet are left out."""
    return {
        "up": _rows(account.up),
        "down": _rows(account.down),
        "stream": None if account.stream is None else account.stream._asdict(),
        "connects": account.connects,
        "failed": account.failed,
        "cpu_s": round(account.cpu_s, 6),
        "review_cpu_s": round(account.review_cpu_s, 6),
        "elapsed_s": round(account.elapsed_s, 6),
    }


def _rows(tally: Tally) -> dict[str, list[int]]:
    return {kind: row for kind, row in zip(METER_KINDS, tally.tolist(), strict=True) if any(row)}


def from_plain(plain: dict[str, Any]) -> Account:
    """Raises KeyError, TypeError or ValueError on anything `to_plain` did not write."""
    return Account(
        up=_tally(plain["up"]),
        down=_tally(plain["down"]),
        stream=None if plain["stream"] is None else Stream(**{k: int(v) for k, v in plain["stream"].items()}),
        connects=int(plain["connects"]),
        failed=int(plain["failed"]),
        cpu_s=float(plain["cpu_s"]),
        review_cpu_s=float(plain["review_cpu_s"]),
        elapsed_s=float(plain["elapsed_s"]),
    )


def _tally(rows: dict[str, list[int]]) -> Tally:
    tally = empty_tally()
    for kind, (packets, payload, size) in rows.items():
        tally[KIND[kind]] = packets, payload, size
    return tally


class Traffic:
    """Counters of one process. `run` and the lines of the device's own ledger are differences of `account`s."""

    def __init__(self) -> None:
        self.sent, self.heard = PacketReader(), PacketReader()
        self.refused: dict[str, int] = {}
        """Frames refused, by reason."""
        self.connects = 0
        self.failed = 0
        self.review_cpu_s = 0.0
        self._unexplained = 0
        """Segments with data that the open connection heard before its first PUBLISH, beyond one a packet: of TLS."""
        self._heard_before = empty_tally()
        """(K, 3) when the open connection began."""
        self._packets_before = 0
        """Of them."""
        self._closed: Stream | None = Stream()
        """Of the connections that have ended."""
        self._run_began = Account()
        self._last_line = Account()

    def refuse(self, reason: str) -> bool:
        """Count one refused frame; True the first time for this reason, when it is worth a line in the log."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return self.refused[reason] == 1

    def disconnected(self, last: Stream | None) -> None:
        """A connection has ended with these counters; None: the kernel does not say."""
        self._unexplained += 1  # TLS says farewell in a segment of its own
        self._closed = self._and_closed(last)
        self.sent.reset()
        self.heard.reset()
        self._heard_before, self._packets_before, self._unexplained = self.heard.tally, self.heard.packets, 0

    def account(self, open_connection: Stream | None, *, cpu_s: float, now_s: float) -> Account:
        """Everything since the process began; `open_connection`: zeros if there is none."""
        return Account(
            up=self.sent.tally,
            down=self.heard.tally,
            stream=self._and_closed(open_connection),
            connects=self.connects,
            failed=self.failed,
            cpu_s=cpu_s,
            review_cpu_s=self.review_cpu_s,
            elapsed_s=now_s,
        )

    def subscribed(self, open_connection: Stream | None) -> None:
        """The open connection has come so far that from now on every segment with data should be one packet."""
        if open_connection is not None:
            self._unexplained = open_connection.data_segments_in - self._packets_heard()

    def _packets_heard(self) -> int:
        """On the open connection."""
        return self.heard.packets - self._packets_before

    def _and_closed(self, connection: Stream | None) -> Stream | None:
        if self._closed is None or connection is None:
            return None
        return self._closed + connection._replace(received_again=self._received_again(connection))

    def _received_again(self, connection: Stream) -> int:
        """Bytes that came twice: an estimate, for the kernel counts such segments and not what is in them.

        A broker writes small packets a segment each, so that segments beyond them came again; what came again is taken
        for a packet of mean size. No estimate (0) once parameters were heard, which take any number of segments; too
        low where the broker puts several packets in a segment.
        """
        packets = self._packets_heard()
        again = connection.data_segments_in - self._unexplained - packets
        if again <= 0 or packets == 0:
            return 0
        heard = self.heard.tally - self._heard_before
        return 0 if heard[KIND["parameters"], 0] else again * (int(heard[:, 2].sum()) // packets)

    def of_run(self, now: Account) -> Account:
        """Since the run began, over restarts of the process."""
        return now - self._run_began

    def of_line(self, now: Account) -> Account:
        """Since this was asked last."""
        line, self._last_line = now - self._last_line, now
        return line

    def of_run_lines(self) -> Account:
        """Since the run began, up to the last line: what a restart of the process goes on from."""
        return self._last_line - self._run_began

    def restart(self, *, packet_bytes: int, payload_bytes: int, tls: bool) -> None:
        """A run begins at the last line, with a plan just heard, which belongs to it: one packet in one segment."""
        now = self._last_line
        plan = empty_tally()
        plan[KIND["plan"]] = 1, payload_bytes, packet_bytes
        stream = now.stream or Stream()
        header = stream.headers_in // max(1, stream.segments_in)
        received = packet_bytes + (TLS13_RECORD_BYTES if tls else 0)
        its = Stream(received=received, segments_in=1, data_segments_in=1, headers_in=header)
        self._run_began = now - Account(down=plan, stream=its)

    def resume(self, now: Account, saved: Account) -> None:
        """The process was started anew in the middle of a run with these totals."""
        self._run_began = now - saved


def meter(account: Account, *, run: int, round_: int) -> Meter:
    """The message about a run's totals."""
    packets = {f"{name}_up": column.astype(np.uint64) for name, column in _columns(account.up)}
    packets |= {f"{name}_down": column.astype(np.uint64) for name, column in _columns(account.down)}
    return Meter(
        run=run,
        round=round_,
        stream=None if account.stream is None else np.maximum(account.stream, 0).astype(np.uint64),
        connects=account.connects,
        cpu_s=max(0.0, account.cpu_s),
        review_cpu_s=max(0.0, account.review_cpu_s),
        elapsed_s=max(0.0, account.elapsed_s),
        **packets,
    )


def _columns(tally: Tally) -> list[tuple[str, Tally]]:
    return list(zip(("packets", "payload", "mqtt"), np.maximum(tally, 0).T, strict=True))
