"""What a device's client sent and heard: payload bytes by kind and direction, stream bytes without its own reports.

Pure: numbers in, numbers out. Sizes are those of MQTT 5 (section 3.3) as `edge.client` writes them: no properties.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge.meter.stream import StreamBytes

METHOD_UP = ("Upload", "ParameterUpload", "Done")
METHOD_DOWN = ("Plan", "Parameters")
"""Kinds of message that a method needs; births, seats and commands are counted too, reports apart."""

PUBACK_BYTES = 4
"""Reason code 0 and no properties (MQTT 5, section 3.4): what rumqttd and, to a subscribed topic, mosquitto answer."""
TLS13_RECORD_BYTES = 22
"""Header 5, inner type 1, tag 16 (RFC 8446, section 5.2), a record for each packet."""


def publish_bytes(*, topic: str, payload_bytes: int, qos: int) -> int:
    """Bytes of one MQTT 5 PUBLISH without properties."""
    remaining = 2 + len(topic.encode()) + (2 if qos else 0) + 1 + payload_bytes
    return 1 + _varint_bytes(remaining) + remaining


def _varint_bytes(value: int) -> int:
    return next(width for width in (1, 2, 3, 4) if value < 128**width)


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Counters since the run began; they go to the disk with the session and come back."""

    up: dict[str, int] = field(default_factory=dict)
    """Payload bytes by kind of message."""
    down: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """Frames refused, by reason."""
    closed: StreamBytes = field(default_factory=lambda: StreamBytes(sent=0, received=0))
    """Of the connections that have ended (may be negative: what was on the stream before the run is taken off)."""
    reports: StreamBytes = field(default_factory=lambda: StreamBytes(sent=0, received=0))
    """Of this device's own reports and their acknowledgements."""

    def sent(self, kind: str, payload_bytes: int) -> None:
        self.up[kind] = self.up.get(kind, 0) + payload_bytes

    def heard(self, kind: str, payload_bytes: int) -> None:
        self.down[kind] = self.down.get(kind, 0) + payload_bytes

    def refuse(self, reason: str) -> bool:
        """Count one refused frame; True the first time for this reason, when it is worth a line in the log."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return self.refused[reason] == 1

    def reported(self, *, packet_bytes: int, tls: bool) -> None:
        """A report went out: take its packet and, at QoS 1, the acknowledgement off the stream."""
        record = TLS13_RECORD_BYTES if tls else 0
        self.reports += StreamBytes(sent=packet_bytes + record, received=PUBACK_BYTES + record)

    def disconnected(self, last: StreamBytes | None) -> None:
        """A connection has ended with these counters."""
        if last is not None:
            self.closed += last

    def restart(self, *, kind: str, payload_bytes: int, now: StreamBytes | None) -> None:
        """A run begins with a message just heard: all counters to zero but for that message's own payload.

        Refusals stay: they are about this process, not about a run.
        """
        self.up, self.down = {}, {kind: payload_bytes}
        self.reports = StreamBytes(sent=0, received=0)
        before = now if now is not None else StreamBytes(sent=0, received=0)
        self.closed = StreamBytes(sent=-before.sent, received=payload_bytes - before.received)

    @property
    def payload_up(self) -> int:
        return sum(self.up.get(kind, 0) for kind in METHOD_UP)

    @property
    def payload_down(self) -> int:
        return sum(self.down.get(kind, 0) for kind in METHOD_DOWN)

    def stream(self, open_connection: StreamBytes | None) -> StreamBytes:
        """Cumulated over connections, this device's own reports left out."""
        total = self.closed if open_connection is None else self.closed + open_connection
        return StreamBytes(
            sent=max(0, total.sent - self.reports.sent), received=max(0, total.received - self.reports.received)
        )

    def to_plain(self, open_connection: StreamBytes | None) -> dict[str, Any]:
        """For the disk: after a restart the connection that is open now is one of the ended ones."""
        ended = self.closed if open_connection is None else self.closed + open_connection
        return {
            "up": self.up,
            "down": self.down,
            "refused": self.refused,
            "closed": [ended.sent, ended.received],
            "reports": [self.reports.sent, self.reports.received],
        }


def traffic_from_plain(plain: dict[str, Any]) -> Traffic:
    """Raises KeyError, TypeError or ValueError on anything `to_plain` did not write."""
    return Traffic(
        up=_counters(plain["up"]),
        down=_counters(plain["down"]),
        refused=_counters(plain["refused"]),
        closed=_stream(plain["closed"]),
        reports=_stream(plain["reports"]),
    )


def _counters(plain: dict[str, int]) -> dict[str, int]:
    return {str(kind): int(count) for kind, count in plain.items()}


def _stream(plain: list[int]) -> StreamBytes:
    sent, received = plain
    return StreamBytes(sent=int(sent), received=int(received))
