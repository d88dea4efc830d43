"""FLD, MixFLD, Mix2FLD (arXiv 2006.09801): outputs up, a model down; the server turns outputs into a model on seeds.

    device     w_i <- K steps from the model w it was sent; uploads F_i (L, L) and, until it counted once, N_S seeds
    server     G[l] = mean over the devices that sent F_j[l]: no row left out, for the learner is the server
               K_s steps on the seeds: w <- w - eta grad { CE(F(w, x), t) + beta CE(F(w, x), t G) }, then w goes down
    fld        seeds are samples x with t = onehot(y)
    mixfld     xhat = lam x_i + (1 - lam) x_j, y_i != y_j, and t = lam onehot(y_i) + (1 - lam) onehot(y_j)
    mix2fld    the server takes the pairs (i: lam, j: 1 - lam) and (j: lam, i: 1 - lam) of two devices apart again:
               a m1 + (1 - a) m2 with a = lam / (2 lam - 1) has label i alone, with a = (lam - 1) / (2 lam - 1) label j

A seed is sent as bytes, 6,272 bits for 28 x 28. Letters: D devices, L labels, N seeds of one device, n of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.wire.streams import Purpose
from trainer.data import Samples
from trainer.reference.methods.fd import rows_message
from trainer.reference.methods.fl import PARAMETER_BYTES
from trainer.reference.site import Arrays, FloatArray, IntArray, LabelMeans, Message, Site, batches

NOBODY = 255
"""The second label of a seed that is no pair."""
PARTNERS = 16
"""That a mixed pair is taken apart with, at most (docs/methods.md)."""
RANGE_BYTES = 8
"""Offset and scale of a device's seeds, two float32."""


class Fld:
    JUDGED = ("server", "devices")

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        site.runtime.set_state(memory.get("state", site.state))
        if "model" in broadcast:
            site.runtime.set_parameters(broadcast["model"])
        means = LabelMeans(site.labels)
        for x, y in site.local_batches():
            means.add(y, site.step(x, site.onehot(y)))
        upload = rows_message(site, means)
        counted = "cohort" in broadcast and bool(broadcast["cohort"][site.number])
        given = bool(memory.get("given", np.array(False))) or counted
        if not given:
            seeds, payload = seeds_of(site)
            upload = Message(arrays={**upload.arrays, **seeds}, payload=upload.payload + payload)
        return {"state": site.runtime.state(), "given": np.array(given)}, upload

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        kept = collect(memory, uploads)
        x, t = training_set(site, kept)
        t += np.float32(site.settings.beta) * t @ mean_rows(uploads)  # (n, L) + (n, L) @ (L, L)
        if site.settings.normalise:
            t /= t.sum(axis=1, keepdims=True)
        site.runtime.set_state(site.state)  # the optimiser begins each conversion anew
        site.runtime.set_parameters(memory.get("model", site.runtime.parameters()))
        if len(x):
            for chosen in batches(site.rng(Purpose.CONVERSION), len(x), site.batch, site.settings.server_steps):
                site.step(x[chosen], t[chosen])
        model = site.runtime.parameters()
        return {**kept, "model": model}, Message(arrays={"model": model}, payload=PARAMETER_BYTES * len(model))


def mean_rows(uploads: Sequence[Arrays]) -> FloatArray:
    """G (L, L): of each label the mean over the devices that sent it, zeros where nobody did."""
    held = np.stack([upload["counts"] > 0 for upload in uploads])[:, :, None]  # (D, L, 1)
    total = (held * np.stack([upload["rows"] for upload in uploads]).astype(np.float64)).sum(axis=0)  # (L, L)
    return np.asarray(total / np.maximum(held.sum(axis=0), 1), np.float32)


def seeds_of(site: Site) -> tuple[Arrays, int]:
    """What a device gives away, as it is read at the other end, and its bytes."""
    wanted = min(site.settings.seeds, len(site.train))
    chosen = stream_zero(site, Purpose.SEEDS).permutation(len(site.train))[:wanted]
    y, (codes, offset, scale) = site.train.y, byte_codes(site)  # (n,), (n, ...)
    first, second, mixed = y[chosen], np.full(wanted, NOBODY, np.uint8), codes[chosen]
    pairs = site.settings.method != "fld"
    if pairs:
        partners = partners_of(stream_zero(site, Purpose.MIXUP), y, chosen)
        lam = float(np.float32(site.settings.lam))
        second, mixed = y[partners], lam * codes[chosen] + (1 - lam) * codes[partners]
    x = (offset + scale * np.clip(np.rint(mixed), 0, 255)).astype(np.float32)  # as they are read
    payload = x[0].size * wanted + (1 + pairs) * wanted + RANGE_BYTES
    return {"x": x, "first": first, "second": second, "owner": np.full(wanted, site.number)}, payload


def stream_zero(site: Site, purpose: Purpose) -> np.random.Generator:
    """Of round 0, whichever round the seeds go out in: they stay the same."""
    return site.rng(purpose, round_=0)


def partners_of(rng: np.random.Generator, y: NDArray[Any], chosen: IntArray) -> IntArray:
    """For each chosen sample a random one of another label."""
    others = [np.flatnonzero(y != y[one]) for one in chosen]
    return np.array([each[rng.integers(len(each))] for each in others], np.int64)


def byte_codes(site: Site) -> tuple[NDArray[np.float64], float, float]:
    """All samples in steps of a byte, not yet whole, and the value of code 0 and of a step: bytes as they are stored,
    other data between the smallest and the largest of the device's samples.
    """
    x = site.train.x.astype(np.float64)
    if site.train.x.dtype == np.uint8:
        return x, 0.0, site.scale
    x *= site.scale
    offset, scale = (float(np.float32(value)) for value in (x.min(), (x.max() - x.min()) / 255 or 1))
    return (x - offset) / scale, offset, scale


def collect(memory: Arrays, uploads: Sequence[Arrays]) -> Arrays:
    """All seeds that the server holds."""
    parts = [part for part in (memory, *uploads) if "x" in part]
    return {key: np.concatenate([part[key] for part in parts]) for key in ("x", "first", "second", "owner")}


def training_set(site: Site, kept: Arrays) -> tuple[FloatArray, FloatArray]:
    """X (n, ...) and targets t (n, L) of the conversion."""
    method, lam = site.settings.method, np.float32(site.settings.lam)
    if method == "fld":
        return kept["x"], site.onehot(kept["first"])
    if method == "mix2fld":
        x, y = inverse_mixup(kept["x"], kept["first"], kept["second"], kept["owner"], float(lam))
        return x, site.onehot(y)
    return kept["x"], lam * site.onehot(kept["first"]) + (1 - lam) * site.onehot(kept["second"])


def inverse_mixup(
    x: FloatArray, first: NDArray[Any], second: NDArray[Any], owner: NDArray[Any], lam: float
) -> tuple[FloatArray, IntArray]:
    """Pairs m1 (first i, second j) and m2 (first j, second i) of two devices, each taken apart into a sample of i and
    one of j. For i < j each m1, the u-th of its kind, goes with the `PARTNERS` m2 from the u-th on, round and round.
    """
    pairs = []
    for i, j in sorted({(int(a), int(b)) for a, b in zip(first, second, strict=True) if a < b}):
        m1s = np.flatnonzero((first == i) & (second == j))
        m2s = np.flatnonzero((first == j) & (second == i))
        for u, m1 in enumerate(m1s):
            partners = np.roll(m2s, -u)[:PARTNERS]
            pairs += [(m1, m2) for m2 in partners if owner[m1] != owner[m2]]
    at = np.array(pairs, np.int64).reshape(-1, 2)
    x1, x2 = x[at[:, 0]], x[at[:, 1]]
    made = np.stack([a * x1 + (1 - a) * x2 for a in (lam / (2 * lam - 1), (lam - 1) / (2 * lam - 1))], axis=1)
    labels = np.stack([first[at[:, 0]], second[at[:, 0]]], axis=1).reshape(-1)
    return made.reshape(-1, *x.shape[1:]).astype(np.float32), labels.astype(np.int64)


def sample_privacy(samples: FloatArray, raw: Samples, scale: float) -> float:
    """Log of the smallest distance between a sample and any raw one, mean over the samples (n, ...)."""
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    others = raw.x.reshape(len(raw), -1).astype(np.float64) * scale
    square = (flat**2).sum(1)[:, None] + (others**2).sum(1) - 2 * flat @ others.T  # (n, raw)
    return float(np.log(np.sqrt(np.maximum(square.min(axis=1), 1e-12))).mean())


METHOD = Fld()
