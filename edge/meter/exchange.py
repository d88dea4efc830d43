"""What one round of a method puts on the wire: the very frames of `edge.wire`, encoded and counted, not estimated.

Letters: D devices, L labels, P parameters, S shared inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.wire.codec import encode
from edge.wire.labels import packed_bytes
from edge.wire.messages import DIGEST_BYTES, LabelUpload, Method, Parameters, ParameterUpload, Plan, Upload
from edge.wire.options import ShareOptions
from edge.wire.rows import CodedRows, code_counts, code_rows, read_counts

BITS = (32, 16, 8, 4, 3)
"""Of a coded logit, widest first (docs/wire.md)."""

_RUN, _ROUND, _ROUNDS, _CHECK = 2**32 - 1, 1000, 10_000, 2**16 - 1
"""As long as these get in a CBOR frame of a run of up to 65,535 rounds: nobody's frame is longer than the budget's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One device's messages of one round, as bytes of their frames."""

    method: str
    bits: int
    """Of a logit or, for FL, of a parameter."""
    up: tuple[int, ...]
    down: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.method}, {self.bits} bits"

    @property
    def largest(self) -> int:
        return max(self.up + self.down)


def fd(*, labels: int, devices: int, bits: int) -> Exchange:
    """Rows of every label up; the plan with the mean of all down."""
    upload, plan = encode(_upload(labels, bits)), encode(_plan(Method.FD, labels, devices, bits))
    return Exchange(method="fd", bits=bits, up=(len(upload),), down=(len(plan),))


def share(*, labels: int, devices: int, bits: int, inputs: int) -> Exchange:
    """FD's rows and the label (argmax) of each of S shared inputs, both ways."""
    shared = bytes(packed_bytes(inputs, labels))
    options = ShareOptions(inputs=inputs, warm_up=0).to_plan(_ROUND)
    up = LabelUpload(means=_upload(labels, bits), labels=shared)
    down = _plan(Method.SHARE, labels, devices, bits, options=options, shared=shared)
    return Exchange(method="share", bits=bits, up=(len(encode(up)),), down=(len(encode(down)),))


def fl(*, parameters: int, labels: int, devices: int) -> Exchange:
    """Parameters up; plan and averaged parameters down."""
    values = np.zeros(parameters, np.float32)
    up = ParameterUpload(run=_RUN, round=_ROUND, check=_CHECK, samples=2**16, parameters=values)
    averaged = Parameters(run=_RUN, round=_ROUND, parameters=values)
    plan = _plan(Method.FL, labels, devices, 32)
    return Exchange(method="fl", bits=32, up=(len(encode(up)),), down=(len(encode(plan)), len(encode(averaged))))


def _rows(labels: int, bits: int) -> CodedRows:
    """(L, L) any probabilities: all take the same bytes."""
    return code_rows(np.full((labels, labels), 1 / labels, np.float32), bits)


def _upload(labels: int, bits: int) -> Upload:
    counts = read_counts(code_counts(np.full(labels, 100)))
    return Upload(run=_RUN, round=_ROUND, check=_CHECK, counts=counts, logits=_rows(labels, bits))


def _plan(
    method: Method,
    labels: int,
    devices: int,
    bits: int,
    *,
    options: tuple[float, ...] = (),
    shared: bytes = b"",
) -> Plan:
    averages = method.averages_logits
    return Plan(
        run=_RUN,
        round=_ROUND,
        rounds=_ROUNDS,
        method=method,
        steps=100,
        seed=_RUN,
        lr=0.1,
        gamma=0.1,
        bits=bits,
        deadline_s=86_400.0,
        qos=1,
        report=False,
        normalise=False,
        program=bytes(DIGEST_BYTES),
        cohort=frozenset(range(devices)),
        contributors=np.full(labels if averages else 0, devices, np.uint32),
        logits=_rows(labels, bits) if averages else None,
        options=options,
        labels=shared,
    )
