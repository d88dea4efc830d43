"""A fleet's [fleet] table with nothing left open: what was not written is chosen as the demo chooses it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from edge.wire.manifest import Manifest
from trainer.data import Dataset
from trainer.demo.settings import find_program
from trainer.emulate.fleet import Fleet, Training
from trainer.partition import Split, parse_split, resolve
from trainer.recipes import recipe
from trainer.shards import default_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    program: Path
    manifest: Manifest
    split: Split
    samples: int
    own_test: bool
    rounds: int
    steps: int
    lr: float
    gamma: float
    normalise: bool


def settle(fleet: Fleet, dataset: Dataset, folder: Path) -> Settled:
    """`folder` is that of the fleet's file. Raises DemoError or SplitError."""
    training: Training = fleet.training
    named = None if training.program is None else folder / training.program
    program, manifest = find_program(named, dataset)
    samples = training.samples or default_samples(dataset, len(fleet.members))
    split = resolve(parse_split(training.split), samples, dataset.label_count)
    return Settled(
        program=program,
        manifest=manifest,
        split=split,
        samples=samples,
        own_test=split.kind == "natural" if training.own_test is None else training.own_test,
        **asdict(recipe(manifest.input_shape).but(asdict(training))),
    )
