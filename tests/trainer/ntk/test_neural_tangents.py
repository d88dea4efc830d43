"""Our kernels beside those of Google's neural-tangents 0.6.5 (JAX), in an environment of its own.

Its last release needs a JAX of its time (0.4.23; 0.10 lacks jax.core.Jaxpr), so NumPy 1 and Python 3.11 or 3.12.
It asks for tensorflow too (2 GB) for a converter we do not use: it is installed without, and that submodule is left
empty at its import.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.environments import outside_ours, python_with
from trainer.ntk.analytic import Layer, relu_kernels
from trainer.ntk.kernels import contraction, network_of, vector_products

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

PACKAGES = (
    "neural-tangents==0.6.5",
    "jax==0.4.23",
    "jaxlib==0.4.23",
    "numpy<2",
    "scipy<1.13",
    "ml_dtypes<0.5",
    "opt_einsum",
    "frozendict",
)
ANALYTIC, EMPIRICAL = 1e-10, 1e-6
DEPTHS = {"two": [(1.0, 0.0), (2.0, 0.0)], "four": [(1.3, 0.2), (2.1, 0.1), (1.7, 0.3), (0.9, 0.05)]}

IMPORT = """
import sys, types
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from neural_tangents import stax
"""

KERNELS = (
    IMPORT
    + """
data, depths = np.load(sys.argv[1]), {"two": 2, "four": 4}
x1, x2, out = data["x1"], data["x2"], {"version": nt.__version__}
for name, count in depths.items():
    layers = []
    for weight, bias in data[name]:
        layers += [stax.Dense(1, W_std=weight**0.5, b_std=bias**0.5 if bias else None), stax.Relu()]
    both = stax.serial(*layers[:-1])[2](x1, x2, ("nngp", "ntk"))
    out["nngp " + name], out["ntk " + name] = both.nngp, both.ntk

def dense(p, x):
    h = jax.nn.relu(x @ p["0.weight"].T + p["0.bias"])
    return jnp.tanh(h @ p["2.weight"].T + p["2.bias"]) @ p["4.weight"].T + p["4.bias"]

def conv(p, x):
    h = jax.lax.conv(x, p["0.weight"], (1, 1), [(1, 1), (1, 1)]) + p["0.bias"][:, None, None]
    h = jax.nn.relu(h)
    h = jax.lax.conv(h, p["2.weight"], (2, 2), "VALID") + p["2.bias"][:, None, None]
    return jax.nn.sigmoid(h).reshape(len(x), -1) @ p["5.weight"].T + p["5.bias"]

for name, apply, a, b in (("dense", dense, "x1", "x2"), ("conv", conv, "i1", "i2")):
    p = {key.split(":")[1]: data[key] for key in data.files if key.startswith(name + ":")}
    f = lambda p, x: apply(p, x)
    for form, axes in (("full", ()), ("trace", (-1,))):
        for way in (nt.NtkImplementation.JACOBIAN_CONTRACTION, nt.NtkImplementation.NTK_VECTOR_PRODUCTS):
            theta = nt.empirical_ntk_fn(f, trace_axes=axes, vmap_axes=0, implementation=way)
            out[f"{name} {form} {int(way)}"] = theta(data[a], data[b], p)
    out[f"{name} outputs"] = f(p, data[a])
np.savez(sys.argv[2], **out)
"""
)


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of the environment."""
    versions = ("3.11", "3.12")
    return python_with(request, "neural-tangents-0.6.5", "--no-deps", *PACKAGES, versions=versions, proof=IMPORT)


def modules() -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        dense = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3))
        first = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2)]
        conv = nn.Sequential(*first, nn.Sigmoid(), nn.Flatten(), nn.Linear(16, 2))
    return {"dense": dense, "conv": conv}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernels_are_those_of_neural_tangents(python: Path, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(4)
    shapes = {"x1": (4, 5), "x2": (3, 5), "i1": (4, 2, 6, 6), "i2": (3, 2, 6, 6)}
    x = {name: torch.randn(shape, generator=random, dtype=torch.float64) for name, shape in shapes.items()}
    nets = {name: network_of(module) for name, module in modules().items()}
    given = {f"{name}:{key}": value for name, (_, parameters) in nets.items() for key, value in parameters.items()}
    np.savez(tmp_path / "in.npz", **{k: v.numpy() for k, v in (x | given).items()}, **DEPTHS)  # type: ignore[arg-type]
    command = [str(python), "-c", KERNELS, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, env=outside_ours(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "out.npz")
    assert str(theirs["version"]) == "0.6.5"
    largest = {"analytic": 0.0, "empirical": 0.0}

    def compare(kind: str, key: str, ours: Tensor, tolerance: float) -> None:
        np.testing.assert_allclose(ours.numpy(), theirs[key], rtol=0, atol=tolerance, err_msg=key)
        largest[kind] = max(largest[kind], float(np.abs(ours.numpy() - theirs[key]).max()))

    for name, variances in DEPTHS.items():
        kernels = relu_kernels(x["x1"], x["x2"], [Layer(weight=w, bias=b) for w, b in variances])
        compare("analytic", f"nngp {name}", kernels.nngp, ANALYTIC)
        compare("analytic", f"ntk {name}", kernels.ntk, ANALYTIC)
    for name, (network, parameters) in nets.items():
        one, two = (x["x1"], x["x2"]) if name == "dense" else (x["i1"], x["i2"])
        compare("empirical", f"{name} outputs", network(parameters, one), EMPIRICAL)
        for form in ("full", "trace"):
            for way in (contraction, vector_products):
                theta = way(network, parameters, one, two, form=form)
                for number in (1, 2):
                    compare("empirical", f"{name} {form} {number}", theta, EMPIRICAL)
    print(", ".join(f"{kind}: largest difference from neural-tangents {value:.1e}" for kind, value in largest.items()))
