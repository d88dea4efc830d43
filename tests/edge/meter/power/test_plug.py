"""Plugs on a real broker, with answers as they were recorded.

Tasmota: STATUS10 of a metering plug (its documentation, "Status 10"; captures in public repositories, 2022 and 2023).
Shelly: Switch.GetStatus (Gen2 API; the example of its documentation).
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.servers.embedded import EmbeddedBroker
from edge.meter.power import plug as plugs
from edge.meter.power.choose import open_sensor
from edge.meter.power.plug import PlugSensor
from edge.meter.power.protocol import Reading, SensorFailed, SensorMissing, Watts

TASMOTA = (
    '{"StatusSNS":{"Time":"2022-08-19T16:00:25","ENERGY":{"TotalStartTime":"2022-08-19T11:52:13","Total":6.04,'
    '"Yesterday":0,"Today":6.04,"Power":20,"ApparentPower":26,"ReactivePower":18,"Factor":0.74,"Voltage":234,'
    '"Current":0.111}}}'
)
TASMOTA_TWO = '{"StatusSNS":{"Time":"2023-05-19T20:52:56","ENERGY":{"Total":514.153,"Power":[3.2,1.3],"Voltage":234}}}'
TASMOTA_NO_METER = (
    '{"StatusSNS":{"Time":"2023-09-18T16:31:08","AM2301":{"Temperature":27.4,"Humidity":68.0,"DewPoint":21.0},'
    '"TempUnit":"C"}}'
)
SHELLY = (
    '{"id":1,"src":"shellyplugsg3-d8","dst":"potstill-1","result":{"id":0,"source":"init","output":true,'
    '"apower":47.11,"voltage":232.0,"current":0.204,"aenergy":{"total":5.125,"by_minute":[0.0,0.0,0.0],'
    '"minute_ts":1675718520},"temperature":{"tC":25.3,"tF":77.5}}}'
)
SHELLY_REFUSES = '{"id":1,"src":"shelly","dst":"potstill-1","error":{"code":404,"message":"No handler"}}'


def reads(found: Reading, wanted: Reading) -> None:
    assert type(found) is type(wanted)
    assert found.value == pytest.approx(wanted.value)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pytest.importorskip("iotcore")
    with EmbeddedBroker() as broker:
        yield broker.url


class Plug:
    """Answers each question with what was recorded, on its own topic or where the question says (`src`)."""

    def __init__(self, url: str, question: str, answer_on: str | None) -> None:
        self.answers: list[str] = []
        self.asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answer_on = answer_on
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._mqtt = paho.Client(CallbackAPIVersion.VERSION2, client_id="plug", protocol=paho.MQTTv5)
        self._mqtt.on_message = self._on_message
        self._mqtt.on_subscribe = lambda *_: subscribed.put(True)
        host, port = url.removeprefix("mqtt://").split(":")
        self._mqtt.connect(host, int(port))
        self._mqtt.subscribe(question)
        self._mqtt.loop_start()
        assert subscribed.get(timeout=20)

    def _on_message(self, client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.asked.put(bytes(message.payload))
        if self.answers:
            to = self._answer_on or json.loads(message.payload)["src"] + "/rpc"
            client.publish(to, self.answers[0])

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()
        self._mqtt.on_message = self._mqtt.on_subscribe = None


@contextmanager
def plugged(url: str, question: str, answer_on: str | None, answer: str) -> Iterator[Plug]:
    plug = Plug(url, question, answer_on)
    plug.answers = [answer]
    try:
        yield plug
    finally:
        plug.close()


def test_tasmota_is_asked_for_its_power(url: str) -> None:
    with plugged(url, "cmnd/desk/STATUS", "stat/desk/STATUS10", TASMOTA) as plug:
        sensor = open_sensor("plug:tasmota/desk", broker=url)
        assert sensor.read() == Watts(20.0)
        assert plug.asked.get(timeout=20) == b"10"
        plug.answers = [TASMOTA_TWO]
        reads(sensor.read(), Watts(4.5))
        plug.answers = [TASMOTA_NO_METER]
        with pytest.raises(SensorFailed, match="without its power"):
            sensor.read()
        sensor.close()


def test_shelly_is_asked_over_its_rpc(url: str) -> None:
    with plugged(url, "shellyplugsg3-d8/rpc", None, SHELLY) as plug:
        sensor = open_sensor(f"plug:shelly/shellyplugsg3-d8@{url}")
        assert sensor.read() == Watts(47.11)
        assert b'"method": "Switch.GetStatus"' in plug.asked.get(timeout=20)
        plug.answers = [SHELLY_REFUSES]
        with pytest.raises(SensorFailed, match="No handler"):
            sensor.read()
        sensor.close()


def test_a_plug_that_falls_silent_fails(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with plugged(url, "cmnd/lamp/STATUS", "stat/lamp/STATUS10", TASMOTA) as plug:
        sensor = PlugSensor("tasmota", "lamp", url)
        plug.answers = []
        monkeypatch.setattr(plugs, "ANSWER_S", 0.1)
        with pytest.raises(SensorFailed, match=r"did not answer within 0\.1 s"):
            sensor.read()
        sensor.close()


def test_a_plug_that_is_not_there_is_missing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugs, "ANSWER_S", 0.1)
    with pytest.raises(SensorMissing, match="is the plug on this broker"):
        PlugSensor("tasmota", "nobody", url)
    with pytest.raises(SensorMissing, match="no answer from the broker"):
        PlugSensor("tasmota", "nobody", "mqtt://127.0.0.1:9")
    with pytest.raises(SensorMissing, match="asked without TLS"):
        PlugSensor("tasmota", "nobody", "mqtts://127.0.0.1:8883")
    with pytest.raises(SensorMissing, match="mqtt://HOST"):
        PlugSensor("tasmota", "nobody", "http://127.0.0.1")
