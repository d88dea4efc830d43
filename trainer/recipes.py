"""What suits the samples where nothing else is asked for: chosen by trying, docs/demo.md says how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    rounds: int
    steps: int
    lr: float
    gamma: float
    normalise: bool = False
    """Divide the target by 1 + gamma: momentum with the whole step diverges on some persons of HAR."""

    def but(self, asked: Mapping[str, Any]) -> Recipe:
        """With what was asked for in its place; None: nothing was."""
        own = {field.name for field in fields(self)}
        return replace(self, **{name: value for name, value in asked.items() if name in own and value is not None})


_RECIPES = {
    (1, 8, 8): Recipe(rounds=25, steps=16, lr=0.1, gamma=1.0),
    (1, 28, 28): Recipe(rounds=30, steps=32, lr=0.1, gamma=1.0),
    (9, 128): Recipe(rounds=30, steps=16, lr=0.03, gamma=1.0, normalise=True),
    (135,): Recipe(rounds=30, steps=32, lr=0.05, gamma=1.0, normalise=True),
}
_OTHERS = Recipe(rounds=20, steps=16, lr=0.05, gamma=1.0)


def recipe(input_shape: tuple[int, ...]) -> Recipe:
    return _RECIPES.get(input_shape, _OTHERS)


def shift(input_shape: tuple[int, ...]) -> int:
    """Pixels that `share` shifts by: a fourteenth of an image's side (2 of 28, 0 of 8), nothing of what is no image."""
    return min(input_shape[-2:]) // 14 if len(input_shape) == 3 else 0
