"""How long a frame can be, by what it is about: what a reader gives `edge.wire.codec.decode`.

Letters: L labels, P parameters, D devices, N seeds, A actions.
"""

from __future__ import annotations

from edge.wire.messages import DIGEST_BYTES, METER_KINDS, STREAM_COUNTS
from edge.wire.options import MOST_INPUTS, MOST_OPTIONS
from edge.wire.proxy import MOST_ENTRIES


def upload_limit(labels: int, bits: int) -> int:
    """Bytes of the longest `Upload` frame for L labels: what an aggregator reads at most."""
    rows = (labels * labels * bits + 7) // 8
    # 3 for array, version and kind; run 5, round 5, check 3, bits 2; two byte strings, heads of up to 5, one tag of 2
    return 3 + 5 + 5 + 3 + 2 + (5 + labels) + (2 + 5 + rows)


def label_upload_limit(labels: int, bits: int, label_bytes: int) -> int:
    """Bytes of the longest `LabelUpload` frame for L labels and so many bytes of labels."""
    return upload_limit(labels, bits) + 5 + label_bytes


def seed_upload_limit(labels: int, bits: int, seeds: int, size: int) -> int:
    """Bytes of the longest `SeedUpload` frame for L labels and N seeds of so many numbers each."""
    return upload_limit(labels, bits) + 2 * 5 + 2 * (2 + 5 + 4 * seeds) + 5 + seeds * size


def memory_limit(cells: int, actions: int, bits: int) -> int:
    """Bytes of the longest `MemoryUpload` or `FleetMemory` frame for a grid of so many cells and A actions.

    An entry is a gap (a tree of 6 bits, 2 bits with a model, at most 30 without), A - 1 codes and a value; a bit with a
    model costs at most 7.1 bits, for its probability is never below 15/2048.
    """
    modelled = 6 + 2 + (actions - 1) * bits + 8
    entries = min(cells, MOST_ENTRIES)
    return 64 + min(MOST_MEMORY, (entries * (8 * modelled + 30) + 7) // 8)


def pairs_limit(width: int) -> int:
    """Bytes of the longest `PairsUpload` or `FleetPairs` frame for rows of so many numbers."""
    return 64 + min(MOST_MEMORY, 4 * width * MOST_ENTRIES)


MOST_MEMORY = 2**20
"""Bytes of a memory's numbers or codes: a megabyte is 50,000 raw pairs of CartPole, or half a million cells."""


def parameters_limit(parameters: int) -> int:
    """Bytes of the longest `Parameters` or `ParameterUpload` frame for P parameters."""
    return 3 + 5 + 5 + 3 + 5 + 2 + 5 + 4 * parameters


def plan_limit(labels: int, devices: int) -> int:
    """Bytes of the longest `Plan` frame for L labels and D seats."""
    rows = 4 * labels * labels
    cohort = (devices + 7) // 8
    known = 3 + 10 * 5 + (1 + DIGEST_BYTES) + (5 + cohort) + (2 + 5 + 2 * labels) + (2 + 5 + rows)
    return known + (2 + 1 + 4 * MOST_OPTIONS) + (5 + MOST_INPUTS * max(2, labels))


METER_LIMIT = 3 + 5 + 5 + 6 * (2 + 2 + 8 * len(METER_KINDS)) + (2 + 2 + 8 * len(STREAM_COUNTS)) + 5 + 3 * 5
"""Bytes of the longest `Meter` frame."""

SMALL_LIMIT = 300
"""Bytes of the longest `Done`, `Gone`, `Seat`, `Command` or `Report` frame, and more: the longest takes 64."""


def birth_limit(labels: int) -> int:
    """Bytes of the longest `Birth` frame for L labels: three texts of 64 characters of at most 4 bytes."""
    return 3 + 3 * (3 + 4 * 64) + 2 * (1 + DIGEST_BYTES) + (2 + 5 + 4 * labels)
