"""What a plan of one method says beyond what every plan says: `Plan.options`, a few float32, read through these.

Each class knows its numbers' order on the wire (that of its fields), leaves out zeros at the end, and reads what is
left out as zero. All defaults of these settings stand here; docs/methods.md says what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

from edge.wire.values import require, shorten

SHARED_BITS = (0, 8, 4, 3)
"""Of a shared input's label: 0 for the label alone, otherwise of a logarithmic code (`edge.wire.rows`)."""

MOST_OPTIONS = 16
"""Numbers in `Plan.options`."""

MOST_INPUTS = 20_000
"""Shared inputs a round; as labels of 10 they take 8 kB."""

MOST_SEEDS = 1_000
"""Of a device."""

MOST_SEGMENT = 64
"""Steps that the batch of an agent's program takes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FldOptions:
    """FLD, MixFLD and Mix2FLD (arXiv 2006.09801): seeds up once, a model down every round."""

    seeds: int = 50
    """N_S: samples, or mixed pairs, that a device gives away with its first upload."""
    steps: int = 32
    """K_s: steps of the aggregator on the seeds, a round."""
    lr: float = 0.1
    """Of these steps."""
    beta: float = 1.0
    """Weight of the term towards the devices' mean logits."""
    lam: float = 0.1
    """lambda, the weight of a pair's first sample (mixfld, mix2fld): 0 < lam < 0.5."""

    def __post_init__(self) -> None:
        shorten(self, "lr", "beta", "lam")
        require(1 <= self.seeds <= MOST_SEEDS, f"1 to {MOST_SEEDS} seeds a device")
        require(1 <= self.steps <= 1_000_000, "1 to 1e6 conversion steps")
        require(0 < self.lr < 1e3 and 0 <= self.beta < 1e3, "0 < conversion lr < 1000, 0 <= beta < 1000")
        require(0 < self.lam < 0.5, "0 < lambda < 0.5: at 0.5 a mixed pair cannot be taken apart again")

    def to_plan(self, round_: int) -> tuple[float, ...]:
        """The same in every round."""
        del round_
        return _trimmed(self.seeds, self.steps, self.lr, self.beta, self.lam)

    @classmethod
    def from_plan(cls, options: tuple[float, ...]) -> Self:
        """Raises ValueError on what `to_plan` does not write."""
        seeds, steps, lr, beta, lam = _filled(options, 5)
        return cls(seeds=_whole(seeds), steps=_whole(steps), lr=lr, beta=beta, lam=lam)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOptions:
    """`share`: labels of inputs that every device draws from the pool in its program (docs/methods.md)."""

    inputs: int = 900
    """S: shared inputs that a device labels at a round's end; in a plan of a warm-up round 0."""
    buffer: int = 3
    """Rounds whose labelled inputs a device trains on: the newest."""
    shift: int = 2
    """Pixels that an image is shifted by at most, up or down and left or right; local and shared ones."""
    bits: int = 0
    """Of a label: 0 for the label alone, 8, 4 or 3 for all probabilities as logarithmic codes."""
    warm_up: int = 5
    """Rounds of FD alone before the first labels; a plan does not say it, its `inputs` do."""

    def __post_init__(self) -> None:
        require(0 <= self.inputs <= MOST_INPUTS, f"0 to {MOST_INPUTS} shared inputs a round")
        require(1 <= self.buffer <= 1000 and self.warm_up >= 0, "buffer is 1 to 1000 rounds, warm-up at least 0")
        require(0 <= self.shift <= 64, "shift is 0 to 64 pixels")
        require(self.bits in SHARED_BITS, f"bits of a shared label: one of {', '.join(map(str, SHARED_BITS))}")

    def to_plan(self, round_: int) -> tuple[float, ...]:
        """Of round `round_`: no inputs while it is warm-up."""
        return _trimmed(self.inputs if round_ >= self.warm_up else 0, self.buffer, self.shift, self.bits)

    @classmethod
    def from_plan(cls, options: tuple[float, ...]) -> Self:
        """Raises ValueError on what `to_plan` does not write."""
        inputs, buffer, shift, bits = _filled(options, 4)
        return cls(inputs=_whole(inputs), buffer=_whole(buffer), shift=_whole(shift), bits=_whole(bits), warm_up=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """FRD, MixFRD, PD and FRL (arXiv 1907.06536, 2005.06105): how an agent learns, and what it tells (docs/rl.md).

    A plan's `lr` is the actor's, its `steps` are episodes a round, its `bits` those of a policy's code. An agent alone
    learns with these defaults.
    """

    segment: int = 20
    """n: steps an agent plays before it learns from them; an episode's end ends a segment."""
    discount: float = 0.99
    trace: float = 0.95
    """lambda of generalised advantage estimation (arXiv 1506.02438)."""
    entropy: float = 0.01
    """Weight of the actor's entropy."""
    critic: float = 3.0
    """The critic's learning rate is so many times the actor's."""
    reward: float = 0.01
    """What the critic sees of a reward; the actor's advantages are in whole rewards."""
    bins: int = 30
    """Cells along each component of a state (the paper's 30 sections)."""
    distil_lr: float = 1e-3
    epochs: int = 5
    """Passes over the fleet's memory a round."""
    average: bool = False
    """Tell the policies averaged over the round, as the papers do; else the policy of now in the cells visited."""
    values: bool = False
    """Tell the critic's values too."""
    mixup: float = 1.0
    """MixFRD: alpha of the Beta distribution that a pair's weight is drawn from."""

    def __post_init__(self) -> None:
        shorten(self, "discount", "trace", "entropy", "critic", "reward", "distil_lr", "mixup")
        require(1 <= self.segment <= MOST_SEGMENT, f"a segment has 1 to {MOST_SEGMENT} steps")
        require(0 < self.discount <= 1 and 0 <= self.trace <= 1, "0 < discount <= 1, 0 <= trace <= 1")
        require(0 <= self.entropy < 1e3, "0 <= entropy < 1000")
        require(0 < self.critic < 1e3 and 0 < self.reward < 1e3, "0 < critic, reward < 1000")
        require(2 <= self.bins <= 1000 and 1 <= self.epochs <= 1000, "2 to 1000 bins, 1 to 1000 epochs")
        require(0 < self.distil_lr < 1e3 and 0 < self.mixup <= 100, "0 < distil lr < 1000, 0 < mixup <= 100")

    def to_plan(self, round_: int) -> tuple[float, ...]:
        """The same in every round."""
        del round_
        learning = (self.segment, self.discount, self.trace, self.entropy, self.critic, self.reward)
        telling = (self.bins, self.distil_lr, self.epochs, self.mixup, self.average, self.values)
        return _trimmed(*learning, *telling)

    @classmethod
    def from_plan(cls, options: tuple[float, ...]) -> Self:
        """Raises ValueError on what `to_plan` does not write."""
        segment, discount, trace, entropy, critic, reward, bins, lr, epochs, mixup, *flags = _filled(options, 12)
        require(all(flag in {0.0, 1.0} for flag in flags), "average and values are 0 or 1")
        return cls(
            segment=_whole(segment),
            discount=discount,
            trace=trace,
            entropy=entropy,
            critic=critic,
            reward=reward,
            bins=_whole(bins),
            distil_lr=lr,
            epochs=_whole(epochs),
            mixup=mixup,
            average=bool(flags[0]),
            values=bool(flags[1]),
        )


Options: TypeAlias = FldOptions | ShareOptions | AgentOptions


def _trimmed(*numbers: float) -> tuple[float, ...]:
    """Without the zeros at the end."""
    last = max((at for at, number in enumerate(numbers) if number), default=-1)
    return tuple(float(number) for number in numbers[: last + 1])


def _filled(options: tuple[float, ...], count: int) -> tuple[float, ...]:
    require(len(options) <= count, f"at most {count} options, not {len(options)}")
    require(not options or options[-1] != 0, "zeros at the end are left out")
    return options + (0.0,) * (count - len(options))


def _whole(number: float) -> int:
    require(number == int(number) if abs(number) < 2**24 else False, f"{number} where a whole number belongs")
    return int(number)
