"""The device over TLS with client certificates, against Debian's mosquitto."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.servers import free_port
from edge.wire import topics
from edge.wire.codec import decode
from edge.wire.messages import Birth, Gone, Message

pytestmark = pytest.mark.mosquitto
WAIT_S = 20.0

CONFIGURATION = """\
listener {port} 127.0.0.1
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
require_certificate true
use_identity_as_username true
user root
"""


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=WAIT_S)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a certificate each for the broker and a device."""
    if shutil.which("openssl") is None:
        assert not os.environ.get("CI"), "in CI nothing is left out, but: no openssl command"
        pytest.skip("no openssl command (Debian: apt-get install openssl)")
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    for name in ("broker", "d0"):
        _openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.pem")
    return folder


@pytest.fixture(scope="module")
def port(certificates: Path) -> Iterator[int]:
    port = free_port("127.0.0.1")
    (certificates / "mosquitto.conf").write_text(CONFIGURATION.format(port=port, folder=certificates))
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
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
    tls = ["--cafile", str(certificates / "ca.pem")]
    tls += ["--cert", str(certificates / "d0.pem"), "--key", str(certificates / "d0.key")]
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
