"""The shell of a device: the only module of `edge` that touches network, clock and signals.

One thread does everything. `Link` is paho-mqtt driven from outside (`loop_read`, `loop_write`, `loop_misc`), so that
between two training steps the client can listen, and nothing is ever shared between threads. `Client` feeds what
happens to `edge.session.step` and carries out the actions that come back, in their order.

Bytes on the link (docs/wire.md has the sums for a round):

- TCP_NODELAY: with Nagle's algorithm and the peer's delayed acknowledgement a round takes 40 ms longer.
- A message's PUBACK waits until the message has been acted on and leaves in one segment with the upload it caused
  (TCP_CORK): one Ethernet frame less up, and one acknowledgement less down, in every round.
- The parameters' topic is subscribed only while a plan's method sends them (FL, FLD).
"""

from __future__ import annotations

import logging
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge import session as machine
from edge.learner import Classifier, Learner
from edge.meter import journal
from edge.meter.stream import Stream, read_stream
from edge.meter.traffic import Account, Traffic, from_plain, meter, publish_bytes, to_plain
from edge.session import Action, Event, Session
from edge.store import Snapshot, WorkFolder
from edge.train import DivergedError
from edge.wire import topics
from edge.wire.codec import FrameError, Reason, decode, encode
from edge.wire.limits import plan_limit
from edge.wire.messages import (
    Birth,
    Command,
    FleetMemory,
    FleetPairs,
    Gone,
    Message,
    Opening,
    Parameters,
    Plan,
    Report,
    Seat,
)

if TYPE_CHECKING:
    from edge.meter.power.sampler import EnergyMeter

LOG = logging.getLogger("potstill.edge")

KEEPALIVE_S = 300
"""A PINGREQ, its answer and the TCP acknowledgement are 202 Ethernet bytes: at 300 s 40 bytes a minute while idle."""
SESSION_EXPIRY_S = 3600
"""How long a broker that can is asked to queue for an absent device; the retained plan covers a longer absence."""
BACKOFF_S = (1.0, 60.0)
"""Least and most between two attempts to connect, before jitter."""
CONNECT_TIMEOUT_S = 5.0
UNACKNOWLEDGED_MS = 60_000
"""A link on which sent bytes stay unacknowledged for this long is taken for dead (RFC 5482)."""
FAREWELL_S = 2.0
"""How long the client waits at its end for the broker to acknowledge `Gone`."""
BETWEEN_STEPS_S = 0.05
"""How often the link is looked at while training: a look takes 20 us, a step of the smallest program 100 us."""
IDLE_S = 30.0
"""How often the keepalive is looked at while nothing happens, at the least: a broker waits one and a half keepalives
(MQTT 5, section 3.1.2.10), so a short one is looked at every quarter of it."""
REST_S = 10.0
"""A hundred readings of most sensors: the mean of a board at rest (0.6 to 3.3 W, with steps of 5 %) to about 1 %."""
MOST_SEATS = 65536
_TAKEN_OVER = 0x8E  # MQTT 5, section 4.13: Session taken over
_LOST = (MQTTErrorCode.MQTT_ERR_CONN_LOST, MQTTErrorCode.MQTT_ERR_NO_CONN)


class ConfigurationError(ValueError):
    """This device cannot start like this; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one device process. All defaults stand here."""

    broker: str
    """mqtt://host[:1883] or mqtts://host[:8883]."""
    fleet: str
    device: str
    program: Path
    data: Path | None = None
    """This device's samples; None for an agent."""
    task: str | None = None
    """What an agent plays (`edge.wire.tasks`); its program is then a folder of two, actor and critic."""
    work: Path
    runtime: str | None = None
    """onnx, tflite, numpy or torch; None: the best that is installed."""
    profile: str = "unknown"
    power: str | None = None
    """The power sensor, as `potstill edge power` lists them; None: joules are not measured."""
    power_rate_hz: float | None = None
    """Readings a second; None: as the kind of sensor can."""
    power_rest_s: float = REST_S
    """How long the board is measured at rest before it connects; 0: no idle baseline."""
    keepalive_s: int = KEEPALIVE_S
    cafile: Path | None = None
    """The CA that signed the broker's certificate; None: the system's."""
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        topics.check_name(self.fleet, "fleet")
        topics.check_name(self.device, "device")
        parse_url(self.broker)
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("a client certificate needs its key: give both --cert and --key")
        if not 5 <= self.keepalive_s <= 65535:
            raise ConfigurationError("keepalive: 5 to 65535 seconds")
        if not 0 <= self.power_rest_s <= 3600:
            raise ConfigurationError("power rest: 0 to 3600 seconds")


class Address(NamedTuple):
    host: str
    port: int
    tls: bool


def parse_url(url: str) -> Address:
    """Raises ConfigurationError on anything but mqtt://host[:port] or mqtts://host[:port]."""
    wanted = "the broker is mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise ConfigurationError(f"{wanted}, not {url!r}") from problem
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("no password in the URL, where every user of this machine sees it: --credentials FILE")
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigurationError(f"{wanted}, not {url!r}")
    tls = parts.scheme == "mqtts"
    return Address(parts.hostname, port or (8883 if tls else 1883), tls)


def backoff_s(attempt: int, jitter: float) -> float:
    """Seconds before attempt 1, 2, ... to connect again: doubled each time, times 0.5 to 1.5 (jitter 0..1)."""
    least, most = BACKOFF_S
    return float(min(most, least * 2 ** min(attempt - 1, 16)) * (0.5 + jitter))


# ---------------------------------------------------------------- the link


class Incoming(NamedTuple):
    topic: str
    payload: bytes
    replay: bool
    """Retained, and sent because we subscribed."""


Happening: TypeAlias = machine.LinkUp | machine.LinkDown | Incoming


class _Metered(paho.Client):
    """paho, with every byte it gives to its socket and takes from it shown to the packet counters.

    TCP_INFO sees the stream and not the packets in it, TLS hides them, and paho tells of neither keepalives nor what
    it sends again: so they are counted where paho reads and writes (docs/adr/0024). Tests hold the sums against the
    kernel's.
    """

    def __init__(self, traffic: Traffic, client_id: str) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        self._counted = traffic

    def _sock_recv(self, bufsize: int) -> bytes:
        data = super()._sock_recv(bufsize)
        self._counted.heard.feed(data)
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        count = super()._sock_send(buf)
        self._counted.sent.feed(bytes(buf[:count]))
        return count


class Link:
    """One MQTT 5 connection that comes back by itself, and says so: `LinkUp` once subscribed, `LinkDown`."""

    def __init__(self, settings: Settings, traffic: Traffic) -> None:
        """Raises ConfigurationError if the TLS files cannot be read. Connects at the first `poll`."""
        self._address = parse_url(settings.broker)
        self._traffic = traffic
        self._parameters_topic = topics.parameters(settings.fleet)
        self._filters = {
            topics.plan(settings.fleet): _keep_retained(),
            topics.command(settings.fleet, settings.device): _keep_retained(),
        }
        self._happened: list[Happening] = []
        self._unacknowledged: list[int] = []
        self._outstanding: set[int] = set()
        self._subscribing: int | None = None
        self._up = False
        self._closing = False
        self._attempt = 0
        self._retry_at_s = 0.0
        self._idle_s = min(IDLE_S, settings.keepalive_s / 4)
        self._mqtt = self._client(settings)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def _client(self, settings: Settings) -> paho.Client:
        client = _Metered(self._traffic, f"{settings.fleet}.{settings.device}")  # rumqttd refuses one with a slash
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.will_set(topics.birth(settings.fleet, settings.device), encode(Gone()), qos=1, retain=True)
        if settings.user is not None:
            client.username_pw_set(settings.user, settings.password)
        if self._address.tls:
            client.tls_set_context(_tls_context(settings))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        client.connect_async(
            self._address.host,
            self._address.port,
            keepalive=settings.keepalive_s,
            clean_start=False,
            properties=properties,
        )
        return client

    # ------------------------------------------------------------ for the client

    @property
    def tls(self) -> bool:
        return self._address.tls

    @property
    def wake_fd(self) -> int:
        """A byte written here ends a waiting `poll`; it is where Python reports signals."""
        return self._wake_writer.fileno()

    def poll(self, timeout_s: float) -> list[Happening]:
        """What has happened, after waiting for it for at most `timeout_s`. Connects where there is no connection."""
        connection = self._mqtt.socket()
        if connection is None:
            self._connect_or_wait(timeout_s)
        else:
            self._exchange(connection, timeout_s)
        happened, self._happened = self._happened, []
        return happened

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        info = self._mqtt.publish(topic, payload, qos=qos, retain=retain)
        if info.rc in _LOST:  # the next poll finds out, and paho sends what has a QoS again on the next connection
            return
        if qos and not info.is_published():
            self._outstanding.add(info.mid)

    def acknowledge(self) -> None:
        """Everything heard so far has been acted on. In the order of arrival, as brokers want it (rumqttd insists)."""
        heard, self._unacknowledged = self._unacknowledged, []
        for mid in heard:
            self._mqtt.ack(mid, 1)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is published and acknowledged within leaves in as few segments as it fits in."""
        connection = self._mqtt.socket()
        _cork(connection, on=True)
        try:
            yield
        finally:
            _cork(connection, on=False)

    def want_parameters(self, *, wanted: bool, now: bool) -> None:
        """Subscribe to the parameters' topic or leave it; `now`: those retained on the broker are needed."""
        topic = self._parameters_topic
        if wanted == (topic in self._filters):
            return
        if wanted:
            self._filters[topic] = _keep_retained()  # after a reconnect it may be the next round's: asked for then
            self._mqtt.subscribe(topic, options=_keep_retained() if now else _without_retained())
        else:
            del self._filters[topic]
            self._mqtt.unsubscribe(topic)

    def stream(self) -> Stream | None:
        """Of the connection that is open now, zeros if there is none; None where the kernel does not say."""
        connection: Any = self._mqtt.socket()
        return Stream() if connection is None else read_stream(connection)

    def part(self, topic: str, farewell: bytes) -> None:
        """Publish a retained farewell, wait for its acknowledgement, disconnect without setting off the will."""
        if self._up:
            self.acknowledge()
            self.publish(topic, farewell, qos=1, retain=True)
            end_s = time.monotonic() + FAREWELL_S
            while self._outstanding and self._up and time.monotonic() < end_s:
                self.poll(0.1)
            self._closing = True
            self._mqtt.disconnect()

    def close(self) -> None:
        """Let go of every socket; a connection that is still open is broken off, and the broker sends the will."""
        connection = self._mqtt.socket()
        if connection is not None:
            connection.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # ------------------------------------------------------------ network

    def _connect_or_wait(self, timeout_s: float) -> None:
        wait_s = self._retry_at_s - time.monotonic()
        if wait_s > 0:
            self._wait([], [], min(timeout_s, wait_s))
            return
        try:
            self._mqtt.reconnect()
        except OSError as problem:
            self._traffic.failed += 1
            self._try_later(f"cannot connect to {self._address.host}:{self._address.port}: {problem}")

    def _exchange(self, connection: Any, timeout_s: float) -> None:
        pending = self._address.tls and connection.pending() > 0
        writing = [connection] if self._mqtt.want_write() else []
        readable, writable = self._wait([connection], writing, 0.0 if pending else min(timeout_s, self._idle_s))
        if pending or connection in readable:
            self._mqtt.loop_read()
        if connection in writable or (self._mqtt.socket() is connection and self._mqtt.want_write()):
            self._mqtt.loop_write()
        self._mqtt.loop_misc()

    def _wait(self, reading: list[Any], writing: list[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        readable, writable, _ = select.select([*reading, self._wake_reader], writing, [], max(0.0, timeout_s))
        if self._wake_reader in readable:
            self._wake_reader.recv(4096)
        return readable, writable

    def _try_later(self, why: str) -> None:
        self._attempt += 1
        wait_s = backoff_s(self._attempt, random.random())
        self._retry_at_s = time.monotonic() + wait_s
        LOG.warning("%s; trying again in %.1f s", why, wait_s)

    # ------------------------------------------------------------ paho's callbacks

    def _on_socket_open(self, _client: paho.Client, _userdata: Any, connection: Any) -> None:
        self._traffic.connects += 1
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)

    def _on_socket_close(self, _client: paho.Client, _userdata: Any, connection: Any) -> None:
        self._traffic.disconnected(read_stream(connection, closing=True))

    def _on_connect(
        self, client: paho.Client, _userdata: Any, flags: Any, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            LOG.error("the broker refuses this device: %s; check its name, password and certificate", reason)
            return
        if flags.session_present and self._parameters_topic not in self._filters:
            client.unsubscribe(self._parameters_topic)  # the broker's session may be of an FL run before a restart
        _, self._subscribing = client.subscribe(list(self._filters.items()))

    def _on_subscribe(
        self, _client: paho.Client, _userdata: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                LOG.error("the broker refuses a subscription: %s; check its access rules for this device", reason)
        if mid == self._subscribing:
            self._subscribing, self._up, self._attempt = None, True, 0
            self._traffic.subscribed(self.stream())
            self._happened.append(machine.LinkUp())

    def _on_disconnect(
        self, _client: paho.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if self._up:
            self._happened.append(machine.LinkDown())
        self._up = False
        if self._closing:
            return
        self._unacknowledged.clear()  # the broker sends them again; on a new connection these numbers mean nothing
        self._outstanding.clear()
        if reason.value == _TAKEN_OVER:
            LOG.error("another client has this device's name: give every device its own --device")
        self._try_later(f"the connection is gone ({reason})")

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        if message.qos:
            self._unacknowledged.append(message.mid)
        self._happened.append(Incoming(message.topic, bytes(message.payload), message.retain))

    def _on_publish(
        self, _client: paho.Client, _userdata: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._outstanding.discard(mid)
        if reason.is_failure:
            LOG.error("the broker refuses a message: %s; check its access rules and limits", reason)


def _keep_retained() -> SubscribeOptions:
    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)


def _without_retained() -> SubscribeOptions:
    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)


def _cork(connection: Any, *, on: bool) -> None:
    """Linux; elsewhere the packets go one by one. A connection that has died meanwhile is found by the next poll."""
    if connection is None or not hasattr(socket, "TCP_CORK"):
        return
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, int(on))
    except OSError as problem:
        LOG.debug("cork: %s", problem)


def _tls_context(settings: Settings) -> Any:
    import ssl

    try:
        context = ssl.create_default_context(cafile=None if settings.cafile is None else str(settings.cafile))
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except OSError as problem:
        files = ", ".join(str(file) for file in (settings.cafile, settings.cert, settings.key) if file is not None)
        raise ConfigurationError(f"TLS: cannot use {files}: {problem}") from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


# ---------------------------------------------------------------- the client


class Client:
    """One device, from its files and its disk to its farewell."""

    def __init__(self, settings: Settings, work: WorkFolder) -> None:
        """Loads program, runtime, data and what is on the disk. Raises ValueError that says what to change."""
        self._settings = settings
        self._work = work
        self._name = f"{settings.fleet}/{settings.device}"
        self._learner = _learner(settings)
        LOG.info("%s: %s", self._name, self._learner.about)
        self._started_s = time.monotonic()
        self._traffic = Traffic()
        self._closed_round: tuple[int | None, int] | None = None
        self._loss = 0.0
        self._train_s = 0.0
        self._session = self._resume()
        self._leaving = ""
        self._looked_at_s = 0.0
        self._plan_topic = topics.plan(settings.fleet)
        self._parameters_topic = topics.parameters(settings.fleet)
        self._kinds: dict[str, tuple[type[Message], ...]] = {
            self._plan_topic: (Plan,),
            self._parameters_topic: (Parameters, FleetMemory, FleetPairs),
            topics.command(settings.fleet, settings.device): (Seat, Command),
        }
        self._power = _power_meter(settings)
        self._link = Link(settings, self._traffic)

    def _resume(self) -> Session:
        saved, warning = self._work.load(self._name)
        if warning:
            LOG.warning("%s", warning)
        if saved is None:
            return machine.start(None, program=self._learner.program)
        session = machine.start(saved.session, program=self._learner.program)
        if session.run is None:
            if saved.session.get("run") is not None:
                LOG.warning("the saved run is of another program or release; %s, starting anew", self._work.set_aside())
            return session
        self._learner.runtime.set_state(saved.state)
        self._loss, self._train_s = saved.loss, saved.train_s
        self._resume_counters(saved.traffic)
        pending = "none" if session.pending is None else f"of round {session.pending.round}"
        LOG.info(
            "taken up from disk: run %s, round %d done, pending upload %s", session.run, session.completed, pending
        )
        return session

    def _resume_counters(self, plain: dict[str, Any]) -> None:
        try:
            saved = from_plain(plain["run"])
            self._traffic.refused = {str(reason): int(times) for reason, times in plain["refused"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            LOG.warning("the byte counts on the disk are of another version (%r): they begin anew", problem)
            return
        now = self._traffic.account(Stream(), cpu_s=time.process_time(), now_s=0.0)
        self._traffic.resume(now, saved)

    def run(self) -> None:
        """Until a STOP, SIGTERM or SIGINT. Whatever ends it, the disk holds the last finished round."""
        try:
            with _signals(self._link.wake_fd, self._leave):
                self._measure()
                self._serve()
        finally:
            self._write_line(None)
            self._link.close()
            if self._power is not None:
                self._power.close()
        LOG.info("%s: left (%s)", self._name, self._leaving)

    def _measure(self) -> None:
        """From here on the sensor is read, if there is one; first at rest, with nothing else going on."""
        if self._power is None:
            return
        rest_s = self._settings.power_rest_s
        if rest_s:
            LOG.info("%s: measuring %s at rest for %g s", self._name, self._power.sensor, rest_s)
            idle_w = self._power.rest(rest_s, go_on=lambda: not self._leaving)
            LOG.info("%s: %.3f W at rest", self._name, idle_w)
        self._power.start()

    def _serve(self) -> None:
        try:
            while not self._leaving:
                for happening in self._link.poll(IDLE_S):
                    if not self._leaving:
                        self._handle(happening)
                self._link.acknowledge()
        finally:
            self._link.part(topics.birth(self._settings.fleet, self._settings.device), encode(Gone()))

    def _leave(self, reason: str) -> None:
        self._leaving = self._leaving or reason

    # ------------------------------------------------------------ events

    def _handle(self, happening: Happening) -> None:
        if not isinstance(happening, Incoming):
            self._feed(happening)
            return
        message = self._read(happening)
        if message is None:
            return
        if isinstance(message, Plan):
            self._follow(message)
        self._feed(machine.Heard(message, happening.replay), heard_bytes=len(happening.payload))

    def _read(self, incoming: Incoming) -> Plan | Opening | Seat | Command | None:
        """The message, or None for a frame that is refused: counted, and logged once a reason."""
        if incoming.topic == self._parameters_topic:
            limit = self._learner.opening_limit()
        else:
            limit = plan_limit(self._learner.labels, MOST_SEATS)
        try:
            message = decode(incoming.payload, limit=limit)
            self._check(message, incoming.topic)
        except FrameError as refusal:
            if self._traffic.refuse(refusal.reason):
                LOG.warning("frame on %s refused: %s", incoming.topic, refusal)
            return None
        assert isinstance(message, Plan | Opening | Seat | Command)
        return message

    def _check(self, message: Message, topic: str) -> None:
        """What only a device that knows its topics and what it learns can see. Raises FrameError."""
        if not isinstance(message, self._kinds.get(topic, ())):
            raise FrameError(Reason.UNEXPECTED, f"{type(message).__name__} on {topic}")
        if isinstance(message, Plan | Opening):
            self._learner.check(message)

    def _follow(self, plan: Plan) -> None:
        """Hear what opens a round while the method has such: it is as large as all else in many rounds together."""
        ours = plan.program == self._session.program
        opens = plan.method.sends_parameters or plan.method.sends_memory
        wanted = ours and opens and not (plan.done and plan.run != self._session.run)
        self._link.want_parameters(wanted=wanted, now=plan.round > 0)

    def _feed(self, event: Event, *, heard_bytes: int = 0) -> None:
        self._session, actions = machine.step(self._session, event)
        for action in actions:
            if self._leaving:
                return
            self._carry_out(action, heard_bytes)

    def _between_steps(self) -> bool:
        """Whether to go on training; now and then looks what has arrived."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s >= BETWEEN_STEPS_S:
            self._looked_at_s = now_s
            for happening in self._link.poll(0.0):
                self._handle(happening)
        return not self._leaving

    # ------------------------------------------------------------ actions

    def _carry_out(self, action: Action, heard_bytes: int) -> None:
        match action:
            case machine.Announce():
                self._announce()
            case machine.Reset():
                self._reset(heard_bytes)
            case machine.Adopt(parameters):
                self._learner.runtime.set_parameters(parameters)
            case machine.Review(run, round_):
                self._review(run, round_)
            case machine.Train():
                self._close_round(self._session.completed)
                self._train(action)
            case machine.Send(upload, qos):
                self._send(upload, qos)
            case machine.Save():
                self._save()
            case machine.Note(text):
                LOG.warning("%s", text)
            case machine.Leave(reason):
                self._leave(reason)

    def _announce(self) -> None:
        birth = Birth(
            profile=self._settings.profile,
            runtime=self._learner.runtime.name,
            version=version("potstill"),
            program=self._learner.program,
            schema=self._learner.schema,
            samples=self._learner.samples(),
        )
        self._publish(topics.birth(self._settings.fleet, self._settings.device), birth, qos=1, retain=True)

    def _reset(self, heard_bytes: int) -> None:
        self._learner.runtime.reset()
        self._loss = self._train_s = 0.0
        self._write_line(None)
        packet_bytes = publish_bytes(topic=self._plan_topic, payload_bytes=heard_bytes, qos=1)
        self._traffic.restart(self._account(), packet_bytes=packet_bytes, payload_bytes=heard_bytes, tls=self._link.tls)

    def _train(self, action: machine.Train) -> None:
        plan = action.plan
        started_s = time.monotonic()
        LOG.debug("run %d round %d: training", plan.run, plan.round)
        try:
            result = self._learner.train(action, self._settings.device, self._between_steps)
        except DivergedError as problem:
            raise ConfigurationError(f"run {plan.run}, round {plan.round}: {problem}") from problem
        if result is None:
            return
        self._loss, self._train_s = result.loss, time.monotonic() - started_s
        LOG.info(
            "run %d round %d: %d steps in %.2f s, loss %.4f",
            plan.run,
            plan.round,
            plan.steps,
            self._train_s,
            self._loss,
        )
        self._feed(machine.Trained(plan.run, plan.round, result.upload))

    def _send(self, upload: Message, qos: int) -> None:
        with self._link.together():
            self._link.acknowledge()
            self._publish(topics.upload(self._settings.fleet, self._settings.device), upload, qos=qos)

    def _review(self, run: int, round_: int) -> None:
        """Meter and report of the round that is over, as it stood before either of them."""
        self._close_round(round_)
        counted = self._traffic.of_run(self._account())
        topic = topics.report(self._settings.fleet, self._settings.device)
        self._publish(topic, meter(counted, run=run, round_=round_), qos=1)
        stream_up, stream_down = counted.stream_without_reports(tls=self._link.tls)
        report = Report(
            run=run,
            round=round_,
            accuracy=self._accuracy(),
            loss=self._loss,
            payload_up=counted.payload_up,
            payload_down=counted.payload_down,
            stream_up=stream_up,
            stream_down=stream_down,
            train_s=self._train_s,
        )
        self._publish(topic, report, qos=1)

    def _accuracy(self) -> float:
        before_s = time.process_time()
        found = self._learner.score()
        self._traffic.review_cpu_s += time.process_time() - before_s
        return found

    # ------------------------------------------------------------ counters

    def _account(self) -> Account:
        """Everything since the process began."""
        now_s = time.monotonic() - self._started_s
        return self._traffic.account(self._link.stream(), cpu_s=time.process_time(), now_s=now_s)

    def _close_round(self, round_: int) -> None:
        """The plan after this round has been heard: what was counted until now is the round's. Once a round."""
        if round_ >= 0 and self._closed_round != (self._session.run, round_):
            self._closed_round = self._session.run, round_
            self._write_line(round_)

    def _write_line(self, round_: int | None) -> None:
        energy = None if self._power is None else self._power.mark()
        if energy is not None and round_ is not None:
            LOG.info("run %s round %d: %s", self._session.run, round_, energy)
        line = journal.Line(
            at=time.time(),
            run=self._session.run,
            round=round_,
            tls=self._link.tls,
            account=self._traffic.of_line(self._account()),
            energy=None if energy is None else energy.to_plain(),
        )
        try:
            journal.append(self._work.path, line)
        except OSError as problem:
            LOG.warning("%s: %s; the bytes of a round are not kept", self._work.path / journal.FILE, problem.strerror)

    def _publish(self, topic: str, message: Message, *, qos: int, retain: bool = False) -> None:
        self._link.publish(topic, encode(message), qos=qos, retain=retain)

    def _save(self) -> None:
        plan = self._session.plan
        if plan is not None and plan.done:
            self._close_round(plan.round - 1)
        self._work.save(
            Snapshot(
                device=self._name,
                session=machine.snapshot(self._session),
                state=self._learner.runtime.state(),
                traffic={"run": to_plain(self._traffic.of_run(self._account())), "refused": self._traffic.refused},
                loss=self._loss,
                train_s=self._train_s,
            )
        )


def _learner(settings: Settings) -> Learner:
    """Raises ValueError that says what to change."""
    if settings.task is not None:
        from edge.agent.learner import Agent

        return Agent(settings.program, settings.task, settings.runtime)
    if settings.data is None:
        raise ConfigurationError("a device needs samples (--data), an agent a task (potstill edge agent)")
    return Classifier(settings.program, settings.data, settings.runtime)


def _power_meter(settings: Settings) -> EnergyMeter | None:
    """None where joules are not to be measured: then nothing of it is imported. Raises SensorMissing, a ValueError."""
    if settings.power is None:
        return None
    from edge.meter.power.choose import open_sensor
    from edge.meter.power.sampler import EnergyMeter, default_rate_hz

    sensor = open_sensor(settings.power, broker=settings.broker)
    return EnergyMeter(sensor, rate_hz=settings.power_rate_hz or default_rate_hz(settings.power))


def run(settings: Settings) -> None:
    """One device, until it is told to stop. Raises ValueError or WorkFolderError that say what to change."""
    work = WorkFolder(settings.work)
    try:
        Client(settings, work).run()
    finally:
        work.close()


@contextmanager
def _signals(wake_fd: int, leave: Callable[[str], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the client in good order; a waiting `poll` wakes."""

    def handler(number: int, _frame: FrameType | None) -> None:
        leave(signal.Signals(number).name)

    before_fd = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, old in before.items():
            signal.signal(number, old)
