"""What happens to a fleet in a run, and when. Pure: it is told how far the run is, and says what is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.emulate.fleet import Happening, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One end of a happening: its beginning, or (`back`) its undoing."""

    happening: Happening
    back: bool

    @property
    def trigger(self) -> Trigger:
        until = self.happening.until
        return until if self.back and until is not None else self.happening.at

    @property
    def text(self) -> str:
        kind = self.happening.kind
        words = {
            ("drop", False): "drops out",
            ("drop", True): "returns",
            ("fade", False): "link fades",
            ("fade", True): "link as before",
            ("broker-restart", False): "the broker restarts",
        }[kind, self.back]
        return words if not self.happening.devices else f"{words}: {', '.join(self.happening.devices)}"


class Scenario:
    """The happenings of one run, each end of each once. A `clock` is set when its device starts, so not here."""

    def __init__(self, happenings: Sequence[Happening]) -> None:
        timed = [happening for happening in happenings if happening.kind != "clock"]
        self._waiting = [Step(happening=happening, back=False) for happening in timed]
        self._waiting += [Step(happening=happening, back=True) for happening in timed if happening.until is not None]

    def due(self, *, closed: int, seconds: float) -> list[Step]:
        """`closed` rounds are over, `seconds` have passed since the first plan. In the order of the file."""
        steps = [step for step in self._waiting if _reached(step.trigger, closed, seconds)]
        self._waiting = [step for step in self._waiting if step not in steps]
        return steps

    @property
    def waiting(self) -> tuple[Step, ...]:
        """What has not come: a run that ends before it says so."""
        return tuple(self._waiting)


def _reached(trigger: Trigger, closed: int, seconds: float) -> bool:
    if trigger.round is not None:
        return closed >= trigger.round
    return trigger.seconds is not None and seconds >= trigger.seconds


def wrong_clocks(happenings: Sequence[Happening]) -> dict[str, float]:
    """How many seconds the wall clock of each device named is ahead."""
    return {name: each.offset_s for each in happenings if each.kind == "clock" for name in each.devices}
