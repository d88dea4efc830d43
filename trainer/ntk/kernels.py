"""The empirical neural tangent kernel of any torch network, two independent ways, in bounded memory.

    Theta_ab(x, x') = sum_p  df_a(x)/dp  df_b(x')/dp                                (n1, n2, L, L)
    trace form        1/L sum_a Theta_aa(x, x')                                     (n1, n2)

`contraction` differentiates each sample's outputs and contracts the two Jacobians (reverse mode). `vector_products`
never forms a Jacobian of x1: it pulls each output of x2 back to the parameters and pushes the result forward through x1
(reverse, then forward mode), Theta e_jb = J1 (J2^T e_jb). They share no line but the network, and must agree.

Letters: n samples, L outputs, P parameters, N = n L. Parameters and samples are torch tensors, float64 where digits
matter. Source: Jacot et al. 2018 (1806.07572); Novak et al. 2022 (2206.08720) for the two ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

Parameters: TypeAlias = dict[str, Tensor]
Network: TypeAlias = Callable[[Parameters, Tensor], Tensor]
"""(parameters, x (n, ...)) -> f (n, L). A sample's outputs depend on that sample alone (no batch statistics)."""
Form: TypeAlias = Literal["full", "trace"]

MEMORY_BYTES = 512 * 2**20
"""What one call may hold in Jacobians: 52 points at width 4096 take 1.5 s; 2.8 s with half, 1.2 s with twice."""


def network_of(module: nn.Module) -> tuple[Network, Parameters]:
    """The module as a pure function, and its parameters in float64. Batch statistics are frozen (eval mode)."""
    module.eval()
    buffers = {name: _double(buffer) for name, buffer in module.named_buffers()}
    parameters = {name: _double(value) for name, value in module.named_parameters()}

    def network(parameters: Parameters, x: Tensor) -> Tensor:
        f: Tensor = functional_call(module, {**parameters, **buffers}, (x,))
        return f

    return network, parameters


def _double(value: Tensor) -> Tensor:
    return value.detach().to(torch.float64) if value.is_floating_point() else value.detach()


def contraction(
    network: Network,
    parameters: Parameters,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    form: Form = "full",
    memory_bytes: int = MEMORY_BYTES,
) -> Tensor:
    """Theta(x1, x2) by Jacobian contraction; x2 = x1 where it is not given (then half the blocks are computed)."""
    columns = x1 if x2 is None else x2
    block = _samples_a_block(network, parameters, x1, memory_bytes // 2)  # two Jacobians are alive at once
    starts1, starts2 = range(0, len(x1), block), range(0, len(columns), block)
    rows: list[list[Tensor]] = []
    for i in starts1:
        left = _jacobian(network, parameters, x1[i : i + block])
        row = []
        for j in starts2:
            if x2 is None and j < i:
                row.append(_transposed(rows[j // block][i // block]))
            elif x2 is None and j == i:
                row.append(_contract(left, left, form))
            else:
                row.append(_contract(left, _jacobian(network, parameters, columns[j : j + block]), form))
        rows.append(row)
    return torch.cat([torch.cat(row, 1) for row in rows], 0)


def _samples_a_block(network: Network, parameters: Parameters, x: Tensor, memory_bytes: int) -> int:
    outputs = network(parameters, x[:1]).shape[1]
    one_sample = outputs * sum(value.numel() * value.element_size() for value in parameters.values())
    return max(1, memory_bytes // one_sample)


def _jacobian(network: Network, parameters: Parameters, x: Tensor) -> list[Tensor]:
    """(n, ...) -> one (n, L, P_i) a parameter."""

    def of_one(parameters: Parameters, sample: Tensor) -> Tensor:
        return network(parameters, sample[None])[0]  # (L,)

    jacobian = vmap(jacrev(of_one), (None, 0))(parameters, x)
    return [part.flatten(2) for part in jacobian.values()]


def _contract(left: list[Tensor], right: list[Tensor], form: Form) -> Tensor:
    if form == "full":
        return _sum(torch.einsum("iap,jbp->ijab", a, b) for a, b in zip(left, right, strict=True))
    outputs = left[0].shape[1]
    return _sum(torch.einsum("iap,jap->ij", a, b) for a, b in zip(left, right, strict=True)) / outputs


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _transposed(block: Tensor) -> Tensor:
    """Theta(x', x) of Theta(x, x'): samples and outputs change places."""
    return block.permute(1, 0, 3, 2) if block.ndim == 4 else block.T


def vector_products(
    network: Network,
    parameters: Parameters,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    form: Form = "full",
    memory_bytes: int = MEMORY_BYTES,
) -> Tensor:
    """Theta(x1, x2) column by column: Theta e_jb = J1 (J2^T e_jb)."""
    columns = x1 if x2 is None else x2
    size = sum(value.numel() * value.element_size() for value in parameters.values())
    at_once = max(1, memory_bytes // (4 * size))  # cotangent, tangent and what forward mode keeps beside them
    outputs = network(parameters, x1[:1]).shape[1]
    pairs = torch.cartesian_prod(torch.arange(len(columns)), torch.arange(outputs))  # (n2 L, 2): sample, output

    def column(pair: Tensor) -> Tensor:
        sample, output = columns[pair[0]], pair[1]
        pull = vjp(lambda p: network(p, sample[None])[0].gather(0, output[None])[0], parameters)[1]
        (tangent,) = pull(torch.ones((), dtype=x1.dtype))
        image: Tensor = jvp(lambda p: network(p, x1), (parameters,), (tangent,))[1]  # (n1, L)
        return image if form == "full" else image.gather(1, output.expand(len(x1), 1))[:, 0]  # (n1,)

    images = torch.cat([vmap(column)(pairs[i : i + at_once]) for i in range(0, len(pairs), at_once)])
    if form == "full":
        return images.reshape(len(columns), outputs, len(x1), outputs).permute(2, 0, 3, 1)  # (n2,L,n1,L)->(n1,n2,L,L)
    return images.reshape(len(columns), outputs, len(x1)).mean(1).T  # (n2, L, n1) -> (n1, n2)


def matrix(theta: Tensor) -> Tensor:
    """(n1, n2, L, L) -> (n1 L, n2 L): the kernel that acts on outputs flattened sample by sample."""
    n1, n2, outputs, _ = theta.shape
    return theta.permute(0, 2, 1, 3).reshape(n1 * outputs, n2 * outputs)


def parameter_count(parameters: Parameters) -> int:
    """P."""
    return sum(math.prod(value.shape) for value in parameters.values())
