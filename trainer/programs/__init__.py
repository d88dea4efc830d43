"""The programs that ship with the package, so that the demo needs no torch. `make programs` compiles them again."""

from __future__ import annotations

from pathlib import Path

SHIPPED = {"cnn-8x8": "cnn-8x8", "cnn-28x28": "cnn", "har-cnn": "har-cnn"}
"""Program -> model of `trainer.models`, each compiled with the model's own settings and seed 0."""


def shipped(name: str) -> Path:
    """The folder of a shipped program. Raises ValueError on another name."""
    if name not in SHIPPED:
        raise ValueError(f"no program {name!r} is shipped: one of {', '.join(SHIPPED)}, or compile your own")
    return Path(__file__).parent / name
