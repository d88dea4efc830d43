"""CFD (arXiv 2012.00632): one-bit labels on shared inputs, coded as what changed since the round before.

    device     distil: K steps on the pool towards the server's labels; train: K local steps;
               upload argmax F(w, x) for the pool, delta coded
    server     dual distillation: its own student takes K_s steps on the pool towards the mean of the votes;
               broadcast the student's argmax, delta coded

The paper's quantiser at one bit is the argmax; its context coder (CABAC) is zlib here: the bytes counted are those of
a real coded string. The paper's client begins each round at the common start; ours goes on from its own model.
Letters: D devices, S inputs of the pool, L labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.reference.methods.dsfl import distil
from trainer.reference.site import Arrays, IntArray, Message, Site


class Cfd:
    JUDGED = ("devices", "server")

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        pool = site.pool[: site.settings.inputs]
        site.runtime.set_state(memory.get("state", site.state))
        if "labels" in broadcast:
            distil(site, pool, site.onehot(broadcast["labels"]), site.settings.steps)
        for x, y in site.local_batches():
            site.step(x, site.onehot(y))
        labels = site.predict(pool).argmax(axis=1)  # (S,)
        known = memory.get("sent", NO_LABELS) if _counted(site, broadcast) else memory.get("known", NO_LABELS)
        payload = len(encode(labels, known))
        return {"state": site.runtime.state(), "sent": labels, "known": known}, Message(
            arrays={"labels": labels}, payload=payload
        )

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        pool = site.pool[: site.settings.inputs]
        votes = np.mean([site.onehot(upload["labels"]) for upload in uploads], axis=0)  # (S, L)
        site.runtime.set_state(memory.get("state", site.state))
        distil(site, pool, votes, site.settings.server_steps)
        labels = site.predict(pool).argmax(axis=1)
        payload = len(encode(labels, memory.get("sent", NO_LABELS)))
        kept: Arrays = {"state": site.runtime.state(), "sent": labels}
        # the model rides along to be measured; no device reads it, and it is not counted
        return kept, Message(arrays={"labels": labels, "model": site.runtime.parameters()}, payload=payload)


def _counted(site: Site, broadcast: Arrays) -> bool:
    """The server has what this device sent last: only then can the next be told as changes of it."""
    return "cohort" in broadcast and bool(broadcast["cohort"][site.number])


NO_LABELS = np.empty(0, np.int64)


def encode(labels: IntArray, known: IntArray) -> bytes:
    """Labels (S,) given what the other end knows, (S,) or nothing: 0 for unchanged, else 1 + label; then zlib."""
    symbols = labels + 1
    if len(known):
        symbols = np.where(labels == known, 0, symbols)
    return zlib.compress(symbols.astype(np.uint8).tobytes(), level=9)


def decode(data: bytes, known: IntArray) -> IntArray:
    """The inverse."""
    symbols: NDArray[np.int64] = np.frombuffer(zlib.decompress(data), np.uint8).astype(np.int64)
    return np.where(symbols == 0, known, symbols - 1) if len(known) else symbols - 1


METHOD = Cfd()
