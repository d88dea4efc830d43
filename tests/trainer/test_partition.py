"""What each split promises, for whatever it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.partition import Indices, Labels, Split, SplitError, parse_split, partition, resolve

L = 10
POOL: Labels = np.random.default_rng(0).integers(0, L, 2000).astype(np.uint8)


def split_pool(text: str, devices: int, samples: int, seed: int = 0, y: Labels = POOL) -> tuple[Indices, ...]:
    return partition(parse_split(text), y, devices=devices, samples=samples, label_count=L, seed=seed)


def counts(share: Indices, y: Labels = POOL) -> list[int]:
    return [int(count) for count in np.bincount(y[share], minlength=L)]


asked = given(devices=st.integers(1, 20), samples=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
kinds = pytest.mark.parametrize("text", ["iid", "fd", "fd:3:5", "dirichlet:0.5"])


@kinds
@asked
@settings(max_examples=40, deadline=None)
def test_no_sample_on_two_devices(text: str, devices: int, samples: int, seed: int) -> None:
    try:
        shares = split_pool(text, devices, samples, seed)
    except SplitError as refusal:
        assert "take a larger ALPHA" in str(refusal)  # noqa: PT017 - one sample a device and a harsh draw
        return
    dealt = np.concatenate(shares)
    assert len(shares) == devices
    assert len(np.unique(dealt)) == len(dealt)
    assert dealt.size == 0 or (dealt.min() >= 0 and dealt.max() < len(POOL))


@pytest.mark.parametrize("text", ["iid", "fd:3:5", "mix2fld", "dirichlet:1"])
def test_same_seed_same_split(text: str) -> None:
    first, again, other = (split_pool(text, 7, 60, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@asked
@settings(max_examples=40, deadline=None)
def test_iid_sizes(devices: int, samples: int, seed: int) -> None:
    assert [len(share) for share in split_pool("iid", devices, samples, seed)] == [samples] * devices


@given(targets=st.integers(1, L), kept=st.integers(1, 8), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_fd_cuts_the_iid_share_and_nothing_else(targets: int, kept: int, seed: int) -> None:
    whole = split_pool("iid", 5, 200, seed)
    for before, after in zip(whole, split_pool(f"fd:{targets}:{kept}", 5, 200, seed), strict=True):
        assert set(after) <= set(before)
        changed = [(b, a) for b, a in zip(counts(before), counts(after), strict=True) if a != b]
        assert all(a == kept < b for b, a in changed)
        scarce = sum(b <= kept for b in counts(before))
        assert targets - scarce <= len(changed) <= targets


@given(
    devices=st.integers(1, 12),
    few=st.integers(1, 3),
    scarce=st.integers(1, L - 1),
    extra=st.integers(0, 300),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_mix2fld_counts(devices: int, few: int, scarce: int, extra: int, seed: int) -> None:
    rich = L - scarce
    samples = L * few + min(extra, rich * 100)
    for share in split_pool(f"mix2fld:{scarce}:{few}", devices, samples, seed):
        assert len(share) == len(set(share)) == samples
        by_size = sorted(counts(share))
        assert by_size[:scarce] == [few] * scarce
        assert by_size[-1] - by_size[scarce] <= 1


def test_mix2fld_is_the_papers_at_its_size() -> None:
    y = np.repeat(np.arange(L, dtype=np.uint8), 500)
    for share in split_pool("mix2fld", 10, 500, y=y):
        assert sorted(counts(share, y)) == [2, 2] + [62] * 8


@given(alpha=st.sampled_from([0.3, 1.0, 100.0]), devices=st.integers(2, 12), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_dirichlet_deals_everything(alpha: float, devices: int, seed: int) -> None:
    shares = split_pool(f"dirichlet:{alpha}", devices, 100, seed)
    assert sum(len(share) for share in shares) == devices * 100
    assert min(len(share) for share in shares) >= 2


def test_dirichlet_alpha_is_the_skew() -> None:
    def skew(alpha: float) -> float:
        """Mean over devices of the share of the most frequent label; 0.1 when even."""
        shares = [counts(share) for seed in range(5) for share in split_pool(f"dirichlet:{alpha}", 10, 100, seed)]
        return float(np.mean([max(share) / sum(share) for share in shares]))

    assert skew(0.1) > skew(1.0) > skew(100.0)
    assert skew(1000.0) < 0.2


@pytest.mark.parametrize(
    ("text", "samples", "meaning"),
    [
        ("fd", 2000, "fd:3:5"),
        ("fd", 500, "fd:3:5"),
        ("fd", 60, "fd:3:1"),
        ("fd:2", 500, "fd:2:5"),
        ("mix2fld", 500, "mix2fld:2:2"),
        ("mix2fld", 60, "mix2fld:2:1"),
        ("dirichlet:.30", 60, "dirichlet:0.3"),
        (" iid ", 60, "iid"),
    ],
)
def test_open_numbers_scale_with_the_data(text: str, samples: int, meaning: str) -> None:
    assert str(resolve(parse_split(text), samples, L)) == meaning
    assert parse_split(meaning) == resolve(parse_split(text), samples, L)


@pytest.mark.parametrize(
    "text",
    ["", "non-iid", "iid:2", "fd:0", "fd:3:5:1", "fd:a", "dirichlet", "dirichlet:0", "dirichlet:nan", "mix2fld:-1"],
)
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(SplitError, match=r"unknown split .*: iid, fd"):
        parse_split(text)


@pytest.mark.parametrize(
    ("text", "devices", "samples", "message"),
    [
        ("iid", 3000, 1, "at most 2000 devices"),
        ("fd", 10, 201, "at most 200 samples a device"),
        ("iid", 0, 5, "both are at least 1"),
        ("iid", 5, 0, "both are at least 1"),
        ("fd:11:1", 5, 50, "at most 10"),
        ("mix2fld:10:1", 5, 50, "at most 9"),
        ("mix2fld:2:9", 5, 50, "at least 90 samples"),
        ("mix2fld", 2, 2001, r"at most \d+ samples a device"),
        ("dirichlet:0.001", 20, 5, "take a larger ALPHA"),
        ("natural", 5, 50, "only npz:DIR"),
    ],
)
def test_the_impossible_says_what_would_fit(text: str, devices: int, samples: int, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_pool(text, devices, samples)


def test_what_a_refusal_offers_does_fit() -> None:
    with pytest.raises(SplitError) as refusal:
        split_pool("mix2fld", 2, 2001)
    most = int(str(refusal.value).rsplit("at most ", 1)[1].split()[0])
    assert all(len(share) == most for share in split_pool("mix2fld", 2, most))


def test_a_split_prints_as_it_is_written() -> None:
    assert str(Split(kind="fd")) == "fd"
    assert str(Split(kind="fd", labels=3, kept=5)) == "fd:3:5"
