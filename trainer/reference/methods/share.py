"""share, our own: labels of fresh shared inputs, and FD's rows, in 500 bytes.

    device i   K steps, each on B/2 local samples x and B/2 shared inputs u, the loss a mean over all B rows:
                   CE(F(w, x), y) + gamma CE(F(w, x), Ghat_i[y])   and   CE(F(w, u), v(u))
               u from the shared inputs of the last rounds whose labels v came; before there are any: local ones alone
               then labels c_i(u) = argmax F(w, u) of this round's S inputs (or coded probabilities), and FD's F_i
    server     v(u) = argmax_l sum_i s_i[l] 1[c_i(u) = l],  s_i[l] = sqrt(samples of l that i trained on this round)
               G as in FD

All devices draw the same S inputs from the pool and shift them by the same random pixels (the fleet's stream): fresh
inputs that cost nothing. The first rounds share no labels: hard votes of models that know nothing yet can kill a label
for good. Soft labels (HAR: weak models) are averaged with the same weights instead of voted on.

Letters: D devices, S shared inputs, L labels, W labelled rounds kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.wire.streams import Purpose
from trainer.reference.methods.fd import mean_message, rows_message, taught, teacher_of
from trainer.reference.quantise import quantise, rows_bytes
from trainer.reference.site import Arrays, FloatArray, LabelMeans, Message, Site, batches


class Share:
    JUDGED = ("devices",)

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        site.runtime.set_state(memory.get("state", site.state))
        kept = remember(site, memory, broadcast)
        teacher = teacher_of(site, memory, broadcast)
        means = LabelMeans(site.labels)
        half = site.batch // 2
        shared = shared_batches(site, kept, site.batch - half)
        for x, y in site.local_batches(half):
            target = taught(site, y, teacher)
            u, v = next(shared, (x[:0], target[:0]))
            if len(u):  # a half that is short of rows is scaled to its weight
                target *= np.float32(half / len(y))
                v = v * np.float32((site.batch - half) / len(u))
                logits = site.step(*joined(x, target, u, v, site.batch))
            else:
                logits = site.step(x, target)
            means.add(y, logits[: len(y)])
        upload = rows_message(site, means)
        if site.round >= site.settings.warm_up:
            labels, payload = labels_of(site)
            upload = Message(arrays={**upload.arrays, "labels": labels}, payload=upload.payload + payload)
        rows = {"rows": upload.arrays["rows"], "counts": upload.arrays["counts"]}
        return {"state": site.runtime.state(), **rows, **kept}, upload

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        mean = mean_message(site, uploads)
        labelled = [upload for upload in uploads if "labels" in upload]
        if not labelled:
            return memory, mean
        labels = vote(
            [upload["labels"] for upload in labelled],
            [weights_of(upload["counts"], site.settings.weights) for upload in labelled],
            hard=site.settings.label_code == "argmax",
        )
        labels = quantise(labels, site.settings.label_code)
        payload = labels_bytes(len(labels), site.labels, site.settings.label_code)
        return memory, Message(arrays={**mean.arrays, "labels": labels}, payload=mean.payload + payload)


def labels_of(site: Site) -> tuple[FloatArray, int]:
    """Labels (S, L) of this round's inputs as they are read, and their bytes."""
    code = site.settings.label_code
    labels = quantise(site.predict(site.shared_inputs(site.round)), code)
    return labels, labels_bytes(len(labels), site.labels, code)


def labels_bytes(samples: int, labels: int, code: str) -> int:
    """S labels alone are packed as edge.wire.labels does: three of ten labels in ten bits."""
    if code != "argmax":
        return rows_bytes(samples, labels, code)
    words = [(w, k) for w in range(1, 17) if (k := int(math.log(2**w, labels) + 1e-9))]
    bits, count = min(words, key=lambda word: (word[0] / word[1], word[0]))
    return math.ceil(math.ceil(samples / count) * bits / 8)


def weights_of(counts: NDArray[Any], rule: str) -> NDArray[Any]:
    """(L,) what a device's vote for each label weighs."""
    if rule == "holders":
        return (counts > 0).astype(np.float64)
    power = 0.5 if rule == "sqrt" else 1.0
    return np.asarray(counts.astype(np.float64) ** power)


def vote(labels: Sequence[NDArray[Any]], weights: Sequence[NDArray[Any]], *, hard: bool) -> NDArray[Any]:
    """D times labels (S, L) and weights (L,) -> the fleet's labels (S, L).

    Hard: all on the winner, of equal ones the first. Soft: the mean. Where no vote weighs anything, all weigh alike.
    """
    stacked = np.stack(labels).astype(np.float64)  # (D, S, L)
    weighed, plain = np.einsum("dsl,dl->sl", stacked, np.stack(weights)), stacked.sum(axis=0)  # (S, L)
    total = np.where(weighed.any(axis=1, keepdims=True), weighed, plain)  # (S, L)
    if hard:
        return np.asarray(np.eye(total.shape[1])[total.argmax(axis=1)])
    return np.asarray(total / total.sum(axis=1, keepdims=True))


def remember(site: Site, memory: Arrays, broadcast: Arrays) -> Arrays:
    """The labelled rounds kept, newest last: `of` (W,) round numbers, `targets` (W, S, L)."""
    L = site.labels
    of, targets = memory.get("of", np.empty(0, np.int64)), memory.get("targets")
    if "labels" in broadcast:
        new = broadcast["labels"][None]  # (1, S, L)
        of = np.append(of, site.round - 1)
        targets = new if targets is None or not len(targets) else np.concatenate([targets, new])
    if targets is None:
        targets = np.empty((0, 0, L), np.float32)
    newest = slice(max(0, len(of) - site.settings.buffer), None)
    return {"of": of[newest], "targets": targets[newest]}


def joined(
    x: FloatArray, target: FloatArray, u: FloatArray, v: FloatArray, batch: int
) -> tuple[FloatArray, FloatArray]:
    """One full batch: local samples from row 0 on, shared inputs from row B // 2 on, zeros where a half is short."""
    rows = np.zeros((batch, *x.shape[1:]), np.float32)
    targets = np.zeros((batch, target.shape[1]), np.float32)
    for first, inputs, towards in ((0, x, target), (batch // 2, u, v)):
        part = slice(first, first + len(inputs))
        rows[part], targets[part] = inputs, towards
    return rows, targets


def shared_batches(site: Site, kept: Arrays, size: int) -> Iterator[tuple[FloatArray, FloatArray]]:
    """K batches of `size` labelled shared inputs; none where there are no labels yet."""
    if not len(kept["of"]):
        return
    inputs = np.concatenate([site.shared_inputs(int(number)) for number in kept["of"]])  # (W S, ...)
    targets = np.concatenate(list(kept["targets"]))  # (W S, L)
    for chosen in batches(site.rng(Purpose.PUBLIC), len(targets), size, site.settings.steps):
        yield site.floats(inputs[chosen]), targets[chosen]


METHOD = Share()
