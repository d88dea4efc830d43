"""Every default of the demo, in one place, and what is checked before the first process starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from edge.wire.manifest import Manifest, parse_manifest
from edge.wire.messages import AGENTS, Method
from trainer.data import Dataset
from trainer.partition import Split, SplitError, parse_split, resolve
from trainer.programs import SHIPPED, shipped
from trainer.recipes import recipe, shift
from trainer.shards import default_samples

METHODS = ("alone", "fl", "fd")
"""Where none are named."""
OFFERED = tuple(method.name.lower() for method in Method if method not in AGENTS)
"""Agents play: they have no data to be dealt."""
BITS = (32, 16, 8, 4, 3)
RUNTIMES = ("onnx", "tflite", "numpy", "torch")
MAX_DEVICES = 200
"""Each is a process of 40 to 60 MB; the emulator is for more."""


class DemoError(Exception):
    """The demo cannot start or go on. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for; None: choose for me."""

    data: str = "digits"
    splits: tuple[str, ...] | None = None
    methods: tuple[str, ...] = METHODS
    devices: int = 10
    samples: int | None = None
    own_test: bool | None = None
    rounds: int | None = None
    steps: int | None = None
    lr: float | None = None
    gamma: float | None = None
    normalise: bool | None = None
    bits: int = 4
    seed: int = 0
    runtime: str | None = None
    program: Path | None = None
    broker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One demo, settled: nothing is left open."""

    data: str
    splits: tuple[Split, ...]
    methods: tuple[str, ...]
    devices: int
    samples: int
    """A device, where the split is not natural."""
    own_test: bool
    """Each device is tested on its own test set, not on the common one."""
    rounds: int
    steps: int
    lr: float
    gamma: float
    normalise: bool
    """The target is divided by 1 + gamma."""
    bits: int
    seed: int
    runtime: str | None
    """None: each device takes the best that is installed."""
    program: Path
    program_name: str
    broker: str | None
    """None: the demo starts the embedded broker."""

    def __post_init__(self) -> None:
        if not self.splits or not self.methods:
            raise DemoError("at least one split and one method are needed")
        for what, values in (("split", self.splits), ("method", self.methods)):
            if len(set(values)) != len(values):
                raise DemoError(f"a {what} is named twice")
        unknown = [method for method in self.methods if method not in OFFERED]
        if unknown:
            raise DemoError(f"unknown method {unknown[0]!r}: choose from {', '.join(OFFERED)}")
        if not 2 <= self.devices <= MAX_DEVICES:
            raise DemoError(f"{self.devices} devices: 2 to {MAX_DEVICES} run here, as processes of their own")
        if not (0 < self.lr < 1000 and 0 <= self.gamma < 1000):
            raise DemoError(f"lr {self.lr:g}, gamma {self.gamma:g}: 0 < lr < 1000 and 0 <= gamma < 1000")
        if self.bits not in BITS:
            raise DemoError(f"{self.bits} bits: choose from {', '.join(map(str, BITS))}")


def settle(wish: Wish, dataset: Dataset) -> Settings:
    """Raises DemoError or SplitError."""
    folder, manifest = find_program(wish.program, dataset)
    chosen = recipe(manifest.input_shape).but(asdict(wish))
    samples = wish.samples or default_samples(dataset, wish.devices)
    texts = wish.splits or (("natural",) if dataset.natural else ("iid", "fd"))
    splits = tuple(resolve(parse_split(text), samples, dataset.label_count) for text in texts)
    natural = all(split.kind == "natural" for split in splits)
    if wish.own_test and not natural:
        raise SplitError("a test set of each device's own needs --split natural and npz:DIR")
    return Settings(
        data=wish.data,
        splits=splits,
        methods=wish.methods,
        devices=wish.devices,
        samples=samples,
        own_test=natural if wish.own_test is None else wish.own_test,
        **asdict(chosen),
        bits=wish.bits,
        seed=wish.seed,
        runtime=wish.runtime,
        program=folder,
        program_name=manifest.name,
        broker=wish.broker,
    )


def find_program(named: Path | None, dataset: Dataset) -> tuple[Path, Manifest]:
    """The folder of the named program, or of the first shipped one that fits the data. Raises DemoError."""
    folders = [named] if named else [shipped(name) for name in SHIPPED]
    seen = []
    for folder in folders:
        manifest = read_manifest(folder)
        if manifest.input_shape == dataset.input_shape and len(manifest.labels) >= dataset.label_count:
            return folder, manifest
        seen.append(f"{manifest.name} {manifest.input_shape} with {len(manifest.labels)} labels")
    raise DemoError(
        f"{dataset.name} has samples of {dataset.input_shape} and {dataset.label_count} labels; "
        f"there is {', '.join(seen)}. "
        "Compile a program that fits (potstill trainer compile --help) and name it with --program"
    )


def own_options(method: str, program: Path) -> dict[str, object]:
    """What a run of this method is told beside the recipe, as options of `potstill broker run`. Raises DemoError."""
    return {"shift": shift(read_manifest(program).input_shape)} if method == "share" else {}


def read_manifest(folder: Path) -> Manifest:
    """Raises DemoError."""
    path = folder / "manifest.json"
    try:
        return parse_manifest(path.read_text())
    except (OSError, ValueError) as problem:
        message = f"{path}: no program there ({problem}): compile one, potstill trainer compile --help"
        raise DemoError(message) from problem
