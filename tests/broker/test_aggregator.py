"""The aggregator against a real broker: what it acknowledges, refuses, resumes, and what it prints."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.ledger import Ledger
from broker.link import BrokerError, Link, filters
from broker.servers import Server
from broker.servers.embedded import EmbeddedBroker
from broker.servers.mosquitto import Mosquitto
from edge.mqtt import parse_url
from edge.wire import topics
from edge.wire.codec import decode, encode
from edge.wire.manifest import parse_manifest
from edge.wire.messages import Birth, Done, Gone, Message, Meter, Plan, Report, Seat, Upload
from edge.wire.rows import code_counts, code_rows, read_counts
from tests.edge.conftest import write_program
from tests.fleet import Aggregator, until

KINDS = [
    pytest.param(EmbeddedBroker, id="embedded"),
    pytest.param(Mosquitto, id="mosquitto", marks=pytest.mark.mosquitto),
]
F, RUN = "attic", 7


class HandMadeDevice:
    """A device that does what the test says, on a real connection."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.heard: list[Message] = []
        address = parse_url(url)
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"hand-{name}", protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _c, _u, m: self.heard.append(decode(bytes(m.payload), limit=10**6))
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        until(self._client.is_connected, "the connection")
        self._client.subscribe([(topics.plan(F), 1), (topics.command(F, name), 1)])
        assert self._subscribed.wait(20)

    def send(self, topic: str, payload: bytes) -> None:
        """At QoS 1; returns when the broker has it."""
        self._client.publish(topic, payload, 1).wait_for_publish(20)

    def born(self, program: Path) -> None:
        manifest = parse_manifest((program / "manifest.json").read_text())
        birth = Birth(
            profile="hand",
            runtime="none",
            version="0",
            program=manifest.digest,
            schema=manifest.schema,
            samples=np.ones(10, np.uint32),
        )
        self.send(topics.birth(F, self.name), encode(birth))

    def upload(self, frame: bytes) -> None:
        self.send(topics.upload(F, self.name), frame)

    def plans(self) -> list[int]:
        return [m.round for m in self.heard if isinstance(m, Plan)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Stage:
    def __init__(self, server: Server, folder: Path) -> None:
        self.url, self.folder = server.url, folder
        self.program, self.ledger = write_program(folder / "program"), folder / "ledger.sqlite"
        self.manifest = parse_manifest((self.program / "manifest.json").read_text())
        self.aggregators: list[Aggregator] = []
        self.devices: list[HandMadeDevice] = []

    def device(self, name: str) -> HandMadeDevice:
        self.devices.append(HandMadeDevice(self.url, name))
        return self.devices[-1]

    def run(self, *options: str) -> Aggregator:
        new = ["--fleet", F, "--program", str(self.program), "--run", str(RUN), "--no-report"]
        return self.aggregator(*([] if "--resume" in options else new), *options)

    def aggregator(self, *options: str) -> Aggregator:
        made = Aggregator(["--broker", self.url, "--ledger", str(self.ledger), *options])
        self.aggregators.append(made)
        return made

    def close(self) -> None:
        for device in self.devices:
            device.close()
        for aggregator in self.aggregators:
            aggregator.close()

    def logits(self, number: int, *, run: int = RUN, bits: int = 4) -> bytes:
        rows = code_rows(np.full((10, 10), 0.1), bits)
        counts = read_counts(code_counts(np.full(10, 3)))
        check = int.from_bytes(self.manifest.schema[:2], "big")
        return encode(Upload(run=run, round=number, check=check, counts=counts, logits=rows))

    def fates(self) -> dict[tuple[int, str, str], int]:
        with Ledger.read(self.ledger) as ledger:
            return {(number, device, fate): times for number, device, fate, _, times in ledger.uploads(RUN)}


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with request.param() as server:
        stage = Stage(server, tmp_path)
        try:
            yield stage
        finally:
            stage.close()


def test_garbage_is_counted_by_reason_and_device_and_never_a_crash(stage: Stage) -> None:
    aggregator = stage.run("--rounds", "1", "--devices", "1")
    aggregator.wait_for("waiting")
    good, bad = stage.device("good"), stage.device("bad")
    bad.send(topics.birth(F, "bad"), b"\xff\xff")
    good.born(stage.program)
    until(lambda: good.plans() == [0], "the plan")
    garbage = {
        "not CBOR": b"",
        "too long": bytes(100_000),
        "another run": stage.logits(0, run=8),
        "other bits than the plan's": stage.logits(0, bits=8),
        "unexpected kind": encode(Done(run=RUN, round=0)),
    }
    for frame in garbage.values():
        bad.upload(frame)
    bad.upload(os.urandom(50))
    bad.send(topics.report(F, "bad"), encode(Gone()))
    bad.send(f"ps/{F}/u/Not a name", b"x")
    until(lambda: any(e["device"] == "Not a name" for e in aggregator.named("refused")), "the last refusal")
    good.upload(stage.logits(0))
    aggregator.complete()
    with Ledger.read(stage.ledger) as ledger:
        refused = {(device, reason): times for device, reason, times in ledger.refusals(RUN)}
    assert {reason for device, reason in refused if device == "bad"} >= set(garbage)
    assert refused["Not a name", "not a device's topic"] == 1
    assert sum(refused.values()) == 1 + len(garbage) + 3
    said = {(e["device"], e["reason"]) for e in aggregator.named("refused")}
    assert said == set(refused)


def test_a_device_of_an_older_release_is_refused_and_shown(stage: Stage) -> None:
    version_1 = Path(__file__).parents[1] / "edge" / "wire" / "golden" / "version-1"
    birth, upload = (bytes.fromhex((version_1 / f"{name}.hex").read_text()) for name in ("birth", "upload-4"))
    aggregator = stage.run("--rounds", "1", "--devices", "1")
    aggregator.wait_for("waiting")
    old, good = stage.device("old"), stage.device("good")
    old.send(topics.birth(F, "old"), birth)
    good.born(stage.program)
    until(lambda: good.plans() == [0], "the plan")
    old.upload(upload)
    until(lambda: sum(e["times"] for e in aggregator.named("refused")) == 2, "both refusals")
    good.upload(stage.logits(0))
    assert aggregator.complete()["complete"] is True
    with Ledger.read(stage.ledger) as ledger:
        assert ledger.refusals(RUN) == [("old", "older version (update the sender)", 2)]


def test_repeats_late_ones_and_strangers_are_kept_apart(stage: Stage) -> None:
    aggregator = stage.run("--rounds", "2", "--devices", "2")
    aggregator.wait_for("waiting")
    d0, d1, stranger = (stage.device(name) for name in ("d0", "d1", "d9"))
    d0.born(stage.program)
    d1.born(stage.program)
    until(lambda: d0.plans() == [0] == d1.plans(), "the plan")  # a device's seat comes before it
    assert sorted(m.seat for d in (d0, d1) for m in d.heard if isinstance(m, Seat)) == [0, 1]
    d0.upload(stage.logits(0))
    d0.upload(stage.logits(0))
    d0.upload(stage.logits(1))
    stranger.upload(stage.logits(0))
    until(lambda: (0, "d9", "unknown device") in stage.fates(), "the stranger's fate")
    until(lambda: any(not isinstance(m, Plan) for m in stranger.heard), "the call for a birth")
    d1.upload(stage.logits(0))
    until(lambda: d0.plans() == [0, 1], "round 1")
    for device in (d0, d1):
        device.upload(stage.logits(1))
    aggregator.complete()
    fates = stage.fates()
    assert fates[0, "d0", "repeated"] == 1
    assert fates[1, "d0", "early"] == 1
    assert {key for key in fates if key[2] == "counted"} == {(r, d, "counted") for r in (0, 1) for d in ("d0", "d1")}


def test_an_acknowledged_upload_survives_a_kill_between_uploads(stage: Stage) -> None:
    first = stage.run("--rounds", "1", "--devices", "2")
    first.wait_for("waiting")
    d0, d1 = stage.device("d0"), stage.device("d1")
    d0.born(stage.program)
    d1.born(stage.program)
    until(lambda: d0.plans() == [0], "the plan")
    d0.upload(stage.logits(0))
    until(lambda: (0, "d0", "counted") in stage.fates(), "the ledger's row")
    first.kill()
    second = stage.run("--resume", str(RUN))
    until(lambda: d1.plans().count(0) == 2, "the plan, published again")
    d0.upload(stage.logits(0))  # as a device does that hears its plan twice
    d1.upload(stage.logits(0))
    second.complete()
    assert second.named("round")[0]["cohort"] == ["d0", "d1"]
    assert stage.fates() == {(0, "d0", "counted"): 1, (0, "d1", "counted"): 1, (0, "d0", "repeated"): 1}


@pytest.mark.mosquitto
def test_mosquitto_keeps_the_uploads_that_come_while_the_aggregator_is_down(tmp_path: Path) -> None:
    with Mosquitto() as server, contextlib.closing(Stage(server, tmp_path)) as stage:
        first = stage.run("--rounds", "1", "--devices", "1")
        first.wait_for("waiting")
        d0 = stage.device("d0")
        d0.born(stage.program)
        until(lambda: d0.plans() == [0], "the plan")
        first.kill()
        d0.upload(stage.logits(0))
        second = stage.run("--resume", str(RUN))
        second.complete()
        assert stage.fates() == {(0, "d0", "counted"): 1}


def test_the_run_waits_for_the_last_reports(stage: Stage) -> None:
    run = ["--fleet", F, "--program", str(stage.program), "--run", str(RUN), "--rounds", "1", "--devices", "1"]
    aggregator = stage.aggregator(*run, "--report", "--method", "alone")
    aggregator.wait_for("waiting")
    d0 = stage.device("d0")
    d0.born(stage.program)
    until(lambda: d0.plans() == [0], "the plan")
    d0.upload(encode(Done(run=RUN, round=0)))
    until(lambda: d0.plans() == [0, 1], "the end")
    assert aggregator.process.poll() is None
    report = Report(
        run=RUN,
        round=0,
        accuracy=0.5,
        loss=1.5,
        payload_up=1,
        payload_down=2,
        stream_up=3,
        stream_down=4,
        train_s=0.25,
    )
    counts = np.arange(10, dtype=np.uint64)
    meter = Meter(
        run=RUN,
        round=0,
        packets_up=counts,
        packets_down=counts,
        payload_up=counts,
        payload_down=counts,
        mqtt_up=counts,
        mqtt_down=counts,
        stream=np.arange(0, 110, 10, dtype=np.uint64),
        connects=1,
        cpu_s=0.5,
        review_cpu_s=0.25,
        elapsed_s=2.0,
    )
    for message in (meter, report, report):
        d0.send(topics.report(F, "d0"), encode(message))
    aggregator.complete()
    (metered,) = aggregator.named("meter")
    assert (metered["device"], metered["round"], metered["connects"]) == ("d0", 0, 1)
    assert (metered["mqtt_up"]["upload"], metered["payload_down"]["repeated"]) == (2, 9)
    assert (metered["stream"]["sent"], metered["stream"]["headers_in"]) == (0, 100)
    assert (metered["cpu_s"], metered["review_cpu_s"], metered["elapsed_s"]) == (0.5, 0.25, 2.0)
    (event,) = aggregator.named("report")
    assert event == {
        "event": "report",
        "device": "d0",
        **{k: v for k, v in event.items() if k not in {"event", "device"}},
    }
    assert (event["accuracy"], event["round"], event["stream_down"]) == (0.5, 0, 4)
    with Ledger.read(stage.ledger) as ledger:
        assert [(number, device) for number, device, _ in ledger.reports(RUN)] == [(0, "d0")]
        ((number, device, kept),) = ledger.meters(RUN)
    assert {"event": "meter", "round": number, "device": device} | kept == metered


def test_of_two_aggregators_one_gives_up(stage: Stage) -> None:
    both = [stage.run("--devices", "1")]
    both[0].wait_for("waiting")
    both.append(stage.aggregator("--fleet", F, "--program", str(stage.program), "--devices", "1", "--run", "8"))
    until(lambda: any(one.process.poll() is not None for one in both), "one of them ends")
    ended = next(one for one in both if one.process.poll() is not None)
    assert ended.process.returncode == 1
    assert "only one may run" in ended.stderr()
    assert ended.wait_for("end")["complete"] is False


def test_no_broker_is_an_error_that_says_so() -> None:
    link = Link(parse_url("mqtt://127.0.0.1:1"), "x", filters(F), resumable=False)
    with pytest.raises(BrokerError, match="is it running"):
        link.connect()


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://user:word@x", "mqtt://x/path", "1.2.3.4:1883"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"mqtt://|password"):
        parse_url(url)


def test_urls_carry_port_and_tls() -> None:
    assert (parse_url("mqtt://h").port, parse_url("mqtts://h").port, parse_url("mqtt://h:7").port) == (1883, 8883, 7)
    assert parse_url("mqtts://h").tls
