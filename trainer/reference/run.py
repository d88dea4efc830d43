"""One run, round by round: who computes what, what is counted, what is kept on the disk. Engine-blind.

Letters: D devices, r round.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.record.run import Curve, Layers, Point, Spread
from trainer.reference.engines import Engine
from trainer.reference.methods import method
from trainer.reference.settings import Settings
from trainer.reference.site import Arrays
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
        figures={"payload_up_first_round": _first(now.points)},
    )


def name_of(settings: Settings, label: str) -> str:
    words = [settings.method, label, settings.split, str(settings.seed)]
    return "-".join(word.replace(":", "_").replace(" ", "_") for word in words if word)


def _first(points: list[Point]) -> float | None:
    return points[0].up.payload if points and points[0].up is not None else None


async def one_round(settings: Settings, now: Standing, engine: Engine) -> None:
    """All devices, then the server, then the measurement where one is due. Changes `now`."""
    judged = method(settings.method).JUDGED
    due = is_due(now.round, settings)
    calls = [
        engine.call(device_round, settings, i, now.round, now.devices[i], now.broadcast, due and "devices" in judged)
        for i in range(settings.devices)
    ]
    done: list[Done] = list(await asyncio.gather(*calls))
    now.devices = [one.memory for one in done]
    uploads = [one.message.arrays for one in done]
    served = await engine.call(server_round, settings, now.round, now.server, uploads)
    now.server, now.broadcast = served.memory, {**served.message.arrays, "cohort": np.ones(settings.devices, bool)}
    now.up += sum(one.message.payload for one in done) / settings.devices
    now.down += served.message.payload
    now.seconds += max(one.cpu_s for one in done) + served.cpu_s
    if due:
        scores = {"devices": [one.scores for one in done]}
        if "server" in judged:
            scores["server"] = await _served_scores(settings, now.broadcast, engine)
        now.points.append(_point(settings, now, scores))
    now.round += 1


def is_due(round_: int, settings: Settings) -> bool:
    """Whether accuracy is measured after this round: the first, every so many, the last."""
    return round_ == 0 or (round_ + 1) % settings.every == 0 or round_ + 1 == settings.rounds


async def _served_scores(settings: Settings, broadcast: Arrays, engine: Engine) -> list[dict[str, float]]:
    """Of the server's model, at each device; one measurement where all have one test set."""
    natural = settings.split == "natural"
    numbers = range(settings.devices if natural else 1)
    calls = [engine.call(scores_of_model, settings, number, broadcast["model"]) for number in numbers]
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
        score=Spread(mean=float(np.mean(main)), worst=min(main), best=max(main)),
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
        "points": [asdict(point) for point in now.points],
    }
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
    now.up, now.down, now.seconds = plain["up"], plain["down"], plain["seconds"]
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
