"""`potstill broker run` over TLS with client certificates, against Debian's mosquitto."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.servers import free_port
from broker.servers.mosquitto import configuration, find_mosquitto
from tests.certificates import client_options, listener, make_certificates
from tests.fleet import Fleet

pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def url(certificates: Path) -> Iterator[str]:
    port = free_port("127.0.0.1")
    lines = configuration("127.0.0.1", port).replace("log_type error", "log_type all")
    (certificates / "mosquitto.conf").write_text(f"{lines}{listener(certificates)}\n")
    program = find_mosquitto()
    assert program is not None
    command = [program, "-c", str(certificates / "mosquitto.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert any("running" in line for line in server.stderr), "mosquitto did not start"
            yield f"mqtts://localhost:{port}"
        finally:
            server.kill()
            server.communicate(timeout=20)


@pytest.fixture
def fleet(url: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, url) as fleet:
        yield fleet


RUN = ("--devices", "1", "--rounds", "1", "--steps", "1", "--start-deadline", "60")


def test_a_run_between_certificates(fleet: Fleet, certificates: Path) -> None:
    fleet.start("d0", *client_options(certificates, "d0"))
    aggregator = fleet.new_run(*RUN, *client_options(certificates, "hub"))
    aggregator.complete()
    (meter,) = aggregator.named("meter")
    assert meter["connects"] == 0
    packets = sum(meter["mqtt_up"].values())
    records = 22 * sum(meter["packets_up"].values())
    assert meter["stream"]["sent"] - meter["stream"]["retransmitted"] == packets + records  # TLS 1.3: one a packet


def test_a_broker_of_another_ca_is_not_talked_to(fleet: Fleet, certificates: Path) -> None:
    wrong = ["--cafile", str(certificates / "hub.pem"), *client_options(certificates, "hub")[2:]]
    aggregator = fleet.new_run(*RUN, *wrong)
    assert aggregator.process.wait(60) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in aggregator.stderr()


def test_without_a_certificate_it_ends_and_says_so(fleet: Fleet, certificates: Path) -> None:
    aggregator = fleet.new_run(*RUN, "--cafile", str(certificates / "ca.pem"))
    assert aggregator.process.wait(60) == 1
    assert "give --cert and --key" in aggregator.stderr()
