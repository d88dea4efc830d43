"""A real `potstill edge run` process against a real broker; the test is the aggregator, with a plain paho client."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from broker.servers.embedded import EmbeddedBroker
from edge.cli import edge
from edge.client import Settings
from edge.link import backoff_s
from edge.meter import journal
from edge.meter.traffic import publish_bytes
from edge.mqtt import parse_url
from edge.runtime.program import Program
from edge.wire import topics
from edge.wire.codec import decode, encode
from edge.wire.messages import (
    Birth,
    Command,
    Done,
    Gone,
    Message,
    Meter,
    Method,
    Order,
    Parameters,
    ParameterUpload,
    Plan,
    Report,
    Seat,
    Upload,
)

DEVICE, RUN, SEAT = "d0", 7, 3
WAIT_S = 20.0
M = TypeVar("M", bound=Message)


class Hub:
    """The aggregator's end: says what it is told, remembers what it hears."""

    def __init__(self, url: str, fleet: str, program: Program) -> None:
        self.fleet = fleet
        self._program = program
        self._heard: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._mqtt = paho.Client(CallbackAPIVersion.VERSION2, client_id="hub", protocol=paho.MQTTv5)
        self._mqtt.on_message = self._on_message
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._mqtt.on_subscribe = lambda *_: subscribed.put(True)
        host, port = url.removeprefix("mqtt://").split(":")
        self._mqtt.connect(host, int(port))
        filters = (topics.every_birth(self.fleet), topics.every_upload(self.fleet), topics.every_report(self.fleet))
        self._mqtt.subscribe([(topic, 1) for topic in filters])
        self._mqtt.loop_start()
        assert subscribed.get(timeout=WAIT_S)

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._heard.put(decode(bytes(message.payload), limit=10**6))

    def hears(self, kind: type[M]) -> M:
        """The next message, which must be of this kind; a `Meter` comes with every report and may be passed over."""
        message = self._heard.get(timeout=WAIT_S)
        if isinstance(message, Meter) and kind is not Meter:
            message = self._heard.get(timeout=WAIT_S)
        assert isinstance(message, kind), message
        return message

    def hears_nothing_more(self) -> None:
        assert self._heard.empty()

    def say(self, topic: str, message: Message, *, retain: bool = False) -> None:
        self.say_bytes(topic, encode(message), retain=retain)

    def say_bytes(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._mqtt.publish(topic, payload, qos=1, retain=retain).wait_for_publish(WAIT_S)

    def seat(self, run: int = RUN) -> None:
        self.say(topics.command(self.fleet, DEVICE), Seat(run=run, seat=SEAT))

    def order(self, order: Order) -> None:
        self.say(topics.command(self.fleet, DEVICE), Command(order=order))

    def plan(self, round_: int, *, after: Upload | None = None, **changes: Any) -> Plan:
        """Publish a plan; `after`: the upload that this one averages (the device's own)."""
        fd = changes.get("method", Method.FD) is Method.FD
        nobody = np.zeros(10 if fd else 0, np.uint32)
        settings: dict[str, Any] = {
            "run": RUN,
            "round": round_,
            "rounds": 3,
            "method": Method.FD,
            "steps": 10,
            "seed": 1,
            "lr": 0.5,
            "gamma": 1.0,
            "bits": 8,
            "deadline_s": 60.0,
            "qos": 1,
            "report": False,
            "normalise": True,
            "program": self._program.digest,
            "cohort": frozenset({SEAT} if round_ else ()),
            "contributors": nobody if after is None else np.minimum(after.counts, 1),
            "logits": None if after is None else after.logits,
        }
        plan = Plan(**settings | changes)
        self.say(topics.plan(self.fleet), plan, retain=True)
        return plan

    def average(self, round_: int, parameters: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self.say(topics.parameters(self.fleet), Parameters(run=RUN, round=round_, parameters=parameters), retain=True)

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()
        self._mqtt.on_message = None  # no cycle: the client closes its sockets here, not at some collection


@dataclass
class Device:
    """Arguments of the process, and its log."""

    arguments: list[str]
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @contextmanager
    def running(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "potstill", *self.arguments, *more], stderr=log)
            try:
                yield process
            finally:
                process.kill()
                process.wait(timeout=WAIT_S)

    def show(self) -> dict[str, str]:
        command = [sys.executable, "-m", "potstill", "edge", "show", "--work", str(self.folder / "work")]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout.splitlines()
        return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    pytest.importorskip("iotcore")
    with EmbeddedBroker() as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    """Of this test alone: brokers keep sessions and retained messages longer than a test."""
    return re.sub(r"[^a-z0-9]", "-", tmp_path.name.lower())[-32:]


def _device(url: str, fleet: str, tmp_path: Path, linear_folder: Path, shard_file: Path) -> Device:
    arguments = ["edge", "run", "--broker", url, "--fleet", fleet, "--device", DEVICE, "--program", str(linear_folder)]
    arguments += ["--data", str(shard_file), "--work", str(tmp_path / "work"), "--runtime", "numpy"]
    return Device(arguments, tmp_path)


@pytest.fixture
def device(broker: EmbeddedBroker, fleet: str, tmp_path: Path, linear_folder: Path, shard_file: Path) -> Device:
    return _device(broker.url, fleet, tmp_path, linear_folder, shard_file)


@pytest.fixture
def hub(broker: EmbeddedBroker, fleet: str, linear_program: Program) -> Iterator[Hub]:
    hub = Hub(broker.url, fleet, linear_program)
    yield hub
    hub.close()


def _end(hub: Hub, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    hub.hears(Gone)
    assert process.wait(timeout=WAIT_S) == 0  # killed before its DISCONNECT, its will would say Gone once more


def until(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, f"waited {WAIT_S} s for {what}"
        time.sleep(0.02)


# ---------------------------------------------------------------- a life


def test_a_run_from_birth_to_stop(hub: Hub, device: Device, linear_program: Program) -> None:
    hub.plan(0, report=True)
    with device.running() as process:
        birth = hub.hears(Birth)
        assert birth.program == linear_program.digest
        assert birth.runtime.startswith("numpy ")
        assert int(birth.samples.sum()) == 300
        hub.seat()
        accuracies = []
        upload = hub.hears(Upload)
        for round_ in (1, 2, 3):
            assert (upload.run, upload.round) == (RUN, round_ - 1)
            hub.plan(round_, after=upload, report=True)
            report = hub.hears(Report)
            assert report.round == round_ - 1
            assert report.payload_up == round_ * len(encode(upload))
            assert report.stream_down > report.payload_down > 0
            acknowledgements = 4 * (round_ + 1)  # of the plans before this one and of the seat
            assert report.stream_up == round_ * _packet_bytes(hub, upload) + acknowledgements
            accuracies.append(report.accuracy)
            if round_ < 3:
                upload = hub.hears(Upload)
        assert accuracies[-1] > accuracies[0]
        hub.order(Order.STOP)
        hub.hears(Gone)
        assert process.wait(timeout=WAIT_S) == 0
    shown = device.show()
    assert (shown["run"], shown["last round"], shown["pending upload"]) == ("7", "3", "none")


def _packet_bytes(hub: Hub, upload: Upload) -> int:
    return publish_bytes(topic=topics.upload(hub.fleet, DEVICE), payload_bytes=len(encode(upload)), qos=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(hub: Hub, device: Device, number: signal.Signals) -> None:
    with device.running() as process:
        hub.hears(Birth)
        process.send_signal(number)
        hub.hears(Gone)
        assert process.wait(timeout=WAIT_S) == 0
    assert f"left ({number.name})" in device.log


def test_a_signal_ends_a_long_training(hub: Hub, device: Device) -> None:
    hub.plan(0, steps=1_000_000)
    with device.running("--log-level", "debug") as process:
        hub.hears(Birth)
        hub.seat()
        until(lambda: "round 0: training" in device.log, "training")
        process.terminate()
        hub.hears(Gone)
        assert process.wait(timeout=WAIT_S) == 0
    assert not (device.folder / "work" / "device.b").exists()  # nothing of a round in progress is kept


def test_rebirth_announces_again(hub: Hub, device: Device) -> None:
    with device.running():
        first = hub.hears(Birth)
        hub.order(Order.REBIRTH)
        assert hub.hears(Birth) == first


def test_a_new_run_starts_from_the_programs_parameters(hub: Hub, device: Device) -> None:
    with device.running():
        hub.hears(Birth)
        hub.seat(1)
        hub.plan(0, run=1)
        first = hub.hears(Upload)
        hub.seat(2)
        hub.plan(0, run=2)
        assert hub.hears(Upload).logits == first.logits


def test_alone_says_only_done(hub: Hub, device: Device) -> None:
    with device.running():
        hub.hears(Birth)
        hub.seat()
        hub.plan(0, method=Method.ALONE, qos=0)
        assert hub.hears(Done) == Done(run=RUN, round=0)


# ---------------------------------------------------------------- joules


def _trace(tmp_path: Path, seconds: float) -> str:
    (tmp_path / "power.csv").write_text(f"seconds,watts\n0,2\n{seconds},2\n")
    return f"trace:{tmp_path / 'power.csv'}"


def test_a_power_sensor_is_read_beside_the_rounds(hub: Hub, device: Device, tmp_path: Path) -> None:
    with device.running("--power", _trace(tmp_path, 1000), "--power-rate", "100", "--power-rest", "0.2") as process:
        hub.hears(Birth)
        hub.seat()
        hub.plan(0)
        hub.plan(1, after=hub.hears(Upload))
        hub.plan(2, after=hub.hears(Upload))
        hub.hears(Upload)
        _end(hub, process)
    lines, damaged = journal.read(tmp_path / "work")
    assert damaged == 0
    assert {0, 1} <= {line.round for line in lines}
    for line in lines:
        energy = line.energy
        assert energy is not None
        basis = energy["basis"]
        assert (basis["kind"], basis["rate_hz"]) == ("measured", 100)
        assert energy["total_j"] == pytest.approx(2 * basis["covered_s"])
        assert energy["above_idle_j"] == pytest.approx(0, abs=1e-6)
        assert energy["compute_j"] is None
    assert "J measured" in device.log
    assert "2.000 W at rest" in device.log


def test_a_sensor_that_ends_mid_run_is_told_of_and_the_run_goes_on(hub: Hub, device: Device, tmp_path: Path) -> None:
    with device.running("--power", _trace(tmp_path, 0.3), "--power-rate", "100", "--power-rest", "0") as process:
        hub.hears(Birth)
        hub.seat()
        until(lambda: "has ended" in device.log, "the trace to end")
        hub.plan(0)
        hub.plan(1, after=hub.hears(Upload))
        hub.hears(Upload)
        _end(hub, process)
    lines, _ = journal.read(tmp_path / "work")
    last = lines[-1].energy
    assert last is not None
    assert (last["total_j"], last["idle_j"], last["basis"]["covered_s"]) == (0.0, None, 0.0)
    assert last["basis"]["window_s"] > 0
    assert "until it answers again nothing is counted" in device.log


def test_without_the_option_no_joule_is_written(hub: Hub, device: Device, tmp_path: Path) -> None:
    with device.running() as process:
        hub.hears(Birth)
        _end(hub, process)
    assert "energy" not in (tmp_path / "work" / journal.FILE).read_text()


# ---------------------------------------------------------------- FL


@pytest.mark.parametrize("parameters_first", [True, False])
def test_fl_trains_from_the_average_in_whichever_order_it_comes(
    hub: Hub, device: Device, parameters_first: bool
) -> None:
    average = np.linspace(-1, 1, 650, dtype=np.float32)
    with device.running():
        hub.hears(Birth)
        hub.seat()
        hub.plan(0, method=Method.FL, lr=1e-6)
        assert np.abs(hub.hears(ParameterUpload).parameters).max() < 1e-3
        if parameters_first:
            hub.average(1, average)
            hub.plan(1, method=Method.FL, lr=1e-6)
        else:
            hub.plan(1, method=Method.FL, lr=1e-6)
            hub.average(1, average)
        np.testing.assert_allclose(hub.hears(ParameterUpload).parameters, average, atol=1e-3)


def test_a_device_that_comes_late_to_fl_gets_the_retained_average(hub: Hub, device: Device) -> None:
    average = np.full(650, 0.5, np.float32)
    hub.average(2, average)
    hub.plan(2, method=Method.FL, lr=1e-6)
    with device.running():
        hub.hears(Birth)
        hub.seat()
        upload = hub.hears(ParameterUpload)
        assert upload.round == 2
        np.testing.assert_allclose(upload.parameters, average, atol=1e-3)


def test_fd_never_downloads_parameters(hub: Hub, device: Device) -> None:
    hub.average(0, np.ones(650, np.float32))
    with device.running():
        hub.hears(Birth)
        hub.seat()
        hub.plan(0, report=True)
        upload = hub.hears(Upload)
        hub.average(1, np.ones(650, np.float32))
        hub.plan(1, after=upload, report=True)
        assert hub.hears(Report).stream_down < 1000  # the parameters alone are 2,600 bytes


# ---------------------------------------------------------------- what goes wrong


def test_killed_after_its_upload_it_sends_it_again_and_goes_on(hub: Hub, device: Device) -> None:
    hub.plan(0)
    with device.running() as process:
        hub.hears(Birth)
        hub.seat()
        first = hub.hears(Upload)
        process.kill()
        hub.hears(Gone)  # its last will
    assert device.show()["pending upload"] == "of round 0"
    with device.running():
        hub.hears(Birth)
        assert encode(hub.hears(Upload)) == encode(first)
        hub.plan(1, after=first)
        assert hub.hears(Upload).round == 1  # with the seat of before: nobody told it again
        hub.hears_nothing_more()


def test_the_restarted_device_goes_on_as_if_nothing_had_been(hub: Hub, device: Device, tmp_path: Path) -> None:
    def rounds(kill: bool) -> list[Upload]:
        uploads: list[Upload] = []
        hub.plan(0)
        with device.running() as process:
            hub.hears(Birth)
            hub.seat()
            uploads.append(hub.hears(Upload))
            if not kill:
                hub.plan(1, after=uploads[0])
                uploads.append(hub.hears(Upload))
                _end(hub, process)
                return uploads
            process.kill()
            hub.hears(Gone)
        hub.plan(1, after=uploads[0])
        with device.running() as process:
            hub.hears(Birth)
            while uploads[-1].round != 1:  # the pending one comes again first
                uploads.append(hub.hears(Upload))
            _end(hub, process)
        return [uploads[0], uploads[-1]]

    unbroken = rounds(kill=False)
    for file in (tmp_path / "work").iterdir():
        file.unlink()
    assert rounds(kill=True) == unbroken


def test_refuses_garbage_and_counts_it(hub: Hub, device: Device) -> None:
    upload = Done(run=RUN, round=0)
    plan_topic, command_topic = topics.plan(hub.fleet), topics.command(hub.fleet, DEVICE)
    with device.running() as process:
        hub.hears(Birth)
        for payload in (b"", b"\xff", os.urandom(200), b"\x80" * 1000):
            hub.say_bytes(plan_topic, payload)
            hub.say_bytes(command_topic, payload)
        hub.say_bytes(plan_topic, bytes(2_000_000))
        hub.say(plan_topic, upload)
        hub.say(command_topic, upload)
        hub.say_bytes(plan_topic, encode(Gone())[:-1] + b"\x09")
        hub.seat()
        hub.plan(0)
        hub.hears(Upload)
        hub.order(Order.STOP)
        hub.hears(Gone)
        assert process.wait(timeout=WAIT_S) == 0
    refused = device.show()["frames refused"]
    assert "unexpected kind 2" in refused
    assert "too long 1" in refused
    assert sum(int(number) for number in re.findall(r"\d+", refused)) == 12
    lines = [line for line in device.log.splitlines() if "refused" in line]
    assert len(lines) == len(refused.split(", "))  # one a reason


def test_an_aggregator_of_an_older_release_is_named_in_the_log(hub: Hub, device: Device) -> None:
    version_1 = Path(__file__).with_name("wire") / "golden" / "version-1"
    with device.running():
        hub.hears(Birth)
        for topic, frame in ((topics.plan(hub.fleet), "plan-8"), (topics.command(hub.fleet, DEVICE), "seat")):
            hub.say_bytes(topic, bytes.fromhex((version_1 / f"{frame}.hex").read_text()))
        hub.seat()
        hub.plan(0)
        hub.hears(Upload)
    assert f"frame on {topics.plan(hub.fleet)} refused: older version (update the sender): 1; only 2" in device.log
    assert device.show()["frames refused"] == "older version (update the sender) 2"


def test_a_plan_for_another_program_is_noted_once(hub: Hub, device: Device) -> None:
    with device.running():
        hub.hears(Birth)
        hub.seat(1)
        hub.plan(0, run=1, program=b"else")
        hub.plan(1, run=1, program=b"else")
        hub.seat(2)
        hub.plan(0, run=2)
        assert hub.hears(Upload).run == 2
    assert device.log.count("put the same program on both") == 1


def test_comes_back_when_the_broker_does(
    tmp_path: Path, linear_folder: Path, linear_program: Program, shard_file: Path
) -> None:
    pytest.importorskip("iotcore")
    with EmbeddedBroker() as broker:
        port = int(broker.url.rsplit(":", 1)[1])
        device = _device(broker.url, "lab", tmp_path, linear_folder, shard_file)
        hub = Hub(broker.url, "lab", linear_program)
        stack = device.running()
        stack.__enter__()
        hub.hears(Birth)
        hub.seat()
        hub.plan(0)
        first = hub.hears(Upload)
        hub.close()
    try:
        until(lambda: "the connection is gone" in device.log, "the device to notice")
        with EmbeddedBroker(port=port) as broker:
            hub = Hub(broker.url, "lab", linear_program)
            hub.hears(Birth)
            assert encode(hub.hears(Upload)) == encode(first)
            hub.plan(1, after=first)
            assert hub.hears(Upload).round == 1
            hub.close()
    finally:
        stack.__exit__(None, None, None)


def test_starts_before_its_broker(
    tmp_path: Path, linear_folder: Path, linear_program: Program, shard_file: Path
) -> None:
    pytest.importorskip("iotcore")
    with EmbeddedBroker() as first:
        port = int(first.url.rsplit(":", 1)[1])
    device = _device(f"mqtt://127.0.0.1:{port}", "lab", tmp_path, linear_folder, shard_file)
    with device.running() as process:
        until(lambda: "cannot connect" in device.log, "a failed attempt")
        with EmbeddedBroker(port=port) as broker:
            hub = Hub(broker.url, "lab", linear_program)
            hub.hears(Birth)
            process.terminate()
            hub.hears(Gone)
            hub.close()


def test_divergence_is_said_and_ends_the_device(hub: Hub, device: Device) -> None:
    with device.running() as process:
        hub.hears(Birth)
        hub.seat()
        hub.plan(0, method=Method.FL)
        hub.hears(ParameterUpload)
        hub.plan(1, method=Method.FL)
        hub.average(1, np.full(650, 3e38, np.float32))
        hub.hears(Gone)
        assert process.wait(timeout=WAIT_S) == 1
    assert "run 7, round 1: the loss is no longer a number; start the run again with a lower learning" in device.log
    assert device.show()["last round"] == "0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--broker", "http://127.0.0.1"], "mqtt://HOST"),
        (["--broker", "mqtt://user:secret@127.0.0.1"], "--credentials FILE"),
        (["--fleet", "Lab"], "a-z, 0-9"),
        (["--data", "nowhere.npz"], "no such file"),
        (["--program", "nowhere"], "no program at"),
        (["--keepalive", "1"], "5 to 65535"),
        (["--profile", "toaster"], "pi-4b"),
        (["--cert", "a.pem"], "both --cert and --key"),
        (["--broker", "mqtts://127.0.0.1", "--cafile", "nowhere.pem"], "TLS: cannot use nowhere.pem"),
        (["--credentials", "nowhere"], "file of two lines"),
        (["--power", "toaster"], "one of hwmon:auto"),
        (["--power", "trace:nowhere.csv"], "nowhere.csv"),
        (["--power-rest", "-1"], "0 to 3600 seconds"),
    ],
)
def test_says_what_to_change(
    tmp_path: Path, linear_folder: Path, shard_file: Path, arguments: list[str], message: str
) -> None:
    device = _device("mqtt://127.0.0.1:9", "lab", tmp_path, linear_folder, shard_file)
    result = CliRunner().invoke(edge, [*device.arguments[1:], *arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert "secret" not in result.output


def test_credentials_that_others_can_read_are_refused(tmp_path: Path, linear_folder: Path, shard_file: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("d0\nsecret\n")
    file.chmod(0o644)
    device = _device("mqtt://127.0.0.1:9", "lab", tmp_path, linear_folder, shard_file)
    result = CliRunner().invoke(edge, [*device.arguments[1:], "--credentials", str(file)])
    assert result.exit_code == 1
    assert "chmod 600" in result.output


def test_two_clients_with_one_folder_are_told_apart(hub: Hub, device: Device) -> None:
    with device.running() as first:
        hub.hears(Birth)
        with device.running() as second:
            assert second.wait(timeout=WAIT_S) == 1
        assert f"a client works here already (process {first.pid})" in device.log
        assert first.poll() is None


# ---------------------------------------------------------------- small parts


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker.lab", ("broker.lab", 1883, False)),
        ("mqtts://broker.lab", ("broker.lab", 8883, True)),
        ("mqtt://[::1]:1234", ("::1", 1234, False)),
    ],
)
def test_urls(url: str, address: tuple[str, int, bool]) -> None:
    parsed = parse_url(url)
    assert (parsed.host, parsed.port, parsed.tls) == address


@pytest.mark.parametrize("url", ["", "broker", "mqtt://", "ws://broker", "mqtt://broker:99999", "mqtt://broker/path"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="mqtt://HOST"):
        parse_url(url)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_doubles_up_to_a_minute_with_jitter(attempt: int, jitter: float) -> None:
    wait_s = backoff_s(attempt, jitter)
    assert 0.5 <= wait_s <= 90
    assert wait_s >= backoff_s(max(1, attempt - 1), jitter)
    assert backoff_s(1, 0.5) == 1.0


def test_a_password_is_not_printed() -> None:
    settings = Settings(
        broker="mqtt://b",
        fleet="f",
        device="d",
        program=Path(),
        data=Path(),
        work=Path(),
        user="u",
        password="hush",
    )
    assert "hush" not in repr(settings)
