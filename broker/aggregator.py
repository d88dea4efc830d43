"""The aggregator's shell: the one module of this package that touches the network and reads a clock.

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
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker import admit
from broker.ledger import Ledger, Run, UploadRow
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
from edge.wire.codec import FrameError, Reason, decode, encode
from edge.wire.messages import (
    METER_KINDS,
    STREAM_COUNTS,
    Birth,
    Command,
    Gone,
    Message,
    Meter,
    Method,
    Opening,
    Order,
    Plan,
    Seat,
)

if TYPE_CHECKING:
    from broker.conversion import Converter

CONVERSION_S = 0.02
"""For how long a conversion may go on between two looks at the network."""

BATCH = 500
"""Messages a transaction at most: at 500 the commit's share of a message is 1 us (benchmarks/bench_aggregator.py)."""

KEEPALIVE_S = 30
SESSION_S = 86400
"""For how long a broker keeps the uploads that arrive while the aggregator is away."""

RETRY_S = (0.05, 2.0)
"""First and longest pause between two attempts to connect."""

BRIEF_S, MOST_BRIEF = 2.0, 5
"""So many connections in a row, each shorter than this: somebody with our client identifier takes them. Mosquitto
2.0.11 and rumqttd 0.20 close the older connection without MQTT 5's word for it (0x8E)."""

REPORT_PATIENCE_S = 30.0
"""How long after the last plan, or the last report, the run's end waits for another report."""

NAMES = 4096
"""Different (device, reason) that refusals are counted by; beyond, the device is "*": names cost memory."""

Emit: TypeAlias = Callable[[dict[str, Any]], None]


class BrokerError(Exception):
    """The MQTT broker cannot be reached or does not let us in; the message says what to do."""


# ---------------------------------------------------------------- the link


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the broker is and how to be let in."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = None
    cafile: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def parse_url(url: str) -> Address:
    """`mqtt://host[:1883]` or `mqtts://host[:8883]`. Raises ValueError that says what is wrong."""
    parts = urlsplit(url)
    if parts.username is not None:
        raise ValueError("a password in a URL is seen by everybody on this machine: --username and --password-file")
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.path not in {"", "/"}:
        raise ValueError(f"broker {url!r}: write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")
    tls = parts.scheme == "mqtts"
    return Address(
        host=parts.hostname,
        port=parts.port or (8883 if tls else 1883),
        tls=tls,
    )


class Letter(NamedTuple):
    """One message as it came, not yet acknowledged."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    connection: int
    """Counts connections: a message identifier means nothing to the next one."""


class Link:
    """A paho client driven from one thread: nothing happens outside `poll`, `settle` and `close`.

    `resumable` keeps the broker's queue for this client identifier (from before, and for later).
    """

    def __init__(self, address: Address, client_id: str, filters: list[str], *, resumable: bool) -> None:
        self._address = address
        self._filters = filters
        self._client = _client(address, client_id)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._resumable = resumable
        self._poll = select.poll()
        self._inbox: deque[Letter] = deque()
        self._unsent: deque[mqtt.MQTTMessageInfo] = deque()
        self._connection = 0
        self._came_up = False
        self._failure: str | None = None
        self._retry_at = 0.0
        self._pause_s = RETRY_S[0]
        self._tried_at = 0.0
        self._brief = 0

    # ---- callbacks, all from within poll

    def _on_connect(
        self, client: mqtt.Client, _user: object, _flags: mqtt.ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        if code.is_failure:
            self._failure = f"it refuses us: {code} (see --username, --password-file, --cert)"
            return
        self._connection += 1
        client.subscribe([(name, SubscribeOptions(qos=1)) for name in self._filters])

    def _on_subscribe(
        self, _client: mqtt.Client, _user: object, _mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        if any(code.is_failure for code in codes):
            self._failure = "it does not let us subscribe: see the aggregator's access rights"
        self._came_up = True

    def _on_disconnect(
        self, _client: mqtt.Client, _user: object, _flags: mqtt.DisconnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        if code.value == _TAKEN_OVER:
            self._failure = "another aggregator of this fleet has connected: only one may run"
        brief = time.monotonic() - self._tried_at < BRIEF_S
        self._brief = self._brief + 1 if brief else 0
        if not brief:
            self._pause_s = RETRY_S[0]
        if self._brief == MOST_BRIEF:
            self._failure = (
                f"the connection was lost {MOST_BRIEF} times as soon as it was up: is there another aggregator of this "
                f"fleet? only one may run{_certificate_hint(self._address)}"
            )

    def _on_message(self, _client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        self._inbox.append(Letter(message.topic, bytes(message.payload), message.mid, message.qos, self._connection))

    # ---- what the aggregator calls

    def connect(self) -> None:
        """Raises `BrokerError` when nobody answers."""
        a, properties = self._address, _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_S
        properties.ReceiveMaximum = 65535
        self._tried_at = time.monotonic()
        try:
            self._client.connect(a.host, a.port, KEEPALIVE_S, clean_start=not self._resumable, properties=properties)
        except (OSError, ValueError) as problem:
            raise BrokerError(f"no broker at {a.host}:{a.port} ({problem}): is it running, and the URL right?") from (
                problem
            )
        if self._client.socket() is None:
            raise BrokerError(f"broker at {a.host}:{a.port}: it closes the connection at once{_certificate_hint(a)}")
        self._watch()

    def poll(self, timeout_s: float) -> bool:
        """Wait for something to read, read it, write what waits. True when the link has just come up.

        Raises `BrokerError` for what will not pass by itself.
        """
        if self._client.socket() is None:
            self._reconnect(timeout_s)
        else:
            self._exchange(timeout_s)
        if self._failure is not None:
            raise BrokerError(f"broker at {self._address.host}:{self._address.port}: {self._failure}")
        came_up, self._came_up = self._came_up, False
        return came_up

    def letters(self) -> list[Letter]:
        """At most BATCH, in order."""
        return [self._inbox.popleft() for _ in range(min(BATCH, len(self._inbox)))]

    @property
    def more(self) -> bool:
        """Whether letters wait."""
        return bool(self._inbox)

    def acknowledge(self, letters: list[Letter]) -> None:
        for letter in letters:
            if letter.qos and letter.connection == self._connection:
                self._client.ack(letter.mid, letter.qos)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """At QoS 1; written at once as far as the socket takes it."""
        while self._unsent and self._unsent[0].is_published():
            self._unsent.popleft()
        self._unsent.append(self._client.publish(topic, payload, 1, retain))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside leaves in as few segments as it fits (TCP_CORK, where there is one)."""
        sock = self._client.socket()
        cork = getattr(socket, "TCP_CORK", None)
        if cork is None or not isinstance(sock, socket.socket):
            yield
            return
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, cork, 1)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, cork, 0)

    def settle(self, timeout_s: float) -> bool:
        """Until the broker has acknowledged all that was published. False after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while any(not info.is_published() for info in self._unsent):
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.poll(min(left, 0.1))
        return True

    def close(self, *, forget: bool) -> None:
        """`forget`: the broker may drop this client's session."""
        if self._client.socket() is None:
            return
        properties = _properties(PacketTypes.DISCONNECT)
        properties.SessionExpiryInterval = 0 if forget else SESSION_S
        self._client.disconnect(properties=properties)
        end = time.monotonic() + 1.0
        while self._client.socket() is not None and time.monotonic() < end:
            self._exchange(0.05)

    # ---- inside

    def _watch(self) -> None:
        sock = self._client.socket()
        assert sock is not None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def _reconnect(self, timeout_s: float) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            time.sleep(min(self._retry_at - now, timeout_s))
            return
        self._tried_at, self._retry_at = now, now + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])
        with contextlib.suppress(OSError):
            self._client.reconnect()
            if self._client.socket() is not None:
                self._watch()

    def _exchange(self, timeout_s: float) -> None:
        client, inbox = self._client, self._inbox
        sock = client.socket()
        assert sock is not None
        if client.want_write():
            self._poll.modify(sock, select.POLLIN | select.POLLOUT)
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
        ready = self._poll.poll(0 if pending else max(0.0, timeout_s) * 1000)
        if client.want_write():
            client.loop_write()
            if client.socket() is sock:
                self._poll.modify(sock, select.POLLIN)
        while (ready or pending) and len(inbox) < BATCH:
            before = len(inbox)
            if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return  # the link is down, and on_disconnect has been called
            if len(inbox) == before and not self._poll.poll(0):
                break
        client.loop_misc()


_TAKEN_OVER = 0x8E
"""MQTT 5 reason code of DISCONNECT: session taken over."""


def _certificate_hint(address: Address) -> str:
    """TLS 1.3 lets a client find out only after its handshake that it lacks a certificate."""
    return "; or does it want a certificate? give --cert and --key" if address.tls and address.cert is None else ""


def _client(address: Address, client_id: str) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, manual_ack=True)
    client.on_socket_open = _no_delay
    client.connect_timeout = 5.0
    if address.username is not None:
        client.username_pw_set(address.username, address.password)
    if address.tls:
        client.tls_set(
            ca_certs=str(address.cafile) if address.cafile else None,
            certfile=str(address.cert) if address.cert else None,
            keyfile=str(address.key) if address.key else None,
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
    return client


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]


def _no_delay(_client: mqtt.Client, _user: object, sock: Any) -> None:
    """Without it a plan waits up to 40 ms behind an acknowledgement (Nagle and delayed ACK)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# ---------------------------------------------------------------- the run


def filters(fleet: str) -> list[str]:
    """What an aggregator's link subscribes to."""
    return [topics.every_upload(fleet), topics.every_birth(fleet), topics.every_report(fleet)]


def client_id(fleet: str) -> str:
    """One a fleet: a second aggregator takes the first one's connection, which then ends with an error."""
    return f"ps-{fleet}-aggregator"


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
        self._batch.refusals[key] += 1

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
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
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


# ---------------------------------------------------------------- orders


def order(link: Link, fleet: str, devices: list[str], what: Order) -> None:
    """Give devices an order, whether a run is under way or not. Raises `BrokerError`."""
    for device in devices:
        link.publish(topics.command(fleet, device), encode(Command(order=what)))
    if not link.settle(5.0):
        raise BrokerError("the broker has not acknowledged the order within 5 s: is it overloaded?")


def present_devices(link: Link, *, quiet_s: float = 0.3) -> list[str]:
    """Devices whose birth the broker retains, by name; `link` subscribes to `topics.every_birth`.

    Retained messages follow the subscription at once; no more are waited for after `quiet_s` without one.
    """
    found: dict[str, bool] = {}
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        if link.poll(0.05):
            until = min(until, time.monotonic() + quiet_s)
        for letter in link.letters():
            link.acknowledge([letter])
            with contextlib.suppress(ValueError, FrameError):
                message = decode(letter.payload, limit=2**16)
                found[topics.parse_device(letter.topic)] = not isinstance(message, Gone)
                until = time.monotonic() + quiet_s
    return sorted(device for device, here in found.items() if here)
