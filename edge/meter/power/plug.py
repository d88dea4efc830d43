"""A Tasmota or Shelly (Gen2 and later) plug that is asked over MQTT: the wall socket, supply included.

Asked and answered, so that a reading is of now and not of the last telemetry period (Tasmota: 10 to 300 s):

- Tasmota (tasmota.github.io/docs/Commands, "Status 10"): `cmnd/NAME/STATUS` with `10` -> `stat/NAME/STATUS10`
  {"StatusSNS": {"ENERGY": {"Power": 3, ...}}}; a plug of several meters gives a list, which is summed. Watts are whole
  unless `WattRes 3` was set.
- Shelly (shelly-api-docs, Gen2, Switch.GetStatus over MQTT): `ID/rpc` with {"id", "src", "method", "params"} ->
  `SRC/rpc` {"id", "result": {"apower": 3.1, ...}}.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.meter.power.protocol import SensorFailed, SensorMissing, Watts
from edge.mqtt import parse_url

ANSWER_S = 3.0
CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    ask: Callable[[str, str], tuple[str, bytes]]
    """(the plug's name, our name) -> topic and payload."""
    answers: Callable[[str, str], str]
    """The topic that its answers come on."""
    parse: Callable[[Any], float]
    """Its JSON -> watts. Raises KeyError, TypeError or ValueError on anything else."""


def _tasmota_w(answer: Any) -> float:
    power = answer["StatusSNS"]["ENERGY"]["Power"]
    return float(sum(power)) if isinstance(power, list) else float(power)


def _shelly_w(answer: Any) -> float:
    return float(answer["result"]["apower"])


def _shelly_question(us: str) -> bytes:
    return json.dumps({"id": 1, "src": us, "method": "Switch.GetStatus", "params": {"id": 0}}).encode()


_MAKERS = {
    "tasmota": _Maker(
        ask=lambda plug, us: (f"cmnd/{plug}/STATUS", b"10"),  # noqa: ARG005 - Tasmota answers everybody
        answers=lambda plug, us: f"stat/{plug}/STATUS10",  # noqa: ARG005
        parse=_tasmota_w,
    ),
    "shelly": _Maker(
        ask=lambda plug, us: (f"{plug}/rpc", _shelly_question(us)),
        answers=lambda plug, us: f"{us}/rpc",  # noqa: ARG005
        parse=_shelly_w,
    ),
}
MAKERS = tuple(_MAKERS)


class PlugSensor:
    """One plug. Raises SensorMissing where broker or plug do not answer.

    The connection is one of its own: its bytes are none of the method's, and on a device they cost energy too.
    """

    covers = "everything behind the plug, the supply's own loss included"

    def __init__(
        self,
        maker: str,
        plug: str,
        broker: str,
    ) -> None:
        try:
            address = parse_url(broker)
        except ValueError as problem:
            raise SensorMissing(f"plug:{maker}/{plug}@URL: {problem}") from problem
        if address.tls:
            raise SensorMissing(f"a plug is asked without TLS: plug:{maker}/{plug}@mqtt://HOST[:PORT]")
        self.name = f"{maker} plug {plug}"
        self._maker, self._plug, self._us = _MAKERS[maker], plug, f"potstill-{uuid4().hex[:8]}"
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._mqtt = self._connected(address.host, address.port)
        try:
            self.read()
        except SensorFailed as problem:
            self.close()
            raise SensorMissing(f"{problem}: is the plug on this broker, and does it meter?") from problem

    def _connected(self, host: str, port: int) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=self._us, protocol=paho.MQTTv5)
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        topic = self._maker.answers(self._plug, self._us)
        client.on_connect = lambda client, *_: client.subscribe(topic)
        client.on_subscribe = lambda *_: subscribed.put(True)
        client.on_message = lambda _client, _userdata, message: self._answers.put(bytes(message.payload))
        try:
            client.connect(host, port)
            client.loop_start()
            subscribed.get(timeout=CONNECT_S)
        except (OSError, queue.Empty) as problem:
            client.loop_stop()
            raise SensorMissing(f"{self.name}: no answer from the broker {host}:{port} ({problem})") from problem
        return client

    def read(self) -> Watts:
        while not self._answers.empty():
            self._answers.get()  # of a question that was given up
        topic, question = self._maker.ask(self._plug, self._us)
        self._mqtt.publish(topic, question)
        try:
            answer = self._answers.get(timeout=ANSWER_S)
            return Watts(self._maker.parse(json.loads(answer)))
        except queue.Empty as problem:
            raise SensorFailed(f"{self.name} did not answer within {ANSWER_S:g} s") from problem
        except (KeyError, TypeError, ValueError) as problem:
            raise SensorFailed(f"{self.name} answered without its power: {answer[:120]!r}") from problem

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()
        self._mqtt.on_message = self._mqtt.on_connect = self._mqtt.on_subscribe = None  # no cycle: sockets close here
