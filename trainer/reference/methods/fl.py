"""Federated learning: FedAvg (arXiv 1602.05629, Algorithm 1), parameters up and down.

    device   w_i = w after K steps from w        server   w = sum_i n_i w_i / sum_i n_i

Letters: P parameters, n samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.reference.site import Arrays, Message, Site

PARAMETER_BYTES = 4
SAMPLES_BYTES = 4
"""n_i, a uint32."""


class Fl:
    JUDGED = ("server",)

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        site.runtime.set_state(memory.get("state", site.state))
        if "model" in broadcast:
            site.runtime.set_parameters(broadcast["model"])
        for x, y in site.local_batches():
            site.step(x, site.onehot(y))
        model = site.runtime.parameters()  # (P,)
        upload: Arrays = {"model": model, "n": np.array(len(site.train))}
        return {"state": site.runtime.state()}, Message(
            arrays=upload, payload=PARAMETER_BYTES * len(model) + SAMPLES_BYTES
        )

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        del site
        model = average([upload["model"] for upload in uploads], [int(upload["n"]) for upload in uploads])
        return memory, Message(arrays={"model": model}, payload=PARAMETER_BYTES * len(model))


def average(models: Sequence[NDArray[Any]], samples: Sequence[int]) -> NDArray[Any]:
    """Of D models (P,), weighted by the samples behind them."""
    total = sum(n * model.astype(np.float64) for n, model in zip(samples, models, strict=True))
    return np.asarray(total / sum(samples), np.float32)


METHOD = Fl()
