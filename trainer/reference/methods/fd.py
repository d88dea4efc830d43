"""Federated distillation (arXiv 1811.11479, Algorithm 1): mean logits per label up and down.

    device i   w <- w - eta grad { CE(F(w, x), y) + gamma CE(F(w, x), Ghat_i[y]) },   K steps
               F_i[l] = mean of F(w, x) over this round's steps with y = l
    server     G[l] = mean over the n_l devices that sent F_j[l]
    device i   Ghat_i[l] = (n_l G[l] - F_i[l]) / (n_l - 1): the own row left out, as it was coded

CE is linear in its target, so both terms are one step towards y + gamma Ghat_i[y]. Round 0 has no teacher, nor has a
label that nobody else sent. Letters: D devices, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.reference.quantise import quantise, read_counts, rows_bytes
from trainer.reference.site import Arrays, FloatArray, IntArray, LabelMeans, Message, Site


class Fd:
    JUDGED = ("devices",)

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        site.runtime.set_state(memory.get("state", site.state))
        teacher = teacher_of(site, memory, broadcast)
        means = LabelMeans(site.labels)
        for x, y in site.local_batches():
            means.add(y, site.step(x, taught(site, y, teacher)))
        upload = rows_message(site, means)
        return {"state": site.runtime.state(), **upload.arrays}, upload

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        return memory, mean_message(site, uploads)


def taught(site: Site, y: IntArray, teacher: FloatArray) -> FloatArray:
    """Targets (b, L): y + gamma Ghat[y], over 1 + gamma where it is to be normalised and there is a teacher."""
    gamma = np.float32(site.settings.gamma)
    target = site.onehot(y) + gamma * teacher[y]
    if site.settings.normalise:
        target /= 1 + gamma * teacher[y].any(axis=1, keepdims=True)
    return target


def rows_message(site: Site, means: LabelMeans) -> Message:
    """The upload: rows of the labels seen (zeros for the others), a byte a label for the count."""
    seen = means.counts > 0
    rows = np.zeros((site.labels, site.labels), np.float32)
    rows[seen] = quantise(means.rows()[seen], site.settings.code)
    payload = rows_bytes(int(seen.sum()), site.labels, site.settings.code) + site.labels
    return Message(arrays={"rows": rows, "counts": read_counts(means.counts)}, payload=payload)


def mean_message(site: Site, uploads: Iterable[Arrays]) -> Message:
    """The broadcast: G (L, L), zeros where nobody sent a row, and n (L,), a byte a label."""
    held = [(upload["rows"], upload["counts"] > 0) for upload in uploads]
    contributors = np.sum([has for _, has in held], axis=0)  # (L,)
    sent = contributors > 0
    G = np.zeros((site.labels, site.labels), np.float32)
    sums = np.sum([rows.astype(np.float64) * has[:, None] for rows, has in held], axis=0)  # (L, L)
    G[sent] = quantise(sums[sent] / contributors[sent, None], site.settings.code)
    payload = rows_bytes(int(sent.sum()), site.labels, site.settings.code) + site.labels
    return Message(arrays={"G": G, "contributors": contributors}, payload=payload)


def teacher_of(site: Site, memory: Arrays, broadcast: Arrays) -> FloatArray:
    """Ghat_i (L, L), a row of zeros where there is no teacher."""
    if "G" not in broadcast:
        return np.zeros((site.labels, site.labels), np.float32)
    counted = bool(broadcast["cohort"][site.number]) & (memory["counts"] > 0) if "counts" in memory else False
    mine = np.broadcast_to(counted, site.labels)
    own = memory.get("rows", np.zeros((site.labels, site.labels), np.float32))
    return leave_one_out(broadcast["G"], broadcast["contributors"], own, mine)


def leave_one_out(G: NDArray[Any], contributors: NDArray[Any], own: NDArray[Any], mine: NDArray[Any]) -> FloatArray:
    """(n G - F) / (n - 1) where `mine` (L,) says that F is in G, else G.

    G and F were coded each for itself, so this may fall a little below 0: it is clipped, and the row renormalised.
    """
    total = contributors[:, None] * G.astype(np.float64) - np.where(mine[:, None], own, 0)  # (L, L)
    total = np.where((contributors - mine)[:, None] > 0, total.clip(min=0), 0)
    size = total.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(total, size, out=np.zeros_like(total), where=size > 0), np.float32)


METHOD = Fd()
