"""Both machines, joined by an in-memory broker that drops, delays and repeats, under crashes on either side.

`World` is a fleet: devices with disks, a broker that retains, an aggregator with a ledger. Its moves are what can
happen; every move checks what must hold. Two drivers make the moves: hypothesis, which looks for short failing
histories, and a seeded random walk, which sees many more. Each history ends with `heal`: the links return, whoever
crashed restarts, and the run has to end.

What must hold:
- no round counts a device twice, and every upload recorded as counted is in the cohort of the next plan;
- every upload that reaches the aggregator is recorded exactly once a delivery, before anything else happens;
- the plan's logits (FD, share) or the parameters (FL) are the mean over the counted uploads, computed independently;
- the plan's labels (share) are the vote of the cohort, and a device trains on none but those that were published;
- a conversion (FLD) is given the cohort's mean logits and every device's first seeds, through any number of restarts,
  and a device gives its seeds with every upload until one has counted;
- a device's teacher is the mean over the other devices of the cohort; it adopts the parameters of its round;
- a device sends only what its disk has; its model never trains a round twice, through any number of restarts;
- the aggregator never waits past its deadline, and once all is healed the run ends.

Letters: D devices, L labels.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import broker.round as aggregator
import edge.session as device_machine
from broker.settings import RunSettings
from edge.wire.codec import decode
from edge.wire.labels import pack_labels, read_labels
from edge.wire.messages import (
    SEEDED,
    AnyUpload,
    Birth,
    Done,
    Gone,
    LabelUpload,
    Method,
    Parameters,
    ParameterUpload,
    Plan,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import FldOptions, Options, ShareOptions
from edge.wire.rows import code_rows

PROGRAM, SCHEMA, L = b"prog", b"labs", 3
TOLERANCE = 1e-5  # of float32 rows, taken apart and put together again
MOST_DEVICES = 5
MOST_DELIVERIES = 2000
METHODS = (Method.FD, Method.FL, Method.ALONE, Method.SHARE, Method.FLD, Method.MIX2FLD)
SHARE = ShareOptions(inputs=4, buffer=1, warm_up=1)
OPTIONS: dict[Method, Options] = {Method.SHARE: SHARE, **dict.fromkeys(SEEDED, FldOptions(seeds=2))}
BIRTH = Birth(profile="", runtime="numpy", version="0", program=PROGRAM, schema=SCHEMA, samples=np.ones(L, np.uint32))


@dataclass
class Device:
    name: str
    session: device_machine.Session | None = None
    """None: the process is dead."""
    disk: tuple[dict[str, Any], tuple[tuple[int, int], ...]] | None = None
    """Snapshot and, for the model, the (run, round)s it was trained in."""
    trained: tuple[tuple[int, int], ...] = ()
    task: Plan | None = None
    gives: bool = False
    """Whether the task's upload is to bring seeds."""
    linked: bool = False
    air: deque[tuple[AnyUpload | Birth | Gone, int]] = field(default_factory=deque)
    """On its way to the broker, with its QoS."""
    inbox: deque[tuple[Any, bool]] = field(default_factory=deque)
    """On its way from the broker, and whether as a replay."""
    uplink: deque[AnyUpload | Birth | Gone] = field(default_factory=deque)
    """At the broker, on its way to the aggregator: in order for a device, in any order across devices."""


@dataclass
class Ledger:
    seats: dict[str, int] = field(default_factory=dict)
    plan: Plan | None = None
    parameters: Parameters | None = None
    counted: dict[int, dict[str, AnyUpload]] = field(default_factory=dict)
    """Round -> device -> upload."""
    closed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    end: aggregator.End | None = None


class World:
    def __init__(self, method: Method, *, devices: int, quorum: int, qos: int, extensions: int) -> None:
        self.now, self.method = 0.0, method
        self.wanted = {"devices": devices, "quorum": quorum, "qos": qos, "extensions": extensions}
        self.devices = [Device(f"d{number}") for number in range(MOST_DEVICES)]
        self.retained_births: dict[str, Birth | Gone] = {}
        self.retained_plan: Plan | None = None
        self.retained_parameters: Parameters | None = None
        self.ledgers: dict[int, Ledger] = {}
        self.state: aggregator.RoundState | None = None
        self.converting: aggregator.Convert | None = None
        """In the aggregator's memory alone."""
        self.labels: dict[tuple[int, int], bytes] = {}
        """(run, round) -> the fleet's labels of its shared inputs."""
        self.run = 0
        self.open_run()
        for device in self.devices[:devices]:
            self.start(device)
            self.connect(device)

    # ------------------------------------------------------------ the aggregator

    @property
    def ledger(self) -> Ledger:
        return self.ledgers[self.run]

    @property
    def settings(self) -> RunSettings:
        return RunSettings(
            run=self.run, program=PROGRAM, schema=SCHEMA, labels=L, parameters=2, method=self.method, rounds=3, bits=32,
            deadline_s=10.0, start_deadline_s=30.0, devices=self.wanted["devices"], quorum=self.wanted["quorum"],
            qos=self.wanted["qos"], extensions=self.wanted["extensions"], size=2, options=OPTIONS.get(self.method),
        )  # fmt: skip

    def open_run(self) -> None:
        """The first run, or the next one after an end."""
        self.run += 1
        self.converting = None
        self.ledgers[self.run] = Ledger()
        self.state, actions = aggregator.open_run(self.settings, self.now)
        assert actions == []
        self.subscribe(keep=False)

    def subscribe(self, *, keep: bool) -> None:
        """The aggregator's link is up; `keep`: the broker had queued for it. Births are retained."""
        for device in self.devices:
            if not keep:
                device.uplink.clear()
            if device.name in self.retained_births:
                device.uplink.append(self.retained_births[device.name])
        self.feed([aggregator.LinkUp()])

    def feed(self, events: list[aggregator.Event], crash: str = "") -> None:
        """One batch: steps, one commit, then what the network sees. It may crash before or after the commit."""
        assert self.state is not None
        actions: list[aggregator.Action] = []
        for event in events:
            self.state, more = aggregator.step(self.state, event, self.now)
            check_recorded(event, more)
            actions += more
        if crash != "before commit":
            self.commit(actions)
        if crash:
            self.state = self.converting = None
            return
        for action in actions:
            self.publish(action)

    def commit(self, actions: list[aggregator.Action]) -> None:
        ledger = self.ledger
        for action in actions:
            match action:
                case aggregator.Record(device, upload, aggregator.Fate.COUNTED):
                    counted = ledger.counted.setdefault(upload.round, {})
                    assert device not in counted, "counted twice"
                    assert upload.round not in ledger.closed, "counted after the round had closed"
                    counted[device] = upload
                case aggregator.Close(number, cohort, missing):
                    assert set(cohort) == set(ledger.counted[number]), "the cohort is who counted"
                    assert not set(cohort) & set(missing)
                    assert len(cohort) >= self.wanted["quorum"]
                    ledger.closed[number] = cohort
                case aggregator.Publish(Parameters() as parameters):
                    ledger.parameters = parameters
                    self.check_parameters(parameters)
                case aggregator.Publish(Plan() as plan):
                    ledger.plan = plan
                    self.check_plan(plan)
                case aggregator.Tell(device, Seat(run=_, seat=seat)):
                    assert ledger.seats.setdefault(device, seat) == seat, "the seat has changed"
                    assert len(set(ledger.seats.values())) == len(ledger.seats), "two devices on one seat"
                case aggregator.Convert():
                    self.check_conversion(action)
                case aggregator.End():
                    ledger.end = action

    def publish(self, action: aggregator.Action) -> None:
        match action:
            case aggregator.Convert():
                assert self.converting is None, "two conversions at once"
                self.converting = action
            case aggregator.Publish(message):
                if isinstance(message, Plan):
                    self.retained_plan = message
                else:
                    assert isinstance(message, Parameters)
                    self.retained_parameters = message
                for device in self.devices:
                    if device.linked:
                        device.inbox.append((message, False))
            case aggregator.Tell(name, message):
                device = next(device for device in self.devices if device.name == name)
                if device.linked:
                    device.inbox.append((message, False))

    def cohort(self, number: int) -> dict[str, AnyUpload]:
        """What counted in a closed round of this run, by the ledger."""
        return {name: self.ledger.counted[number][name] for name in self.ledger.closed[number]}

    def check_plan(self, plan: Plan) -> None:
        assert plan.run == self.run
        if plan.round == 0:
            assert not plan.cohort
            return
        cohort = self.cohort(plan.round - 1)
        assert plan.cohort == {self.ledger.seats[name] for name in cohort}, "the plan's cohort is who counted"
        if self.method is Method.SHARE:
            assert plan.labels == (voted(cohort) if plan.round > SHARE.warm_up else b"")
            self.labels[self.run, plan.round - 1] = plan.labels
        if self.method not in {Method.FD, Method.SHARE}:
            assert plan.logits is None
            return
        rows, holders = mean_over_holders(cohort)
        np.testing.assert_array_equal(plan.contributors, holders)
        sent = np.zeros((L, L)) if plan.logits is None else by_label(plan.logits.values(), plan.contributors)
        np.testing.assert_allclose(sent, rows, atol=TOLERANCE)

    def given(self, before: int) -> dict[str, Any]:
        """Device -> its first seeds that counted in the rounds before, by the ledger."""
        found: dict[str, Any] = {}
        for number in sorted(self.ledger.counted):
            for device, upload in self.ledger.counted[number].items():
                if number < before and isinstance(upload, SeedUpload):
                    found.setdefault(device, upload.seeds)
        return found

    def check_conversion(self, order: aggregator.Convert) -> None:
        ledger = self.ledger
        assert ledger.plan is not None
        assert order.round == ledger.plan.round not in ledger.closed
        given = self.given(order.round + 1)
        assert list(order.seeds) == [given[name] for name in sorted(given)]
        assert set(given) >= set(ledger.counted[order.round]), "in the cohort without ever having given its seeds"
        before = None if ledger.parameters is None else ledger.parameters.parameters
        np.testing.assert_array_equal(order.parameters, before)
        np.testing.assert_allclose(order.teacher, mean_over_holders(ledger.counted[order.round])[0], atol=TOLERANCE)

    def convert(self) -> None:
        """The conversion is done."""
        order, self.converting = self.converting, None
        assert order is not None
        self.feed([aggregator.Converted(order.round, converted(order))])

    def check_parameters(self, parameters: Parameters) -> None:
        if self.method in SEEDED:
            return  # they are what `convert` said
        uploads = [u for u in self.cohort(parameters.round - 1).values() if isinstance(u, ParameterUpload)]
        samples = np.array([upload.samples for upload in uploads], np.float64)  # (D,)
        values = np.stack([upload.parameters for upload in uploads])  # (D, P)
        np.testing.assert_allclose(parameters.parameters, samples @ values / samples.sum(), rtol=TOLERANCE)

    def tick(self) -> None:
        if self.state is None:
            return
        due = aggregator.deadline(self.state)
        if due is not None and self.now >= due:
            self.feed([aggregator.Tick()])
            due = aggregator.deadline(self.state)
            assert due is None or due > self.now, "the aggregator waits past its deadline"

    # ------------------------------------------------------------ a device

    def start(self, device: Device) -> None:
        snapshot, trained = device.disk or (None, ())
        device.session = device_machine.start(snapshot, program=PROGRAM)
        device.trained, device.task = trained, None

    def happen(self, device: Device, event: device_machine.Event) -> None:
        assert device.session is not None
        device.session, actions = device_machine.step(device.session, event)
        for action in actions:
            self.carry_out(device, action)
        pending = device.session.pending is not None
        assert pending == (device.session.phase is device_machine.Phase.SENT), "pending until it is settled, not longer"

    def carry_out(self, device: Device, action: device_machine.Action) -> None:
        session = device.session
        assert session is not None
        match action:
            case device_machine.Announce():
                device.air.append((BIRTH, 1))
            case device_machine.Send(frame, qos):
                assert device.disk is not None, "sent before it was saved"
                saved, now = device.disk[0], device_machine.snapshot(session)
                assert all(saved[key] == now[key] for key in ("pending", "run", "completed")), "sent, but not on disk"
                assert device.linked
                upload = decode(frame, limit=len(frame))
                assert isinstance(upload, AnyUpload)
                device.air.append((upload, qos))
            case device_machine.Save():
                device.disk = (device_machine.snapshot(session), device.trained)
            case device_machine.Reset():
                device.trained = ()
            case device_machine.Review(run, number):
                assert device.trained[-1] == (run, number), "a report is about the round just trained"
            case device_machine.Adopt(parameters):
                self.check_adopted(session, parameters)
            case device_machine.Train(plan, teacher, seeds, shared):
                self.check_training(device, plan, teacher)
                self.check_given(device, plan, seeds=seeds, shared=shared)
                device.task, device.gives = plan, seeds

    def check_adopted(self, session: device_machine.Session, parameters: Any) -> None:
        plan = session.plan
        assert plan is not None
        published = self.ledgers[plan.run].parameters
        assert published is not None
        if plan.run == self.run and published.round == plan.round:
            np.testing.assert_array_equal(parameters, published.parameters)

    def check_training(self, device: Device, plan: Plan, teacher: Any) -> None:
        assert device.task is None, "two trainings at once"
        assert all(run == plan.run and number < plan.round for run, number in device.trained), "trained twice"
        assert device.name in self.ledgers[plan.run].seats, "trained without a seat"
        if not plan.method.averages_logits:
            assert teacher is None
            return
        others: dict[str, AnyUpload] = {}
        if plan.round > 0:
            closed = self.ledgers[plan.run]
            others = {n: closed.counted[plan.round - 1][n] for n in closed.closed[plan.round - 1] if n != device.name}
        np.testing.assert_allclose(teacher, mean_over_holders(others)[0], atol=TOLERANCE)

    def check_given(self, device: Device, plan: Plan, *, seeds: bool, shared: Any) -> None:
        if plan.method in SEEDED and not seeds:
            counted = self.ledgers[plan.run].counted.values()
            assert any(isinstance(uploads.get(device.name), SeedUpload) for uploads in counted), "gives no seeds"
        assert plan.method in SEEDED or not seeds
        assert [entry[0] for entry in shared] == sorted({entry[0] for entry in shared})[-SHARE.buffer :]
        for number, labels in shared:
            assert number < plan.round
            assert labels == self.labels[plan.run, number] != b""
        if plan.labels:
            assert shared[-1] == (plan.round - 1, plan.labels)

    def finish(self, device: Device) -> None:
        """The worker is done with the plan's steps."""
        plan, device.task = device.task, None
        assert plan is not None
        device.trained += ((plan.run, plan.round),)
        self.happen(device, device_machine.Trained(plan.run, plan.round, made_upload(device, plan)))
        assert device.disk is not None
        assert device.disk[1] == device.trained, "a round's work is on the disk when it is done"

    # ------------------------------------------------------------ links

    def connect(self, device: Device) -> None:
        device.linked = True
        device.inbox.clear()
        for message in (self.retained_parameters, self.retained_plan):
            if message is not None:
                device.inbox.append((message, True))
        self.happen(device, device_machine.LinkUp())

    def cut(self, device: Device, *, arrives: int) -> None:
        """The link breaks: of what was under way the first few arrive; the broker sends the last will."""
        for _ in range(min(arrives, len(device.air))):
            self.reach_broker(device)
        device.air.clear()
        device.inbox.clear()
        device.linked = False
        self.retain(device, Gone())
        if device.session is not None:
            self.happen(device, device_machine.LinkDown())

    def reach_broker(self, device: Device, *, lose: bool = False, repeat: bool = False) -> None:
        message, qos = device.air.popleft()
        if isinstance(message, Birth | Gone):
            self.retain(device, message)
        elif qos > 0 or not lose:
            device.uplink.append(message)
        if repeat and qos > 0:
            device.uplink.append(message)

    def retain(self, device: Device, message: Birth | Gone) -> None:
        self.retained_births[device.name] = message
        device.uplink.append(message)

    def hear(self, device: Device, *, repeat: bool = False) -> None:
        message, replay = device.inbox.popleft()
        for _ in range(1 + repeat):
            self.happen(device, device_machine.Heard(message, replay))

    def reach_aggregator(self, device: Device, count: int, crash: str = "") -> None:
        """A batch of one device's messages; in a crash they are not acknowledged, so the broker keeps them."""
        messages = list(device.uplink)[:count]
        for _ in messages:
            device.uplink.popleft()
        self.feed([as_event(device.name, message) for message in messages], crash)
        if crash:
            device.uplink.extendleft(reversed(messages))

    def crash_device(self, device: Device, *, arrives: int) -> None:
        if device.linked:
            self.cut(device, arrives=arrives)
        device.session, device.task = None, None

    def restart_aggregator(self, *, keep: bool) -> None:
        """From the ledger; a run that it knows to have failed is not taken up."""
        ledger = self.ledger
        if ledger.end is not None and not ledger.end.complete:
            return
        number = -1 if ledger.plan is None else ledger.plan.round
        resumption = aggregator.Resumption(
            seats=dict(ledger.seats),
            plan=ledger.plan,
            opening=ledger.parameters,
            uploads=dict(ledger.counted.get(number, {})),
            seeds=self.given(number),
        )
        self.state, actions = aggregator.resume(self.settings, resumption, self.now)
        self.commit(actions)
        for action in actions:
            self.publish(action)
        self.subscribe(keep=keep)

    def restart_broker(self) -> None:
        """Everything it had is gone, the retained messages too; the aggregator is the first to return."""
        self.retained_births.clear()
        self.retained_plan = self.retained_parameters = None
        for device in self.devices:
            for queue in (device.air, device.inbox, device.uplink):
                queue.clear()
            if device.linked:
                device.linked = False
                if device.session is not None:
                    self.happen(device, device_machine.LinkDown())
        if self.state is not None:
            self.subscribe(keep=False)

    # ------------------------------------------------------------ the end of every history

    def heal(self) -> None:
        """Everybody who ever joined is restarted and connected, everything is delivered: the run ends.

        Nothing but a quorum that nobody can fill makes a healed fleet wait for the clock.
        """
        for device in self.devices:
            if device.session is None and (device.disk is not None or device.name in self.ledger.seats):
                self.start(device)
            if device.session is not None and not device.linked:
                self.connect(device)
        if self.state is None:
            self.restart_aggregator(keep=True)
        else:
            self.subscribe(keep=True)
        failed_before = self.ledger.end is not None and not self.ledger.end.complete
        if self.state is None:
            assert failed_before
            return
        enough = sum(device.session is not None for device in self.devices) >= self.wanted["quorum"]
        self.settle()
        while self.ledger.end is None:
            assert self.state.phase is aggregator.Phase.ASSEMBLING or not enough, "it waits, although all are there"
            due = aggregator.deadline(self.state)
            assert due is not None, "nothing is left to happen and nothing to wait for"
            self.now = due
            self.tick()
            self.settle()
        if failed_before:
            return
        assert self.ledger.end.complete == enough, self.ledger.end.reason
        for device in self.devices:
            if device.session is not None and device.session.run == self.run and enough:
                assert device.session.phase is device_machine.Phase.IDLE

    def settle(self) -> None:
        """Deliver and train until nothing moves."""
        for _ in range(MOST_DELIVERIES):
            moved = False
            for device in self.devices:
                if device.air:
                    self.reach_broker(device)
                    moved = True
                if device.uplink:
                    self.reach_aggregator(device, 1)
                    moved = True
                if device.inbox:
                    self.hear(device)
                    moved = True
                if device.task is not None:
                    self.finish(device)
                    moved = True
            if self.converting is not None:
                self.convert()
                moved = True
            if not moved:
                return
        raise AssertionError("messages go round in circles")


# ---------------------------------------------------------------- what the world computes for itself


def check_recorded(event: aggregator.Event, actions: list[aggregator.Action]) -> None:
    records = [action for action in actions if isinstance(action, aggregator.Record)]
    if isinstance(event, aggregator.Arrived):
        assert len(records) == 1
        assert actions[0] is records[0], "the record comes first"
        assert (records[0].device, records[0].upload) == (event.device, event.upload)
    else:
        assert records == []


def as_event(name: str, message: AnyUpload | Birth | Gone) -> aggregator.Event:
    if isinstance(message, Birth):
        return aggregator.Born(name, message)
    if isinstance(message, Gone):
        return aggregator.Departed(name)
    return aggregator.Arrived(name, message)


def made_upload(device: Device, plan: Plan) -> AnyUpload:
    """Some logits of some labels, other ones each time (training again does not give the same bits)."""
    seed = [int(device.name[1:]), plan.run, plan.round, len(device.trained)]
    generator = np.random.default_rng(seed)
    if plan.method is Method.ALONE:
        return Done(run=plan.run, round=plan.round)
    if plan.method is Method.FL:
        values = generator.normal(size=2).astype(np.float32)
        samples = int(generator.integers(1, 100))
        return ParameterUpload(run=plan.run, round=plan.round, check=0, samples=samples, parameters=values)
    counts = generator.integers(0, 3, size=L).astype(np.uint32)  # a third of the labels is missing
    rows = generator.dirichlet(np.ones(L), size=int(np.count_nonzero(counts)))
    means = Upload(run=plan.run, round=plan.round, check=0, counts=counts, logits=code_rows(rows, 32))
    options = plan.read_options()
    if isinstance(options, ShareOptions) and options.inputs:
        return LabelUpload(means=means, labels=pack_labels(generator.integers(0, L, options.inputs), L))
    return SeedUpload(means=means, seeds=made_seeds(generator, plan.method)) if device.gives else means


def made_seeds(generator: np.random.Generator, method: Method) -> Seeds:
    first = generator.integers(0, L, 2).astype(np.uint32)
    x = generator.integers(0, 256, (2, 2)).astype(np.uint8)
    second = np.zeros(0, np.uint32) if method is Method.FLD else (first + 1) % np.uint32(L)
    return Seeds(x=x, first=first, second=second, scale=1.0, offset=0.0)


def converted(order: aggregator.Convert) -> Any:
    """Parameters that tell what they were made of."""
    return np.array([order.round, sum(int(seeds.x.sum()) for seeds in order.seeds)], np.float32)


def voted(uploads: dict[str, AnyUpload]) -> bytes:
    """The cohort's labels of the shared inputs. Written without the product's code, but for the packing."""
    words = [upload for upload in uploads.values() if isinstance(upload, LabelUpload)]
    if not words:
        return b""
    said = [(read_labels(word.labels, SHARE.inputs, L), np.sqrt(word.means.counts)) for word in words]
    winners = []
    for place in range(SHARE.inputs):
        score = [sum(weight[label] for labels, weight in said if labels[place] == label) for label in range(L)]
        heads = [sum(1 for labels, _ in said if labels[place] == label) for label in range(L)]
        winners.append(int(np.argmax(score if any(score) else heads)))
    return pack_labels(np.array(winners), L)


def mean_over_holders(uploads: dict[str, AnyUpload]) -> tuple[Any, Any]:
    """-> (L, L) mean rows, zeros where nobody holds the label; (L,) holders. Written without the product's code."""
    found: list[list[Any]] = [[] for _ in range(L)]
    for upload in uploads.values():
        if not isinstance(upload, Upload):
            assert isinstance(upload, LabelUpload | SeedUpload)
            upload = upload.means  # noqa: PLW2901
        held = [label for label in range(L) if upload.counts[label]]
        values = np.frombuffer(upload.logits.data, "<f4").reshape(len(held), L)
        for label, row in zip(held, values, strict=True):
            found[label].append(row.astype(np.float64) / row.sum(dtype=np.float64))
    rows = [np.mean(each, axis=0) if each else np.zeros(L) for each in found]
    return np.stack(rows), np.array([len(each) for each in found])


def by_label(values: Any, holders: Any) -> Any:
    rows = np.zeros((L, L))
    rows[np.flatnonzero(holders)] = values
    return rows


# ---------------------------------------------------------------- what can happen

Move: TypeAlias = Callable[[World, Device, int], None]
"""A move on one device, with a number to choose variants by."""


def join_or_restart(world: World, device: Device, choice: int) -> None:
    if device.session is None:
        world.start(device)
    if not device.linked:
        world.connect(device)
    elif choice % 4 == 0:
        world.cut(device, arrives=choice % 3)


def train(world: World, device: Device, choice: int) -> None:
    del choice
    if device.task is not None:
        world.finish(device)


def convert(world: World, device: Device, choice: int) -> None:
    del device, choice
    if world.converting is not None:
        world.convert()


def to_broker(world: World, device: Device, choice: int) -> None:
    if device.air:
        world.reach_broker(device, lose=choice % 4 == 0, repeat=choice % 5 == 0)


def to_aggregator(world: World, device: Device, choice: int) -> None:
    if device.uplink and world.state is not None:
        world.reach_aggregator(device, 1 + choice % 3)


def to_device(world: World, device: Device, choice: int) -> None:
    if device.inbox and device.session is not None:
        world.hear(device, repeat=choice % 5 == 0)


def crash_device(world: World, device: Device, choice: int) -> None:
    if device.session is not None:
        world.crash_device(device, arrives=choice % 3)


def crash_aggregator(world: World, device: Device, choice: int) -> None:
    if device.uplink and world.state is not None:
        world.reach_aggregator(device, 1 + choice % 2, ("before commit", "after commit")[choice // 2 % 2])


def return_aggregator(world: World, device: Device, choice: int) -> None:
    del device
    if world.state is None:
        world.restart_aggregator(keep=choice % 2 == 0)
    elif choice % 4 == 0:
        world.subscribe(keep=choice % 8 == 0)


def break_broker(world: World, device: Device, choice: int) -> None:
    del device
    if choice % 4 == 0:
        world.restart_broker()


def wait(world: World, device: Device, choice: int) -> None:
    del device
    world.now += (1.0, 4.0, 10.0, 30.0)[choice % 4]
    world.tick()


def open_next(world: World, device: Device, choice: int) -> None:
    del device, choice
    if world.ledger.end is not None and world.run < 3:
        world.open_run()


MOVES: dict[Move, int] = {
    join_or_restart: 3,
    train: 8,
    to_broker: 12,
    to_aggregator: 12,
    to_device: 12,
    crash_device: 1,
    crash_aggregator: 1,
    return_aggregator: 2,
    break_broker: 1,
    wait: 2,
    convert: 4,
    open_next: 2,
}
"""With how often the random walk takes each."""


# ---------------------------------------------------------------- the drivers

CHOICES = st.integers(0, 63)
DEVICES = st.integers(0, MOST_DEVICES - 1)


class Histories(RuleBasedStateMachine):
    """Hypothesis makes the moves."""

    world: World

    @initialize(
        method=st.sampled_from(METHODS),
        devices=st.integers(1, 4),
        quorum=st.integers(1, 3),
        qos=st.integers(0, 1),
        extensions=st.integers(0, 2),
    )
    def begin(self, method: Method, devices: int, quorum: int, qos: int, extensions: int) -> None:
        quorum = min(devices, quorum)
        self.world = World(method, devices=devices, quorum=quorum, qos=qos, extensions=extensions)

    @rule(number=DEVICES, choice=CHOICES, move=st.sampled_from([to_broker, to_aggregator, to_device, train, convert]))
    def proceed(self, number: int, choice: int, move: Move) -> None:
        move(self.world, self.world.devices[number], choice)

    @rule(move=st.sampled_from([to_broker, to_aggregator, to_device, train, convert]))
    def proceed_everywhere(self, move: Move) -> None:
        for device in self.world.devices:
            move(self.world, device, 1)

    @rule(number=DEVICES, choice=CHOICES, move=st.sampled_from([join_or_restart, crash_device, crash_aggregator]))
    def disturb(self, number: int, choice: int, move: Move) -> None:
        move(self.world, self.world.devices[number], choice)

    @rule(choice=CHOICES, move=st.sampled_from([return_aggregator, break_broker, wait, open_next]))
    def change(self, choice: int, move: Move) -> None:
        move(self.world, self.world.devices[0], choice)

    @precondition(lambda self: self.world.state is not None)
    @rule()
    def deliver_all(self) -> None:
        self.world.settle()

    @invariant()
    def nobody_waits_past_a_deadline(self) -> None:
        state = self.world.state
        due = None if state is None else aggregator.deadline(state)
        assert due is None or due > self.world.now

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.heal()


Histories.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHistories = Histories.TestCase

WALKS = 250
"""Histories a block; two blocks a method. A failure names its seed: `walk(method, seed)` plays it again."""


def walk(method: Method, seed: int) -> World:
    chance = random.Random(seed)
    devices = chance.randint(1, 4)
    quorum, qos, extensions = chance.randint(1, devices), chance.randint(0, 1), chance.randint(0, 2)
    world = World(method, devices=devices, quorum=quorum, qos=qos, extensions=extensions)
    for move in chance.choices(list(MOVES), list(MOVES.values()), k=chance.randint(20, 200)):
        move(world, chance.choice(world.devices), chance.randrange(64))
    world.heal()
    return world


@pytest.mark.parametrize("block", range(2))
@pytest.mark.parametrize("method", METHODS)
def test_walks(method: Method, block: int) -> None:
    rounds = 0
    for seed in range(block * WALKS, (block + 1) * WALKS):
        try:
            world = walk(method, seed)
        except Exception as problem:
            raise AssertionError(f"walk({method!r}, {seed})") from problem
        rounds += sum(len(ledger.closed) for ledger in world.ledgers.values())
    assert rounds > WALKS  # the histories get somewhere
