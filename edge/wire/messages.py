"""The messages of a fleet: frozen values that check themselves, no bytes and no I/O.

Letters: D devices, L labels, P parameters, r round. "Logits" are softmax outputs, as in the FD paper
(arXiv 1811.11479, section 2): every row is a probability vector over the L labels.

The codec (bytes <-> message) is `edge.wire.codec`, the coded logits are `edge.wire.rows`, the topics are
`edge.wire.topics`. A `ValueError` from a constructor here means: this message must never reach the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.options import AgentOptions, FldOptions, Options, ShareOptions
from edge.wire.proxy import Pairs, ProxyMemory
from edge.wire.rows import CodedRows, NotFiniteError
from edge.wire.values import Value, float32, is_uint32, require, shorten, vector

UintArray: TypeAlias = NDArray[np.uint32]
WideArray: TypeAlias = NDArray[np.uint64]
FloatArray: TypeAlias = NDArray[np.float32]

DIGEST_BYTES = 4
"""Bytes of a SHA-256 digest that name a program or a label schema on the wire: enough to tell the programs of one fleet
apart (docs/adr/0033)."""

MOST_ROUNDS = 1_000_000

_UINT32, _UINT64, _FLOAT32 = np.dtype(np.uint32), np.dtype(np.uint64), np.dtype(np.float32)
LARGEST = float(np.finfo(np.float32).max)


class Method(IntEnum):
    """What a run exchanges. The number is the wire's."""

    ALONE = 0
    """Nothing: the rounds are only a common clock."""
    FL = 1
    """Parameters (FedAvg, arXiv 1602.05629)."""
    FD = 2
    """Mean logits per ground-truth label (arXiv 1811.11479, Algorithm 1)."""
    FLD = 3
    """Mean logits and, once, samples up; the model that the aggregator makes of them down (arXiv 2006.09801)."""
    MIXFLD = 4
    """FLD whose seeds are mixed pairs, used with their soft labels."""
    MIX2FLD = 5
    """FLD whose mixed pairs the aggregator takes apart again, across devices."""
    SHARE = 6
    """FD, and labels of inputs that all devices draw from the program's pool."""
    FRD = 7
    """Agents: policies in the proxy states they visited (arXiv 1907.06536)."""
    MIXFRD = 8
    """FRD whose memory is mixed up before it is replayed (arXiv 2005.06105)."""
    PD = 9
    """Agents: the states themselves, each with its policy."""
    FRL = 10
    """Agents: actor and critic networks, averaged."""

    @property
    def averages_logits(self) -> bool:
        """Whether plans carry the mean logits a label, from which a device takes its own out."""
        return self in _AVERAGING

    @property
    def sends_parameters(self) -> bool:
        """Whether each round but the first opens with `Parameters` that a device adopts."""
        return self in _OPENED_BY_PARAMETERS

    @property
    def sends_memory(self) -> bool:
        """Whether each round but the first opens with a `FleetMemory` or `FleetPairs` that an agent distils."""
        return self in _OPENED_BY_MEMORY


SEEDED = frozenset({Method.FLD, Method.MIXFLD, Method.MIX2FLD})
"""Methods whose devices give samples away, with the first upload that counts."""

AGENTS = frozenset({Method.FRD, Method.MIXFRD, Method.PD, Method.FRL})
"""Methods of reinforcement learning: a plan's program and schema are the task's (`edge.wire.tasks`)."""

_AVERAGING = frozenset({Method.FD, Method.SHARE})
_OPENED_BY_PARAMETERS = frozenset({Method.FL, Method.FRL, *SEEDED})
_OPENED_BY_MEMORY = frozenset({Method.FRD, Method.MIXFRD, Method.PD})

OPTIONS: dict[Method, type[FldOptions | ShareOptions | AgentOptions]] = {
    **dict.fromkeys(sorted(AGENTS), AgentOptions),
    **dict.fromkeys(sorted(SEEDED), FldOptions),
    Method.SHARE: ShareOptions,
}
"""How a method's `Plan.options` are read; the others have none."""


class Order(IntEnum):
    """What the aggregator may ask of one device."""

    REBIRTH = 1
    STOP = 2


def _check_place(run: int, round_: int, check: int = 0) -> None:
    """Where a message belongs: its run, its round, and the label schema it is of."""
    if not (0 <= run < 2**32 and 0 <= round_ <= MOST_ROUNDS and 0 <= check < 65536):
        raise ValueError("run is uint32, round at most 1,000,000, check uint16")


def _finite(parameters: FloatArray) -> None:
    vector("parameters", parameters, _FLOAT32)
    if not np.isfinite(parameters).all():
        raise NotFiniteError("parameters are finite: training has diverged, lower the learning rate")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan(Value):
    """One round, whole: what to do, and what came out of the round before. Retained on the broker.

    A device that hears only this message can join. Round `rounds` is the last: it carries the result and
    asks for no more work. For FD, `logits[l]` is the mean over the `contributors[l]` devices whose rows of
    round `round - 1` counted, the own row *included*: each device takes its own row out
    (`edge.methods.fd.leave_one_out`).
    """

    run: int
    """Number of the run, uint32."""
    round: int
    """0-based; equal to `rounds` when the run is over."""
    rounds: int
    method: Method
    steps: int
    """Local steps K a round."""
    seed: int
    """uint32; with device, round and purpose it seeds every random stream."""
    lr: float
    """Learning rate; float32 on the wire."""
    gamma: float
    """Weight of the distillation term; float32 on the wire."""
    bits: int
    """Of a coded logit, both directions: 32 or 16 (IEEE float), 8, 4 or 3 (logarithmic code)."""
    deadline_s: float
    """Seconds a device has from hearing the plan to its upload's arrival; float32 on the wire."""
    qos: int
    """MQTT QoS of the uploads, 0 or 1."""
    report: bool
    """Whether devices publish `Report`s (instrumentation; costs bytes that no method needs)."""
    normalise: bool
    """Whether the target is divided by (1 + gamma)."""
    program: bytes
    """First 4 bytes of the program's digest, which covers its label schema."""
    cohort: frozenset[int]
    """Seats whose upload of round `round - 1` counted."""
    contributors: UintArray
    """(L,) devices behind each row of `logits`; 0 where nobody sent the label. Empty when not FD."""
    logits: CodedRows | None
    """Rows of the labels with contributors > 0, in label order; None when there are none."""
    options: tuple[float, ...] = ()
    """What this method says more (`edge.wire.options`), each a float32; empty for alone, FL and FD."""
    labels: bytes = b""
    """The fleet's labels of the inputs that round `round - 1` shared (`share`): packed (`edge.wire.labels`), or all
    probabilities as codes (`edge.wire.rows`), as the options say; empty when there are none."""

    def __post_init__(self) -> None:
        _check_place(self.run, self.round)
        require(is_uint32(self.seed), "seed is uint32")
        require(self.round <= self.rounds, "0 <= round <= rounds")
        require(1 <= self.rounds <= MOST_ROUNDS and 1 <= self.steps <= 1_000_000, "1 <= rounds, steps <= 1e6")
        shorten(self, "lr", "gamma", "deadline_s")
        require(0 < self.lr < 1e3, "0 < lr < 1000")
        require(0 <= self.gamma < 1e3, "0 <= gamma < 1000")
        require(self.bits in {32, 16, 8, 4, 3}, "bits is 32, 16, 8, 4 or 3")
        require(0 < self.deadline_s <= 7 * 86400, "0 < deadline_s <= one week")
        require(self.qos in {0, 1}, "qos is 0 or 1")
        require(len(self.program) == DIGEST_BYTES, "a digest is 4 bytes")
        require(not self.cohort or (min(self.cohort) >= 0 and max(self.cohort) < 65536), "seats are uint16")
        vector("contributors", self.contributors, _UINT32)
        require(max(self.contributors.tolist(), default=0) < 65536, "at most 65535 contributors a label")
        self._check_logits()
        if self.options:
            object.__setattr__(self, "options", tuple([float32(option) for option in self.options]))
        self.read_options()
        require(not self.labels or self.method is Method.SHARE, "labels of shared inputs are for share")

    def read_options(self) -> Options | None:
        """The options of this plan's method; None where it has none. Raises ValueError."""
        kind = OPTIONS.get(self.method)
        if kind is None:
            if self.options:
                raise ValueError(f"{self.method.name.lower()} has no options")
            return None
        return kind.from_plan(self.options)

    def _check_logits(self) -> None:
        rows = int(np.count_nonzero(self.contributors))
        if self.logits is None:
            require(rows == 0, "one row for each label with contributors")
            return
        require(rows == self.logits.rows > 0, "one row for each label with contributors; None when there are none")
        require(self.logits.labels == len(self.contributors), "rows as wide as there are labels")
        require(self.logits.bits == self.bits, "the plan's logits have the plan's bits")

    @property
    def done(self) -> bool:
        return self.round == self.rounds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Upload(Value):
    """A device's mean logits of one FD round. With run, round and the topic's device it is idempotent."""

    run: int
    round: int
    check: int
    """First two bytes of the label schema's digest, big-endian: a stray fleet cannot be averaged in."""
    counts: UintArray
    """(L,) samples seen of each label, as read back from their one-byte code (`edge.wire.rows`); 0: no row."""
    logits: CodedRows
    """Rows of the labels with counts > 0, in label order."""

    def __post_init__(self) -> None:
        _check_place(self.run, self.round, self.check)
        vector("counts", self.counts, _UINT32)
        require(int(np.count_nonzero(self.counts)) == self.logits.rows, "one row for each label with counts")
        require(self.logits.labels == len(self.counts), "rows as wide as there are labels")


class _WithMeans(Value):
    """An upload that has one of mean logits in it, and its place from there."""

    __slots__ = ()
    means: Upload

    @property
    def run(self) -> int:
        return self.means.run

    @property
    def round(self) -> int:
        return self.means.round


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelUpload(_WithMeans):
    """A device's mean logits and its labels of the round's shared inputs (`share`)."""

    means: Upload
    labels: bytes
    """As in `Plan.labels`."""

    def __post_init__(self) -> None:
        require(len(self.labels) > 0, "labels of the shared inputs; an Upload where there are none")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seeds(Value):
    """N samples, or mixed pairs of samples, that a device gives away: bytes, value = offset + scale * byte."""

    x: NDArray[np.uint8]
    """(N, size) each sample flattened."""
    first: UintArray
    """(N,) labels; of a mixed pair that of the sample with weight lambda."""
    second: UintArray
    """(N,) labels of the other samples of the pairs; empty for raw samples."""
    scale: float
    offset: float

    def __post_init__(self) -> None:
        shorten(self, "scale", "offset")
        require(self.x.ndim == 2 and self.x.dtype == np.uint8 and self.x.size > 0, "x is (N, size) bytes")
        if self.x.flags.writeable:
            self.x.flags.writeable = False
        vector("first", self.first, _UINT32)
        vector("second", self.second, _UINT32)
        require(len(self.first) == len(self.x), "one first label a seed")
        require(len(self.second) in {0, len(self.x)}, "one second label a seed, or none at all")
        require(self.scale > 0, "scale is positive")
        require(not (self.first[: len(self.second)] == self.second).any(), "a pair has two labels")

    def values(self) -> FloatArray:
        """(N, size)."""
        values: FloatArray = np.float32(self.offset) + np.float32(self.scale) * self.x.astype(np.float32)
        return values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeedUpload(_WithMeans):
    """A device's mean logits and its seeds (FLD): sent until an upload of this device has counted."""

    means: Upload
    seeds: Seeds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterUpload(Value):
    """A device's parameters after one FL round."""

    run: int
    round: int
    check: int
    samples: int
    """Local training samples: FedAvg's weight."""
    parameters: FloatArray
    """(P,) in the program's layout, finite."""

    def __post_init__(self) -> None:
        _check_place(self.run, self.round, self.check)
        require(1 <= self.samples < 2**32, "samples is positive")
        _finite(self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Done(Value):
    """A device has finished a round of a method that uploads nothing (`Method.ALONE`)."""

    run: int
    round: int

    def __post_init__(self) -> None:
        _check_place(self.run, self.round)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameters(Value):
    """The parameters that open round `round`: averaged (FL) or converted (FLD). Retained on the broker."""

    run: int
    round: int
    parameters: FloatArray

    def __post_init__(self) -> None:
        _check_place(self.run, self.round)
        _finite(self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryUpload(Value):
    """What an agent does in the proxy states it has visited in a round (FRD, MixFRD)."""

    run: int
    round: int
    check: int
    """First two bytes of the task's digest."""
    memory: ProxyMemory

    def __post_init__(self) -> None:
        _check_place(self.run, self.round, self.check)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairsUpload(Value):
    """Every state an agent has seen in a round, and its policy there (PD)."""

    run: int
    round: int
    check: int
    pairs: Pairs

    def __post_init__(self) -> None:
        _check_place(self.run, self.round, self.check)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetMemory(Value):
    """What the fleet does in the proxy states it has visited: opens round `round`. Retained on the broker."""

    run: int
    round: int
    memory: ProxyMemory

    def __post_init__(self) -> None:
        _check_place(self.run, self.round)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetPairs(Value):
    """All agents' states and policies: opens round `round`. Retained on the broker."""

    run: int
    round: int
    pairs: Pairs

    def __post_init__(self) -> None:
        _check_place(self.run, self.round)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Birth(Value):
    """A device says that it is there and what it is. Retained on the broker."""

    profile: str
    runtime: str
    version: str
    """Of the client."""
    program: bytes
    schema: bytes
    samples: UintArray
    """(L,) local training samples of each label."""

    def __post_init__(self) -> None:
        require(len(self.program) == DIGEST_BYTES == len(self.schema), "digests are 4 bytes")
        texts = (self.profile, self.runtime, self.version)
        require(all(len(text) <= 64 for text in texts), "texts of at most 64 characters")
        vector("samples", self.samples, _UINT32)
        require(len(self.samples) >= 1, "samples a label")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gone(Value):
    """A device has left; also its last will, which the broker sends when the link dies."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seat(Value):
    """A device's number in one run: its bit in `Plan.cohort`."""

    run: int
    seat: int

    def __post_init__(self) -> None:
        require(is_uint32(self.run) and 0 <= self.seat < 65536, "seat is uint16")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command(Value):
    order: Order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report(Value):
    """Instrumentation, apart from every method's own bytes: how device and model stood after a round."""

    run: int
    round: int
    """The round this is about; sent when the next plan has been heard."""
    accuracy: float
    """Of the model the method delivers, on the device's test set, 0..1."""
    loss: float
    """Mean training loss of the round's steps. A loss that is not finite (training has diverged) is carried as
    the largest float32, 3.4e38: no frame holds NaN or infinity."""
    payload_up: int
    """Cumulated payload bytes of plans, uploads and parameters since the run began, reports left out."""
    payload_down: int
    stream_up: int
    """Cumulated bytes on the TCP stream (TCP_INFO bytes_sent, retransmissions included), reports left out."""
    stream_down: int
    train_s: float
    """Seconds of local training in the round."""

    def __post_init__(self) -> None:
        if not abs(self.loss) <= LARGEST:
            object.__setattr__(self, "loss", LARGEST)
        shorten(self, "accuracy", "loss", "train_s")
        _check_place(self.run, self.round)
        require(0 <= self.accuracy <= 1 and self.train_s >= 0, "accuracy is 0..1, train_s >= 0")
        totals = (self.payload_up, self.payload_down, self.stream_up, self.stream_down)
        require(all(0 <= total < 2**64 for total in totals), "byte totals are uint64")


METER_KINDS = (
    "plan",
    "parameters",
    "upload",
    "birth",
    "command",
    "report",
    "acknowledgement",
    "keepalive",
    "connection",
    "repeated",
)
"""What an MQTT packet was for, in the order of `Meter`'s arrays (K of them). The first six are PUBLISH packets by their
topic (docs/wire.md): "report" is instrumentation, `Report` and `Meter` alike. Then PUBACK; PINGREQ and PINGRESP;
CONNECT, CONNACK, SUBSCRIBE and all others; and every PUBLISH that MQTT sent again (its DUP flag)."""

STREAM_COUNTS = (
    "sent",
    "received",
    "received_again",
    "retransmitted",
    "retransmitted_segments",
    "segments_out",
    "segments_in",
    "data_segments_out",
    "data_segments_in",
    "headers_out",
    "headers_in",
)
"""What `Meter.stream` counts, in its order: bytes on the TCP stream (sent: retransmissions included, and what waits to
be sent; received: each byte once), bytes received again (an estimate); bytes sent again and in how many segments; all
segments, and those of them that carry data; bytes of all segments' IP and TCP headers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Meter(Value):
    """Instrumentation, apart from every method's own bytes: what a device's link and processor did since the run began.

    Totals, so that one that is lost is made good by the next; the plan that began the run is among them. Every number
    comes from the device's own packets or its kernel (TCP_INFO); headers are segments times the header in use.
    """

    run: int
    round: int
    """The round this is about, as in `Report`: taken when the next plan has been heard, before reports of it go out."""
    packets_up: WideArray
    """(K,) MQTT packets by kind."""
    packets_down: WideArray
    payload_up: WideArray
    """(K,) bytes of their payloads."""
    payload_down: WideArray
    mqtt_up: WideArray
    """(K,) bytes of the packets, payloads included."""
    mqtt_down: WideArray
    stream: WideArray | None
    """(11,) see STREAM_COUNTS; None where the kernel does not say (TCP_INFO is missing under qemu-user)."""
    connects: int
    """Connections made since the run began: 0 when the one that was there has lasted."""
    cpu_s: float
    """Processor seconds of the process since the run began (of one core), evaluations included."""
    review_cpu_s: float
    """Those of them that went into evaluating the model for reports."""
    elapsed_s: float
    """Since the run began."""

    def __post_init__(self) -> None:
        shorten(self, "cpu_s", "review_cpu_s", "elapsed_s")
        require(min(self.cpu_s, self.review_cpu_s, self.elapsed_s) >= 0, "seconds are not negative")
        _check_place(self.run, self.round)
        require(is_uint32(self.connects), "connects is uint32")
        for name in ("packets_up", "packets_down", "payload_up", "payload_down", "mqtt_up", "mqtt_down"):
            _counts(name, getattr(self, name), len(METER_KINDS))
        if self.stream is not None:
            _counts("stream", self.stream, len(STREAM_COUNTS))


def _counts(name: str, values: WideArray, length: int) -> None:
    vector(name, values, _UINT64)
    require(len(values) == length, f"{name} has {length} numbers")


AnyUpload: TypeAlias = Upload | LabelUpload | SeedUpload | ParameterUpload | MemoryUpload | PairsUpload | Done
"""What a device gives to a round."""

Opening: TypeAlias = Parameters | FleetMemory | FleetPairs
"""What opens a round beside its plan, where the method has such a thing: on one topic, retained."""

Message: TypeAlias = AnyUpload | Plan | Opening | Birth | Gone | Seat | Command | Report | Meter
