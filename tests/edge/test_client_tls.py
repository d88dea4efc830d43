"""The device over TLS with client certificates, against Debian's mosquitto."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.servers import free_port
from broker.servers.mosquitto import find_mosquitto
from edge.wire import topics
from edge.wire.codec import decode
from edge.wire.messages import Birth, Gone, Message
from tests.certificates import client_options, listener, make_certificates

pytestmark = pytest.mark.mosquitto
WAIT_S = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def port(certificates: Path) -> Iterator[int]:
    port = free_port("127.0.0.1")
    (certificates / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\n{listener(certificates)}\nuser root\n")
    program = find_mosquitto()
    assert program is not None
    command = [program, "-v", "-c", str(certificates / "mosquitto.conf")]
    broker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert broker.stderr is not None
    try:
        for line in broker.stderr:
            if "running" in line:
                break
        else:
            pytest.fail("mosquitto did not start")
        yield port
    finally:
        broker.kill()
        broker.communicate(timeout=WAIT_S)


def _device(port: int, linear_folder: Path, shard_file: Path, tmp_path: Path, *more: str) -> list[str]:
    arguments = ["edge", "run", "--broker", f"mqtts://localhost:{port}", "--fleet", "tls", "--device", "d0"]
    arguments += ["--program", str(linear_folder), "--data", str(shard_file), "--work", str(tmp_path / "work")]
    return [sys.executable, "-m", "potstill", *arguments, "--runtime", "numpy", *more]


def test_a_device_with_a_certificate_is_heard(
    certificates: Path, port: int, linear_folder: Path, shard_file: Path, tmp_path: Path
) -> None:
    heard: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def on_message(_client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        heard.put(decode(bytes(message.payload), limit=10_000))

    hub = paho.Client(CallbackAPIVersion.VERSION2, client_id="hub", protocol=paho.MQTTv5)
    hub.tls_set(str(certificates / "ca.pem"), str(certificates / "d0.pem"), str(certificates / "d0.key"))
    hub.on_message = on_message
    hub.connect("localhost", port)
    hub.subscribe(topics.every_birth("tls"), 1)
    hub.loop_start()
    tls = client_options(certificates, "d0")
    device = subprocess.Popen(_device(port, linear_folder, shard_file, tmp_path, *tls))
    try:
        assert isinstance(heard.get(timeout=WAIT_S), Birth)
        device.terminate()
        assert heard.get(timeout=WAIT_S) == Gone()
        assert device.wait(timeout=WAIT_S) == 0
    finally:
        device.kill()
        device.wait(timeout=WAIT_S)
        hub.disconnect()
        hub.loop_stop()
        hub.on_message = None


def test_a_broker_of_another_ca_is_not_talked_to(
    certificates: Path, port: int, linear_folder: Path, shard_file: Path, tmp_path: Path
) -> None:
    tls = ["--cafile", str(certificates / "d0.pem")]
    command = _device(port, linear_folder, shard_file, tmp_path, *tls)
    device = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert device.stderr is not None
    try:
        said = next(line for line in device.stderr if "cannot connect" in line)
        assert "CERTIFICATE_VERIFY_FAILED" in said
        device.terminate()
        assert device.wait(timeout=WAIT_S) == 0
    finally:
        device.kill()
        device.communicate(timeout=WAIT_S)
