"""The shell of a device: files, clock and signals, and all that is done with the machines.

One thread does everything. The link (`edge.link`) is driven from here, so that between two training steps the client
can listen, and nothing is ever shared between threads. `Client` feeds what happens to `edge.session.step` and carries
out the actions that come back, in their order.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from edge import session as machine
from edge.learner import Classifier, Learner
from edge.link import IDLE_S, KEEPALIVE_S, Happening, Link
from edge.meter.journal import Journal, Line
from edge.meter.stream import Stream
from edge.meter.traffic import Account, Traffic, from_plain, meter, publish_bytes, to_plain
from edge.mqtt import Address, Arrival, parse_url
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

BETWEEN_STEPS_S = 0.05
"""How often the link is looked at while training: a look takes 20 us, a step of the smallest program 100 us."""
REST_S = 10.0
"""A hundred readings of most sensors: the mean of a board at rest (0.6 to 3.3 W, with steps of 5 %) to about 1 %."""
MOST_SEATS = 65536


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
        _ = self.address
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("a client certificate needs its key: give both --cert and --key")
        if not 5 <= self.keepalive_s <= 65535:
            raise ConfigurationError("keepalive: 5 to 65535 seconds")
        if not 0 <= self.power_rest_s <= 3600:
            raise ConfigurationError("power rest: 0 to 3600 seconds")

    @property
    def address(self) -> Address:
        """Raises ValueError on a URL that is none of a broker."""
        return replace(
            parse_url(self.broker),
            user=self.user,
            password=self.password,
            cafile=self.cafile,
            cert=self.cert,
            key=self.key,
        )


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
        self._journal = Journal(work.path)
        self._closed_round: tuple[int | None, int] | None = None
        self._loss = 0.0
        self._train_s = 0.0
        self._session = self._resume()
        self._leaving = ""
        self._looked_at_s = 0.0
        self._plan_topic = topics.plan(settings.fleet)
        self._upload_topic = topics.upload(settings.fleet, settings.device)
        self._parameters_topic = topics.parameters(settings.fleet)
        self._kinds: dict[str, tuple[type[Message], ...]] = {
            self._plan_topic: (Plan,),
            self._parameters_topic: (Parameters, FleetMemory, FleetPairs),
            topics.command(settings.fleet, settings.device): (Seat, Command),
        }
        self._power = _power_meter(settings)
        self._link = Link(
            settings.address,
            fleet=settings.fleet,
            device=settings.device,
            keepalive_s=settings.keepalive_s,
            traffic=self._traffic,
        )

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
        pending = "none" if session.pending is None else f"of round {session.pending.upload.round}"
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
            self._journal.close()
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
        if not isinstance(happening, Arrival):
            self._feed(happening)
            return
        message = self._read(happening)
        if message is None:
            return
        if isinstance(message, Plan):
            self._follow(message)
        self._feed(machine.Heard(message, happening.retained), heard_bytes=len(happening.payload))

    def _read(self, arrival: Arrival) -> Plan | Opening | Seat | Command | None:
        """The message, or None for a frame that is refused: counted, and logged once a reason."""
        if arrival.topic == self._parameters_topic:
            limit = self._learner.opening_limit()
        else:
            limit = plan_limit(self._learner.labels, MOST_SEATS)
        try:
            message = decode(arrival.payload, limit=limit)
            self._check(message, arrival.topic)
        except FrameError as refusal:
            if self._traffic.refuse(refusal.reason):
                LOG.warning("frame on %s refused: %s", arrival.topic, refusal)
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
            case machine.Send(frame, qos):
                self._send(frame, qos)
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
        self._traffic.restart(packet_bytes=packet_bytes, payload_bytes=heard_bytes, tls=self._link.tls)

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

    def _send(self, frame: bytes, qos: int) -> None:
        with self._link.together():
            self._link.acknowledge()
            self._link.publish(self._upload_topic, frame, qos=qos)

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
        line = Line(
            at=time.time(),
            run=self._session.run,
            round=round_,
            tls=self._link.tls,
            account=self._traffic.of_line(self._account()),
            energy=None if energy is None else energy.to_plain(),
        )
        try:
            self._journal.append(line)
        except OSError as problem:
            LOG.warning("%s: %s; the bytes of a round are not kept", self._journal.path, problem.strerror)

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
                traffic={"run": to_plain(self._traffic.of_run_lines()), "refused": self._traffic.refused},
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
