"""One run, round by round: who computes what, what is counted, what is kept on the disk. Engine-blind.

Letters: D devices, r round.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.wire.streams import Purpose, stream
from trainer.channel import Channel, Delivery, load_channel
from trainer.record.run import Curve, Layers, Point, Spread
from trainer.reference.engines import Engine
from trainer.reference.methods import method
from trainer.reference.settings import Settings
from trainer.reference.site import Arrays, FloatArray
from trainer.reference.work import Done, device_round, scores_of_model, server_round
from trainer.shards import device_names

Hear = Callable[[Settings, "Standing"], None]


@dataclass(slots=True, kw_only=True)
class Standing:
    """All that a run is between two rounds."""

    devices: list[Arrays]
    """D memories."""
    server: Arrays = field(default_factory=dict)
    broadcast: Arrays = field(default_factory=dict)
    round: int = 0
    """The next one."""
    up: float = 0.0
    """Payload bytes so far, a device."""
    down: float = 0.0
    seconds: float = 0.0
    """Computing of the slowest device and of the server, and the channel's slots where there is one."""
    lost: int = 0
    """Uploads."""
    model: FloatArray | None = None
    """The newest that the server made, where it makes one."""
    points: list[Point] = field(default_factory=list)


async def follow(settings: Settings, label: str, engine: Engine, folder: Path | None, hear: Hear) -> Curve:
    """The whole run; goes on from `folder` where an earlier one stopped. Results do not depend on either."""
    file = None if folder is None else folder / f"{name_of(settings, label)}.npz"
    now = _load(file, settings) if file is not None and file.exists() else None
    now = now or Standing(devices=[{} for _ in range(settings.devices)])
    hear(settings, now)
    while now.round < settings.rounds:
        await one_round(settings, now, engine)
        hear(settings, now)
        if file is not None and now.points and now.points[-1].round == now.round - 1:
            _save(file, settings, now)
    return Curve(
        method=settings.method,
        split=settings.split,
        seed=settings.seed,
        label=label,
        points=tuple(now.points),
        figures={"payload_up_first_round": _first(now.points), "uploads_lost": now.lost},
    )


def name_of(settings: Settings, label: str) -> str:
    words = [settings.method, label, settings.split, str(settings.seed)]
    return "-".join(word.replace(":", "_").replace(" ", "_") for word in words if word)


def _first(points: list[Point]) -> float | None:
    return points[0].up.payload if points and points[0].up is not None else None


async def one_round(settings: Settings, now: Standing, engine: Engine) -> None:
    """All devices, then the server, then the measurement where one is due. Changes `now`.

    With a channel a message may be lost: an upload lost does not count and its device is not in the cohort; a device
    that missed a broadcast goes on with what it has. Where every upload is lost the server sends nothing.
    """
    judged = method(settings.method).JUDGED
    due = is_due(now.round, settings)
    done: list[Done] = list(await asyncio.gather(*_device_calls(settings, now, engine, due and "devices" in judged)))
    now.devices = [one.memory for one in done]
    air = Air(settings, now.round)
    cohort = air.uploads([one.message.payload for one in done])
    uploads = [one.message.arrays for one, counts in zip(done, cohort, strict=True) if counts]
    now.seconds += max(one.cpu_s for one in done)
    now.up += sum(one.message.payload for one in done) / settings.devices
    now.broadcast = {}
    if uploads:
        served = await engine.call(server_round, settings, now.round, now.server, uploads)
        heard = air.downloads(served.message.payload)
        now.server = served.memory
        now.broadcast = {**served.message.arrays, "cohort": cohort, "heard": heard}
        now.down += served.message.payload
        now.seconds += served.cpu_s
        now.model = served.message.arrays.get("model", now.model)
    now.seconds += air.seconds
    now.lost += int((~cohort).sum())
    if due:
        scores = {"devices": [one.scores for one in done]}
        if "server" in judged:
            scores["server"] = await _served_scores(settings, now.model, engine)
        now.points.append(_point(settings, now, scores))
    now.round += 1


def _device_calls(settings: Settings, now: Standing, engine: Engine, measure: bool) -> list[Awaitable[Done]]:
    heard = now.broadcast.get("heard", np.ones(settings.devices, bool))
    return [
        engine.call(device_round, settings, i, now.round, now.devices[i], now.broadcast if heard[i] else {}, measure)
        for i in range(settings.devices)
    ]


class Air:
    """One round's channel (trainer.channel): who got through, and the slots it took. Without one all do, in no time.

    The fading of a device and round has a stream of its own: its upload first, then its download.
    """

    def __init__(self, settings: Settings, round_: int) -> None:
        self._channel = load_channel(settings.channel, devices=settings.devices) if settings.channel else None
        self._rngs = [
            stream(settings.seed, device, round_, Purpose.FADING) for device in device_names(settings.devices)
        ]
        self.seconds = 0.0

    def uploads(self, payloads: Sequence[int]) -> NDArray[np.bool_]:
        """(D,) whose upload, of so many bytes, arrived: all together, the slowest counts."""
        return self._send(payloads, Channel.upload)

    def downloads(self, payload: int) -> NDArray[np.bool_]:
        """(D,) who received the broadcast."""
        return self._send([payload] * len(self._rngs), Channel.download)

    def _send(
        self, payloads: Sequence[int], send: Callable[[Channel, int, np.random.Generator], Delivery]
    ) -> NDArray[np.bool_]:
        arrived, slowest = np.ones(len(payloads), bool), 0.0
        if self._channel is not None:
            for i, payload in enumerate(payloads):
                if payload:
                    delivery = send(self._channel, 8 * payload, self._rngs[i])
                    arrived[i], slowest = delivery.delivered, max(slowest, delivery.seconds)
        self.seconds += slowest
        return arrived


def is_due(round_: int, settings: Settings) -> bool:
    """Whether accuracy is measured after this round: the first, every so many, the last."""
    return round_ == 0 or (round_ + 1) % settings.every == 0 or round_ + 1 == settings.rounds


async def _served_scores(settings: Settings, model: FloatArray | None, engine: Engine) -> list[dict[str, float]]:
    """Of the server's newest model (None: it has made none yet), at each device; once where all have one test set."""
    natural = settings.split == "natural"
    numbers = range(settings.devices if natural else 1)
    calls = [engine.call(scores_of_model, settings, number, model) for number in numbers]
    scores = list(await asyncio.gather(*calls))
    return scores if natural else scores * settings.devices


def _point(settings: Settings, now: Standing, scores: Mapping[str, list[dict[str, float]]]) -> Point:
    """The score is that of the judged model on the judged test set; the others stand with the devices."""
    judged = method(settings.method).JUDGED
    view = "own" if settings.split == "natural" else "common"
    columns = {
        (whose, test): [one[test] for one in scores[whose]] for whose in judged for test in sorted(scores[whose][0])
    }
    main = columns[judged[0], view]
    return Point(
        round=now.round,
        score=Spread.of(main),
        seconds=now.seconds,
        up=Layers(payload=now.up),
        down=Layers(payload=now.down),
        devices={
            device: {f"{whose} {test}": values[number] for (whose, test), values in columns.items()}
            for number, device in enumerate(device_names(settings.devices))
        },
    )


# ---------------------------------------------------------------- on the disk, between rounds


def _save(file: Path, settings: Settings, now: Standing) -> None:
    """Arrays by name; whole or not at all."""
    arrays: dict[str, Any] = {
        f"device {i} {key}": value for i, one in enumerate(now.devices) for key, value in one.items()
    }
    arrays |= {f"server 0 {key}": value for key, value in now.server.items()}
    arrays |= {f"broadcast 0 {key}": value for key, value in now.broadcast.items()}
    plain = {
        "settings": asdict(settings),
        "round": now.round,
        "up": now.up,
        "down": now.down,
        "seconds": now.seconds,
        "lost": now.lost,
        "points": [asdict(point) for point in now.points],
    }
    if now.model is not None:
        arrays["model"] = now.model
    arrays["plain"] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(stream, **arrays)
    part.replace(file)


def _load(file: Path, settings: Settings) -> Standing | None:
    """None where it was saved by a run with other settings (more rounds are no other run)."""
    with np.load(file, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    plain = json.loads(arrays.pop("plain").tobytes())
    wanted = json.loads(json.dumps(asdict(settings)))
    if {**plain["settings"], "rounds": 0} != {**wanted, "rounds": 0} or plain["round"] > settings.rounds:
        return None
    now = Standing(devices=[{} for _ in range(settings.devices)], round=plain["round"])
    now.up, now.down, now.seconds, now.lost = plain["up"], plain["down"], plain["seconds"], plain["lost"]
    now.model = arrays.pop("model", None)
    now.points = [_read_point(point) for point in plain["points"]]
    for name, value in arrays.items():
        owner, number, key = name.split(" ", 2)
        {"device": now.devices[int(number)], "server": now.server, "broadcast": now.broadcast}[owner][key] = value
    return now


def _read_point(plain: dict[str, Any]) -> Point:
    return Point(
        round=plain["round"],
        score=Spread(**plain["score"]),
        seconds=plain["seconds"],
        up=Layers(**plain["up"]),
        down=Layers(**plain["down"]),
        devices=plain["devices"],
    )
