"""From what was typed to settled runs: recipes by the data's shape, programs shipped or compiled, checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge.runtime.program import ProgramRefused, load_program
from edge.wire.manifest import parse_manifest
from trainer.data import Dataset, load_dataset
from trainer.partition import parse_split, resolve
from trainer.programs import SHIPPED, shipped
from trainer.recipes import recipe, shift
from trainer.reference.quantise import CODES
from trainer.reference.settings import METHODS, OWN, RUNTIMES, SEEDED, WEIGHTS, RunError, Settings
from trainer.shards import default_samples

BATCH = 32
LOWEST = {"lr": 1e-9, "gamma": 0.0, "beta": 0.0, "temperature": 1e-3}
"""What these settings are at least."""
MODEL_OF = {(1, 28, 28): "cnn", (1, 8, 8): "cnn-8x8", (9, 128): "har-cnn", (135,): "mlp-32"}
"""Where no model is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was typed; None or empty: choose for me."""

    methods: tuple[str, ...]
    data: str = "digits"
    splits: tuple[str, ...] = ()
    devices: int | None = None
    samples: int | None = None
    seeds: tuple[int, ...] = (0,)
    models: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    """Folders of programs the user compiled; they win over models."""
    batch: int | None = None
    """B of the programs."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Settings` that were typed."""


def settle(wish: Wish, cache: Path) -> list[Settings]:
    """One `Settings` a method, split and seed; programs that must be compiled go to `cache`.

    Raises RunError, DataError or SplitError.
    """
    dataset = load_dataset(wish.data)
    devices = wish.devices or (len(dataset.natural) or 10)
    samples = wish.samples or default_samples(dataset, devices)
    texts = wish.splits or (("natural",) if dataset.natural else ("iid", "fd"))
    splits = [str(resolve(parse_split(text), samples, dataset.label_count)) for text in texts]
    models = wish.models or (MODEL_OF.get(dataset.input_shape, "mlp"),)
    programs = wish.programs or tuple(str(program(model, dataset, cache, wish.batch)) for model in models)
    for folder in programs:
        require_fit(Path(folder), dataset)
    suits = asdict(recipe(dataset.input_shape))
    runs = []
    for method in wish.methods:
        if method not in METHODS:
            raise RunError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
        chosen: dict[str, Any] = {**suits, **_own(method, dataset), **wish.changes}
        check(method, chosen, dataset, len(programs))
        runs += [
            Settings(
                method=method,
                data=wish.data,
                split=split,
                devices=devices,
                samples=samples,
                seed=seed,
                programs=programs,
                models=() if wish.programs else models,
                **chosen,
            )
            for split in splits
            for seed in wish.seeds
        ]
    return runs


def _own(method: str, dataset: Dataset) -> dict[str, Any]:
    """What the method changes.

    share fills half of each batch with shared inputs: twice the steps, so that as many local samples go by as in fd and
    fl.
    """
    own = dict(OWN[method])
    if method == "share":
        own["steps"] = 2 * recipe(dataset.input_shape).steps
    if "shift" in own:
        own["shift"] = shift(dataset.input_shape)
    return own


def check(method: str, chosen: Mapping[str, Any], dataset: Dataset, programs: int) -> None:
    """Raises RunError that says what fits."""
    for name, known in (("code", CODES), ("label_code", CODES), ("weights", WEIGHTS), ("runtime", RUNTIMES)):
        if name in chosen and chosen[name] not in known:
            raise RunError(f"unknown {name} {chosen[name]!r}: choose from {', '.join(known)}")
    for name, low in LOWEST.items():
        value = chosen.get(name)
        if value is not None and not low <= value < 1000:
            raise RunError(f"{name} is {value:g}: {low:g} to 1000 can be trained with")
    if chosen.get("shift") and len(dataset.input_shape) < 3:
        raise RunError(f"{dataset.name} holds no images: leave --shift out")
    if programs > 1 and method in {"fl", *SEEDED}:
        raise RunError(f"{method} sends parameters: all devices need one model (fd, ds-fl, cfd, share do not)")
    if method in {"mixfld", "mix2fld"} and not 0 < float(chosen.get("lam", 0.1)) < 0.5:
        raise RunError("lambda is above 0 and below 0.5: at 0.5 a mixed pair cannot be taken apart again")


def require_fit(folder: Path, dataset: Dataset) -> None:
    """Raises RunError where there is no program, or one for other data."""
    try:
        manifest = load_program(folder).manifest
    except ProgramRefused as problem:
        raise RunError(str(problem)) from problem
    if manifest.input_shape != dataset.input_shape or len(manifest.labels) < dataset.label_count:
        raise RunError(
            f"{folder}: a program for samples of {manifest.input_shape} and {len(manifest.labels)} labels; "
            f"{dataset.name} has {dataset.input_shape} and {dataset.label_count}: compile one that fits"
        )


def program(model: str, dataset: Dataset, cache: Path, batch: int | None = None) -> Path:
    """A shipped program of this model for this data, or one compiled into `cache` (needs torch)."""
    for name, kind in SHIPPED.items():
        manifest = parse_manifest((shipped(name) / "manifest.json").read_text())
        fits = manifest.input_shape == dataset.input_shape and len(manifest.labels) == dataset.label_count
        if kind == model and fits and batch in {None, manifest.batch}:
            return shipped(name)
    shape = "x".join(map(str, dataset.input_shape))
    folder = cache / f"{model}-{shape}-{batch or BATCH}".replace(":", "_").replace("/", "_")
    if not (folder / "manifest.json").exists():
        _compile(model, dataset, batch or BATCH, folder)
    return folder


def _compile(model: str, dataset: Dataset, batch: int, folder: Path) -> None:
    try:
        from trainer.compile.build import build_program
        from trainer.compile.package import write_folder

        labels = tuple(str(label) for label in range(dataset.label_count))
        packed = build_program(model, batch=batch, input_shape=dataset.input_shape, labels=labels)
        write_folder(packed, folder)
    except ModuleNotFoundError as problem:
        raise RunError(
            f"model {model} for samples of {dataset.input_shape} is compiled first, which needs {problem.name}: "
            "pip install 'potstill[trainer]'"
        ) from problem
    except ValueError as problem:
        raise RunError(str(problem)) from problem
