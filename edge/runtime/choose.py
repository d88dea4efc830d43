"""Which runtime takes the steps: the best that is installed, or the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from edge.runtime.program import Program
from edge.runtime.protocol import Runtime


class RuntimeMissing(RuntimeError):  # noqa: N818 - named by what the caller does next: install it
    """The runtime asked for is not installed or the program lacks its file; the message names the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    libraries: tuple[str, ...]
    """Any one of these modules will do."""
    module: str
    factory: str
    extra: str
    """Of the package `potstill`."""
    files: tuple[str, ...]
    """What a program must hold for it."""


_GRAPHS = ("train.graph.json", "predict.graph.json")

# The order is the preference: onnxruntime is the fastest on every board it exists for, LiteRT the smaller of the two,
# numpy needs nothing, torch costs 270 MB of memory (benchmarks/bench_memory.py).
_KINDS: dict[str, _Kind] = {
    "onnx": _Kind(
        libraries=("onnxruntime",),
        module="edge.runtime.onnx_",
        factory="OnnxRuntime",
        extra="onnx",
        files=("train.onnx", "predict.onnx"),
    ),
    "tflite": _Kind(
        libraries=("ai_edge_litert", "tflite_runtime"),
        module="edge.runtime.tflite_",
        factory="TfliteRuntime",
        extra="tflite",
        files=("train.tflite", "predict.tflite"),
    ),
    "numpy": _Kind(libraries=("numpy",), module="edge.runtime.numpy_", factory="NumpyRuntime", extra="", files=_GRAPHS),
    "torch": _Kind(
        libraries=("torch",), module="edge.runtime.torch_", factory="TorchRuntime", extra="torch", files=_GRAPHS
    ),
}

NAMES = tuple(_KINDS)
"""In the order of preference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    name: str
    reason: str
    """Why this one, in a sentence for the log."""


def installed(find: Callable[[str], object | None] = find_spec) -> tuple[str, ...]:
    """The runtimes this machine can run, best first. Imports none of them."""
    return tuple(name for name, kind in _KINDS.items() if any(find(library) is not None for library in kind.libraries))


def choose(program: Program, name: str | None, available: tuple[str, ...]) -> Choice:
    """Raises RuntimeMissing where `name` cannot run this program here, ValueError where there is no such runtime."""
    if name is not None:
        return _forced(program, name, available)
    passed: list[str] = []
    for candidate in NAMES:
        problem = _problem(program, candidate, available)
        if problem is None:
            return Choice(name=candidate, reason="; ".join([*passed, f"{candidate} is the best that is installed"]))
        passed.append(problem)
    raise RuntimeMissing("; ".join(passed))


def load_runtime(program: Program, name: str | None = None) -> Runtime:
    """The best runtime installed for this program, or the one called `name`. Errors as `choose`."""
    kind = _KINDS[choose(program, name, installed()).name]
    runtime: Runtime = getattr(import_module(kind.module), kind.factory)(program)
    return runtime


def _forced(program: Program, name: str, available: tuple[str, ...]) -> Choice:
    if name not in _KINDS:
        raise ValueError(f"no runtime is called {name!r}: one of {', '.join(NAMES)}")
    problem = _problem(program, name, available)
    if problem is not None:
        raise RuntimeMissing(problem)
    return Choice(name=name, reason=f"{name} was asked for")


def _problem(program: Program, name: str, available: tuple[str, ...]) -> str | None:
    kind = _KINDS[name]
    if name not in available:
        return f"{name} is not installed (pip install 'potstill[{kind.extra}]')"
    missing = [file for file in kind.files if file not in program.files]
    if missing:
        return (
            f"{name}: the program has no {' and no '.join(missing)} (compile it again with potstill[trainer] installed)"
        )
    return None
