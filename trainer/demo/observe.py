"""What one run of one method has shown so far: the aggregator's events in, figures out. Pure.

Letters: D devices, r round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.record.run import Spread


@dataclass(slots=True, kw_only=True)
class Observed:
    """Fed by `hear`; never reads a clock."""

    devices: int
    rounds: int
    run: int | None = None
    """Its number in the ledger."""
    born: int = 0
    closed: int = 0
    """Rounds that are over."""
    round_seconds: dict[int, float] = field(default_factory=dict)
    missing: dict[int, list[str]] = field(default_factory=dict)
    reports: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """round -> device -> its report."""
    meters: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """round -> device -> its last `meter` event of that round."""
    refused: int = 0
    complete: bool = False
    reason: str = ""

    def hear(self, event: Mapping[str, Any]) -> None:
        """An event of `potstill broker run --json`; one of an unknown kind is left alone."""
        match event["event"]:
            case "run":
                self.run = int(event["run"])
            case "waiting":
                self.born = int(event["born"])
            case "round":
                self.closed = int(event["round"]) + 1
                self.round_seconds[int(event["round"])] = float(event["seconds"])
                self.missing[int(event["round"])] = list(event["missing"])
            case "report":
                figures = {key: value for key, value in event.items() if key not in {"event", "device", "round"}}
                self.reports.setdefault(int(event["round"]), {})[str(event["device"])] = figures
            case "meter":
                self.meters.setdefault(int(event["round"]), {})[str(event["device"])] = dict(event)
            case "refused":
                self.refused += int(event.get("times", 1))
            case "end":
                self.complete = bool(event["complete"])
                self.reason = str(event.get("reason", ""))

    @property
    def seconds(self) -> float:
        """From the first plan to the close of the last round."""
        return sum(self.round_seconds.values())

    @property
    def newest(self) -> int | None:
        """The last round that every device has reported."""
        whole = [number for number, reports in self.reports.items() if len(reports) >= self.devices]
        return max(whole, default=None)

    def accuracy(self, number: int) -> Spread:
        """Over the devices that reported round `number`, at least one."""
        return Spread.of([float(report["accuracy"]) for report in self.reports[number].values()])
