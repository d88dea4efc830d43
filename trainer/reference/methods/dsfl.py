"""DS-FL (arXiv 2008.06180): soft labels on shared unlabelled inputs, sharpened by entropy reduction.

    device     distil: K steps on the shared inputs of the round before, CE(F(w, x), ERA(x));
               train: K steps on local samples; predict: p_i(x) of this round's shared inputs, uploaded
    server     ERA(x) = softmax(mean_i p_i(x) / T)

Letters: D devices, S shared inputs, L labels, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.wire.streams import Purpose
from trainer.data import Inputs
from trainer.reference.quantise import quantise, rows_bytes
from trainer.reference.site import Arrays, FloatArray, Message, Site, batches


class DsFl:
    JUDGED = ("devices",)

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        site.runtime.set_state(memory.get("state", site.state))
        if "labels" in broadcast:
            distil(site, site.shared_inputs(site.round - 1), broadcast["labels"], site.settings.steps)
        for x, y in site.local_batches():
            site.step(x, site.onehot(y))
        labels = quantise(site.predict(site.shared_inputs(site.round)), site.settings.label_code)  # (S, L)
        payload = rows_bytes(len(labels), site.labels, site.settings.label_code)
        return {"state": site.runtime.state()}, Message(arrays={"labels": labels}, payload=payload)

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        mean = np.asarray(np.mean([upload["labels"] for upload in uploads], axis=0, dtype=np.float64))  # (S, L)
        labels = quantise(sharpen(mean, site.settings.temperature), site.settings.label_code)
        payload = rows_bytes(len(labels), site.labels, site.settings.label_code)
        return memory, Message(arrays={"labels": labels}, payload=payload)


def distil(site: Site, x: Inputs, labels: FloatArray, steps: int) -> None:
    """`steps` steps on shared inputs x (S, ...) towards their labels (S, L)."""
    for chosen in batches(site.rng(Purpose.PUBLIC), len(labels), site.batch, steps):
        site.step(site.floats(x[chosen]), labels[chosen])


def sharpen(mean: NDArray[Any], temperature: float) -> NDArray[Any]:
    """softmax(mean / T) of rows (S, L): T < 1 takes entropy out."""
    scores = mean / temperature
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


METHOD = DsFl()
