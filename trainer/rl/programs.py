"""An agent's two programs, compiled from torch: the actor (soft-target cross entropy) and the critic (squared error).

Both clip their gradient inside the program and step with Adam. The entropy bonus needs no term of its own: with the
policy p that was acted on, entropy H and weight beta, the actor's target

    t = A onehot(a) - beta p (log p + H)

has the gradient sum(t) p - t = A (p - onehot(a)) + beta p (log p + H), which is that of -A log p(a) - beta H.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from edge.wire.manifest import LOSSES
from edge.wire.tasks import Task
from trainer.compile.package import Packed, pack, write_folder
from trainer.rl.networks import Floats

BATCH = 64
"""B of both programs: a segment has at most so many steps, a distillation batch has so many entries."""


class Scaled(nn.Module):
    """The input times fixed numbers, which belong to the task and are no parameters."""

    def __init__(self, scale: Sequence[float]) -> None:
        super().__init__()
        self._scale = tuple(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor(self._scale)


def network(task: Task, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Scale, then linear layers with tanh between them, as `trainer.rl.networks`."""
    sides = (len(task.ranges), *hidden, outputs)
    layers: list[nn.Module] = [Scaled(task.scale)]
    for inputs, side in pairwise(sides):
        layers += [nn.Linear(inputs, side), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def pack_agent(
    task: Task, hidden: Sequence[int], actor: Floats, critic: Floats, *, clip: float, name: str
) -> tuple[Packed, Packed]:
    """-> actor and critic programs whose initial parameters are these flat vectors (P,)."""
    packed = []
    for part, labels, parameters, loss in (
        ("actor", task.actions, actor, LOSSES[0]),
        ("critic", ("value",), critic, LOSSES[1]),
    ):
        module = network(task, hidden, len(labels))
        vector_to_parameters(torch.from_numpy(np.array(parameters, np.float32)), module.parameters())
        packed.append(
            pack(
                module,
                name=f"{name}-{part}",
                input_shape=(len(task.ranges),),
                labels=labels,
                optimiser="adam",
                batch=BATCH,
                predict_batch=1 if part == "actor" else BATCH,  # an actor is asked for one state at a time
                loss=loss,
                clip=clip,
            )
        )
    return packed[0], packed[1]


def write_agent(packed: tuple[Packed, Packed], folder: Path) -> None:
    """FOLDER/actor and FOLDER/critic, as `potstill edge agent` takes them."""
    for part, one in zip(("actor", "critic"), packed, strict=True):
        write_folder(one, folder / part)
