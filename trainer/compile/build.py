"""From a model's name to a packed program, with the model's own settings where none are given."""

from __future__ import annotations

import re

from trainer.compile.optimise import Optimiser
from trainer.compile.package import Packed, pack
from trainer.models import MODELS, build_model

DEFAULT_OPTIMISER: Optimiser = "sgd"
BATCH = 32


def build_program(
    model: str,
    *,
    optimiser: Optimiser | None = None,
    batch: int = BATCH,
    input_shape: tuple[int, ...] | None = None,
    labels: tuple[str, ...] | None = None,
    name: str | None = None,
    seed: int = 0,
) -> Packed:
    """`model` as in `trainer.models.build_model`. Raises ValueError that says what is missing or cannot be compiled."""
    kind = MODELS.get(model)
    if kind is None and ":" in model and (input_shape is None or labels is None):
        raise ValueError(
            "your own module needs --input-shape (of one sample, such as 1,28,28) and --labels (10, or a,b,c)"
        )
    module = build_model(model, input_shape=input_shape, labels=len(labels) if labels else None, seed=seed)
    if kind is not None:
        input_shape, labels = input_shape or kind.input_shape, labels or kind.labels
        optimiser = optimiser or kind.optimiser
    assert input_shape is not None
    assert labels is not None
    return pack(
        module,
        name=name or re.sub(r"[^A-Za-z0-9._-]+", "-", model),
        input_shape=input_shape,
        labels=labels,
        optimiser=optimiser or DEFAULT_OPTIMISER,
        batch=batch,
    )
