"""Every default of the reference trainer, in one place: those of all methods, then what a method changes.

Sources: METHODS.md marks what a paper prints; all else is ours, chosen by trying (docs/reference.md).
"""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("alone", "fl", "fd", "fld", "mixfld", "mix2fld", "ds-fl", "cfd", "share")
SEEDED = ("fld", "mixfld", "mix2fld")
"""Methods whose devices give samples away."""
POOLED = ("ds-fl", "cfd", "share")
"""Methods that label inputs of a shared, unlabelled pool."""
RUNTIMES = ("onnx", "torch", "numpy", "eager")
"""`eager` is torch's own autograd on the module, without a compiled program: the independent witness."""
WEIGHTS = ("sqrt", "count", "holders")


class RunError(Exception):
    """A run cannot start or go on. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run: one method on one split with one seed. Nothing is left open; a worker needs nothing else."""

    method: str
    data: str
    split: str
    devices: int
    samples: int
    """A device, where the split is not natural."""
    seed: int
    """Of split, batches and, with `initial` = seed, the initial parameters."""
    programs: tuple[str, ...]
    """Folders; device i takes number i modulo their count."""
    models: tuple[str, ...] = ()
    """Names of `trainer.models` behind the programs; `eager` needs them."""
    runtime: str = "onnx"
    initial: str = "seed"
    """Initial parameters: `program` (those it was compiled with, as devices have) or `seed` (drawn anew)."""
    rounds: int = 30
    steps: int = 32
    """K: local steps a round."""
    lr: float = 0.1
    gamma: float = 1.0
    """Weight of FD's teacher."""
    normalise: bool = False
    """Divide FD's target by 1 + gamma."""
    code: str = "log4"
    """Of rows of mean logits (`trainer.reference.quantise`)."""
    shift: int = 0
    """Local and shared images are shifted by up to so many pixels."""
    every: int = 5
    """Rounds between two measurements of accuracy; the first and the last round are always measured."""

    inputs: int = 900
    """S: inputs of the pool that a round shares."""
    label_code: str = "argmax"
    """Of a shared input's label."""
    warm_up: int = 5
    """share: rounds of FD alone; hard votes from the start can kill a label for good."""
    buffer: int = 3
    """share: rounds whose labelled inputs a device trains on."""
    weights: str = "sqrt"
    """share: what a device's vote for a label weighs: sqrt(its samples of the label), their count, or 1."""
    temperature: float = 0.1
    """ds-fl: T of the entropy reduction."""

    seeds: int = 50
    """N_S: samples (or mixed pairs) that a device gives away."""
    lam: float = 0.1
    """lambda of the mixing."""
    beta: float = 1.0
    """Weight of the conversion's term towards the mean logits."""
    server_steps: int = 32
    """K_s: steps of the server a round."""

    channel: str = ""
    """Of `trainer.channel`; empty: every message arrives, and takes no time."""


OWN: dict[str, dict[str, object]] = {
    "alone": {},
    "fl": {},
    "fd": {},
    "fld": {},
    "mixfld": {},
    "mix2fld": {},
    "ds-fl": {"label_code": "float32"},
    "cfd": {"inputs": 1000},
    "share": {"shift": 2},
}
"""What a method changes. DS-FL sends float32 (arXiv 2008.06180); CFD labels the whole pool each round, because its
delta code lives on labels that stay (arXiv 2012.00632)."""
