"""The aggregator's shell: clock, ledger, and all that is done with the round's machine.

One thread does everything, a batch at a time:

    read what the broker has sent (at most BATCH messages)  ->  decode, admit, `broker.round.step`
    ->  one ledger transaction  ->  acknowledge each upload  ->  publish, tell  ->  events for the operator

A batch is whatever is there: a single upload is handled at once, a flood in transactions of BATCH. Nothing is
acknowledged, published or told before the transaction that knows of it has been committed (docs/adr/0007).
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from broker import admit
from broker.ledger import Ledger, Run, UploadRow
from broker.link import Letter, Link
from broker.round import (
    Action,
    Arrived,
    Born,
    Close,
    Convert,
    Converted,
    Departed,
    End,
    Event,
    Extend,
    Fate,
    LinkUp,
    Phase,
    Publish,
    Record,
    Refuse,
    RoundState,
    Tell,
    Tick,
    deadline,
    open_run,
    resume,
    step,
)
from broker.settings import RunSettings, settings_to_plain
from edge.wire import topics
from edge.wire.codec import FrameError, Reason, encode
from edge.wire.messages import (
    METER_KINDS,
    STREAM_COUNTS,
    Birth,
    Message,
    Meter,
    Method,
    Opening,
    Plan,
    Seat,
)

if TYPE_CHECKING:
    from broker.conversion import Converter

CONVERSION_S = 0.02
"""For how long a conversion may go on between two looks at the network."""

REPORT_PATIENCE_S = 30.0
"""How long after the last plan, or the last report, the run's end waits for another report."""

NAMES = 4096
"""Different (device, reason) that refusals are counted by; beyond, the device is "*": names cost memory."""

Emit: TypeAlias = Callable[[dict[str, Any]], None]


class Aggregator:
    """One run, from its first birth to its end. `emit` takes the events of docs/ledger.md, one dictionary each."""

    def __init__(
        self,
        *,
        link: Link,
        ledger: Ledger,
        fleet: str,
        settings: RunSettings,
        emit: Emit,
        converter: Converter | None = None,
    ) -> None:
        """`converter` is for the methods whose aggregator trains (FLD)."""
        self._converter, self._converting = converter, -1
        self._link, self._ledger, self._fleet, self._settings, self._emit = link, ledger, fleet, settings, emit
        self._state: RoundState
        self._channels: dict[str, tuple[str, str]] = {}
        self._reported = {(number, device) for number, device, _ in ledger.reports(settings.run)}
        self._refusals: set[tuple[str, str]] = set()
        self._end: End | None = None
        self._open_round = -1
        self._now = self._opened_at = time.monotonic()
        """When the machine last stepped, and when it opened the round: a deadline runs from there."""
        self._batch = _Batch()

    def begin(self) -> None:
        """A new run, written down before anybody hears of it. Raises `LedgerError` when its number was used."""
        s = self._settings
        with self._ledger.commit(durable=True):
            self._ledger.begin_run(
                Run(
                    run=s.run,
                    fleet=self._fleet,
                    method=s.method.name.lower(),
                    program=s.program.hex(),
                    settings=json.dumps(settings_to_plain(s)),
                    started=time.time(),
                    ended=None,
                    complete=None,
                    reason=None,
                )
            )
        self._state, actions = open_run(s, time.monotonic())
        self._take(actions, b"")
        self._finish([])

    def take_up(self) -> None:
        """A run that was cut short, from the ledger."""
        self._state, actions = resume(self._settings, self._ledger.unfinished(self._settings.run), time.monotonic())
        self._take(actions, b"")
        self._finish([])

    def run(self, stop: threading.Event) -> End:
        """Until the run is over, reports included. A `stop` in between leaves the run unfinished, to be resumed."""
        while self._end is None:
            if stop.is_set():
                reason = f"stopped; go on with: potstill broker run --resume {self._settings.run}"
                return End(complete=False, reason=reason)
            self._turn(self._patience())
        self._link.settle(5.0)
        if self._end.complete and self._settings.report:
            self._await_reports(stop)
        return self._end

    def _patience(self) -> float:
        if self._converting >= 0:
            return 0.0
        due = deadline(self._state)
        wait = 0.5 if due is None else due - time.monotonic()
        return 0.0 if self._link.more else max(0.0, min(wait, 0.5))

    def _turn(self, timeout_s: float) -> None:
        """One batch, from the network to the network."""
        came_up, assembling = self._link.poll(timeout_s), self._state.phase is Phase.ASSEMBLING
        born = -1 if came_up else len(self._state.present)
        if came_up:
            self._step(LinkUp())
        letters = self._link.letters()
        for letter in letters:
            self._hear(letter)
        due = deadline(self._state)
        if due is not None and time.monotonic() >= due:
            self._step(Tick())
        if assembling and len(self._state.present) != born:
            self._batch.events.append(self._waiting())
        self._finish(letters)
        if self._converting >= 0:
            self._go_on_converting(self._converting)

    def _go_on_converting(self, number: int) -> None:
        """A few steps; what comes of the last is the next round."""
        assert self._converter is not None  # `_take` has begun with it
        until = time.monotonic() + CONVERSION_S
        parameters = None
        while parameters is None and time.monotonic() < until:
            parameters = self._converter.advance()
        if parameters is not None:
            self._converting = -1
            self._step(Converted(number, parameters))
            self._finish([])

    def _waiting(self) -> dict[str, Any]:
        return {"event": "waiting", "born": len(self._state.present), "devices": self._settings.devices}

    def _await_reports(self, stop: threading.Event) -> None:
        """Those of the last round, from the devices that are there; bounded."""
        last = self._settings.rounds - 1
        until = time.monotonic() + REPORT_PATIENCE_S
        while not stop.is_set() and time.monotonic() < until:
            if all((last, device) in self._reported for device in self._state.present):
                return
            before = len(self._reported)
            self._turn(0.1)
            if len(self._reported) > before:
                until = time.monotonic() + REPORT_PATIENCE_S

    # ---- in: letters -> events

    def _hear(self, letter: Letter) -> None:
        try:
            channel, device = self._channel(letter.topic)
            if channel == "u":
                upload = admit.upload(letter.payload, self._settings)
                self._step(Arrived(device, upload), letter.payload)
            elif channel == "s":
                self._hear_birth(device, letter.payload)
            else:
                self._hear_report(device, letter.payload)
        except FrameError as refusal:
            self._refuse(letter.topic.rpartition("/")[2], str(refusal.reason))

    def _hear_birth(self, device: str, payload: bytes) -> None:
        message = admit.birth(payload, self._settings)
        self._step(Born(device, message) if isinstance(message, Birth) else Departed(device))

    def _hear_report(self, device: str, payload: bytes) -> None:
        report = admit.report(payload, self._settings)
        if isinstance(report, Meter):
            self._take_meter(device, report)
            return
        if (report.round, device) in self._reported:
            return
        self._reported.add((report.round, device))
        plain = {name: _finite(value) for name, value in asdict(report).items() if name != "run"}
        self._batch.writes.append(partial(self._ledger.add_report, self._settings.run, report.round, device, plain))
        self._batch.events.append({"event": "report", "device": device, **plain})

    def _take_meter(self, device: str, meter: Meter) -> None:
        """The last one of a round stays: a device that died in the round after sends it again, with more in it."""
        plain = meter_to_plain(meter)
        self._batch.writes.append(partial(self._ledger.add_meter, self._settings.run, meter.round, device, plain))
        self._batch.events.append({"event": "meter", "device": device, "round": meter.round, **plain})

    def _channel(self, topic: str) -> tuple[str, str]:
        """-> u, s or m, and the device. A topic is taken apart once."""
        known = self._channels.get(topic)
        if known is None:
            try:
                known = topic.split("/")[2], topics.parse_device(topic)
            except ValueError as problem:
                raise FrameError(Reason.TOPIC, str(problem)) from None
            if len(self._channels) < 2**16:
                self._channels[topic] = known
        return known

    def _refuse(self, device: str, reason: str) -> None:
        key = (device[:64], reason)
        if key not in self._refusals:
            if len(self._refusals) >= NAMES:
                key = ("*", reason)
            self._refusals.add(key)
        self._batch.refusals[key] = self._batch.refusals.get(key, 0) + 1

    # ---- out: actions -> ledger, then network, then operator

    def _step(self, event: Event, payload: bytes = b"") -> None:
        self._now = time.monotonic()
        self._state, actions = step(self._state, event, self._now)
        self._take(actions, payload)

    def _take(self, actions: list[Action], payload: bytes) -> None:
        batch = self._batch
        for action in actions:
            match action:
                case Record():
                    self._take_record(action, payload)
                case Publish():
                    self._take_broadcast(action.message)
                case Tell():
                    self._take_tell(action.device, action.message)
                case Convert():
                    self._take_convert(action)
                case Close():
                    self._take_close(action)
                case Refuse():
                    self._refuse(action.device, action.reason)
                case Extend():
                    batch.events.append(
                        {"event": "extended", "round": action.round, "counted": action.counted, "left": action.left}
                    )
                case End():
                    self._take_end(action)

    def _take_record(self, action: Record, payload: bytes) -> None:
        batch, counted = self._batch, action.fate is Fate.COUNTED
        row = UploadRow(
            run=self._settings.run,
            round=action.upload.round,
            device=action.device,
            fate=action.fate.value,
            size=len(payload),
            arrived=time.time(),
            frame=payload if counted else None,
        )
        (batch.counted if counted else batch.others).append(row)

    def _take_convert(self, action: Convert) -> None:
        if self._converter is None:
            raise RuntimeError(f"{action.method.name.lower()} needs an aggregator with a converter")
        self._converter.begin(action)
        self._converting = action.round

    def _take_broadcast(self, message: Plan | Opening) -> None:
        """A plan stands in the ledger, and on the disk, before a device can hear it."""
        batch, run, frame = self._batch, self._settings.run, encode(message)
        if isinstance(message, Plan):
            if message.round != self._open_round:
                self._open_round, self._opened_at = message.round, self._now
            batch.writes.append(partial(self._ledger.open_round, run, message.round, frame, time.time()))
            batch.out.append((topics.plan(self._fleet), frame, True))
        else:
            batch.writes.append(partial(self._ledger.keep_parameters, run, frame))
            batch.out.append((topics.parameters(self._fleet), frame, True))
        batch.durable = True

    def _take_tell(self, device: str, message: Message) -> None:
        if isinstance(message, Seat):
            self._batch.writes.append(partial(self._ledger.seat, self._settings.run, device, message.seat))
        self._batch.out.append((topics.command(self._fleet, device), encode(message), False))

    def _take_close(self, action: Close) -> None:
        settings = self._settings
        self._batch.writes.append(
            partial(
                self._ledger.close_round,
                settings.run,
                action.round,
                closed=time.time(),
                cohort=action.cohort,
                missing=action.missing,
                keep=settings.method not in {Method.FL, Method.FRL, Method.PD},
            )
        )
        self._batch.events.append(
            {
                "event": "round",
                "round": action.round,
                "rounds": settings.rounds,
                "cohort": list(action.cohort),
                "missing": list(action.missing),
                "seconds": round(time.monotonic() - self._opened_at, 4),
            }
        )

    def _take_end(self, action: End) -> None:
        self._end = action
        run = self._settings.run
        self._batch.writes.append(
            partial(self._ledger.end_run, run, ended=time.time(), complete=action.complete, reason=action.reason)
        )
        self._batch.durable = True

    def _finish(self, letters: list[Letter]) -> None:
        """Ledger, then network, then operator."""
        batch, self._batch = self._batch, _Batch()
        if batch.to_write:
            with self._ledger.commit(durable=batch.durable):
                self._ledger.add_uploads(batch.counted, batch.others)
                for write in batch.writes:
                    write()
                if batch.refusals:
                    self._ledger.add_refusals(self._settings.run, batch.refusals)
        if letters or batch.out:
            several = len(letters) + len(batch.out) > 1
            with self._link.together() if several else contextlib.nullcontext():
                self._link.acknowledge(letters)
                for topic, frame, retain in batch.out:
                    self._link.publish(topic, frame, retain=retain)
        for (device, reason), times in batch.refusals.items():
            self._emit({"event": "refused", "device": device, "reason": reason, "times": times})
        for event in batch.events:
            self._emit(event)


@dataclass(slots=True)
class _Batch:
    """What a batch of events leads to, until `Aggregator._finish`."""

    counted: list[UploadRow] = field(default_factory=list)
    others: list[UploadRow] = field(default_factory=list)
    writes: list[Callable[[], None]] = field(default_factory=list)
    """Into the ledger, after the uploads, in this order."""
    refusals: dict[tuple[str, str], int] = field(default_factory=dict)
    """(device, reason) -> how often."""
    out: list[tuple[str, bytes, bool]] = field(default_factory=list)
    """Topic, frame, retained."""
    events: list[dict[str, Any]] = field(default_factory=list)
    durable: bool = False

    @property
    def to_write(self) -> bool:
        return bool(self.counted or self.others or self.writes or self.refusals)


def meter_to_plain(meter: Meter) -> dict[str, Any]:
    """For JSON: what a packet was for, and what the stream counts, by name. docs/bytes.md has the fields."""
    plain: dict[str, Any] = {
        name: dict(zip(METER_KINDS, getattr(meter, name).tolist(), strict=True))
        for name in ("packets_up", "packets_down", "payload_up", "payload_down", "mqtt_up", "mqtt_down")
    }
    stream = None if meter.stream is None else dict(zip(STREAM_COUNTS, meter.stream.tolist(), strict=True))
    names = ("connects", "cpu_s", "review_cpu_s", "elapsed_s")
    return plain | {"stream": stream} | {name: getattr(meter, name) for name in names}


def _finite(value: float) -> float | None:
    """JSON has no NaN: the accuracy of a device without test samples."""
    return value if math.isfinite(value) else None
