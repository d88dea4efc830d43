from __future__ import annotations

import numpy as np
import pytest

from broker.methods.share import vote
from edge.wire.labels import code_votes, pack_labels, read_labels, read_votes
from edge.wire.messages import LabelUpload, Upload
from edge.wire.options import ShareOptions
from edge.wire.rows import code_rows

HARD, SOFT = ShareOptions(inputs=3), ShareOptions(inputs=1, bits=8)


def upload(labels: bytes, counts: list[int]) -> LabelUpload:
    rows = code_rows(np.full((np.count_nonzero(counts), 3), 1 / 3), 32)
    means = Upload(run=1, round=1, check=0, counts=np.array(counts, np.uint32), logits=rows)
    return LabelUpload(means=means, labels=labels)


def hard(labels: list[int], counts: list[int]) -> LabelUpload:
    return upload(pack_labels(np.array(labels), 3), counts)


def winners(uploads: list[LabelUpload]) -> list[int]:
    return [int(label) for label in read_labels(vote(uploads, HARD), 3, 3)]


def test_a_word_weighs_the_root_of_its_labels_samples() -> None:
    # input 0: sqrt(16) = 4 for label 0, 1 + 1 for label 1; input 1: 4 for label 0, 1 for 1, 0 for 2; input 2: agreed
    assert winners([hard([0, 0, 2], [16, 1, 1]), hard([1, 1, 2], [1, 1, 1]), hard([1, 2, 2], [1, 1, 0])]) == [0, 0, 2]


def test_where_no_word_has_weight_every_word_weighs_alike() -> None:
    assert winners([hard([2, 0, 0], [4, 4, 0]), hard([2, 0, 0], [4, 4, 0]), hard([1, 0, 0], [4, 0, 4])]) == [2, 0, 0]


def test_soft_labels_are_a_weighted_mean() -> None:
    rows = np.array([[[0.5, 0.25, 0.25]], [[0.25, 0.5, 0.25]]], np.float32)
    uploads = [upload(code_votes(row, SOFT), counts) for row, counts in zip(rows, ([9, 1, 1], [1, 4, 1]), strict=True)]
    said = [read_votes(one.labels, SOFT, 3)[0] for one in uploads]
    expected = np.array([3, 1, 1]) * said[0] + np.array([1, 2, 1]) * said[1]
    fleet = read_votes(vote(uploads, SOFT), SOFT, 3)[0]
    np.testing.assert_allclose(fleet, expected / expected.sum(), atol=0.01)  # coded again at 8 bits


def test_nobody_says_nothing() -> None:
    assert vote([], HARD) == b""


def test_labels_of_another_length_raise() -> None:
    with pytest.raises(ValueError, match="bytes for 3 labels"):
        vote([upload(b"\0\0\0\0", [1, 1, 1])], HARD)
