"""Each method against numbers that can be worked out on paper.

The model is softmax(x W) with W = 0 at the start and one-hot inputs (conftest): before the first step every logit is
1/3, and a step at rate 1 on a batch of one sample of label l towards t moves row l of W by t - sum(t) / 3.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.reference.conftest import Bench
from trainer.data import Samples
from trainer.reference.methods import cfd, dsfl, fd, fl, fld, method, share
from trainer.reference.settings import METHODS

THIRD = np.full(3, 1 / 3)


def _softmax(row: list[float]) -> np.ndarray:
    powers = np.exp(row)
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_whose_model_is_judged(name: str) -> None:
    assert set(method(name).JUDGED) <= {"devices", "server"}


def test_alone_steps_towards_its_labels(bench: Bench) -> None:
    memory, message = method("alone").device(bench.site("alone", [1], batch=1), {}, {})
    np.testing.assert_allclose(memory["state"].reshape(3, 3)[1], np.array([0, 1, 0]) - THIRD, rtol=1e-6)
    assert message.payload == 0


def test_fl_weighs_models_by_samples() -> None:
    """(1 * 2 + 3 * 6) / 4 = 5."""
    np.testing.assert_array_equal(fl.average([np.full(2, 2.0), np.full(2, 6.0)], [1, 3]), [5, 5])


def test_fl_starts_from_what_came_down(bench: Bench) -> None:
    site = bench.site("fl", [0], batch=1, lr=0.0)
    _, upload = method("fl").device(site, {}, {"model": np.arange(9, dtype=np.float32)})
    np.testing.assert_array_equal(upload.arrays["model"], np.arange(9))
    assert upload.payload == 4 * 9 + 4


def test_fd_uploads_the_mean_logits_during_training(bench: Bench) -> None:
    """Two steps on one sample of label 0: logits 1/3 before the first, softmax(2/3, -1/3, -1/3) before the second."""
    _, upload = method("fd").device(bench.site("fd", [0], batch=1, steps=2), {}, {})
    np.testing.assert_allclose(upload.arrays["rows"][0], (THIRD + _softmax([2 / 3, -1 / 3, -1 / 3])) / 2, rtol=1e-6)
    np.testing.assert_array_equal(upload.arrays["rows"][1:], 0)
    np.testing.assert_array_equal(upload.arrays["counts"], [2, 0, 0])
    assert upload.payload == 1 * 3 * 4 + 3  # one row of three float32, a byte a count


def test_fd_server_takes_the_mean_over_holders(bench: Bench) -> None:
    """Label 0 of both devices, label 1 of one, label 2 of none."""
    one = {"rows": np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]]), "counts": np.array([4, 1, 0])}
    two = {"rows": np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]]), "counts": np.array([9, 0, 0])}
    _, message = method("fd").server(bench.site("fd", []), {}, [one, two])
    np.testing.assert_allclose(message.arrays["G"], np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]]))
    np.testing.assert_array_equal(message.arrays["contributors"], [2, 1, 0])
    assert message.payload == 2 * 3 * 4 + 3


def test_fd_leaves_the_own_row_out() -> None:
    """Of two, G = (.5, .5, 0) and the own (1, 0, 0): the other's is 2 G - F = (0, 1, 0). Alone with it: none."""
    G = np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]])
    own = np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    teacher = fd.leave_one_out(G, np.array([2, 1, 0]), own, np.array([True, True, False]))
    np.testing.assert_allclose(teacher, np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]]))
    theirs = fd.leave_one_out(G, np.array([2, 1, 0]), own, np.zeros(3, bool))  # not in the cohort: G as it is
    np.testing.assert_allclose(theirs, G)


def test_fd_steps_towards_label_and_teacher(bench: Bench) -> None:
    site = bench.site("fd", [0], batch=1, gamma=0.5)
    broadcast = {
        "G": np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32),
        "contributors": np.array([1, 0, 0]),
        "cohort": np.array([False, True]),
    }
    method("fd").device(site, {}, broadcast)
    np.testing.assert_allclose(bench.runtime.fed[0][1], [[1, 0.5, 0]])
    normal = bench.site("fd", [0], batch=1, gamma=0.5, normalise=True)
    method("fd").device(normal, {}, broadcast)
    np.testing.assert_allclose(bench.runtime.fed[1][1], [[2 / 3, 1 / 3, 0]], rtol=1e-6)


def test_fld_seeds_go_up_until_they_counted(bench: Bench) -> None:
    memory, first = method("fld").device(bench.site("fld", [0, 1, 2], seeds=2), {}, {})
    assert len(first.arrays["x"]) == 2
    assert first.payload == 2 * 3 * 4 + 3 + 2 * (3 + 1) + 8  # two rows; counts; two seeds of three bytes and a label
    lost = {"cohort": np.array([False, True])}
    _, again = method("fld").device(bench.site("fld", [0, 1, 2], seeds=2, round_=1), memory, lost)
    np.testing.assert_array_equal(again.arrays["x"], first.arrays["x"])
    counted = {"cohort": np.array([True, True])}
    _, third = method("fld").device(bench.site("fld", [0, 1, 2], seeds=2, round_=2), memory, counted)
    assert "x" not in third.arrays


def test_fld_converts_towards_label_and_mean_logits(bench: Bench) -> None:
    upload = {
        "rows": np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32),
        "counts": np.array([1, 0, 0]),
        "x": np.array([[1, 0, 0]], np.float32),
        "first": np.array([0]),
        "second": np.array([255]),
        "owner": np.array([0]),
    }
    site = bench.site("fld", [], batch=1, beta=2.0, server_steps=1)
    memory, message = method("fld").server(site, {}, [upload])
    np.testing.assert_allclose(bench.runtime.fed[0][1], [[1, 2, 0]])
    np.testing.assert_allclose(message.arrays["model"][:3], np.array([1, 2, 0]) - 3 * THIRD, atol=1e-6)
    assert message.payload == 4 * 9
    method("fld").server(bench.site("fld", [], batch=1, server_steps=1, round_=1), memory, [upload])
    np.testing.assert_array_equal(memory["model"], message.arrays["model"])


def test_mixed_seeds_are_pairs_of_two_labels(bench: Bench) -> None:
    site = bench.site("mix2fld", [0, 1, 1], seeds=3, lam=0.1)
    seeds, payload = fld.seeds_of(site)
    assert (seeds["first"] != seeds["second"]).all()
    eye = np.eye(3)
    np.testing.assert_allclose(seeds["x"], 0.1 * eye[seeds["first"]] + 0.9 * eye[seeds["second"]], atol=0.5 / 255)
    assert payload == 3 * (3 + 2) + 8
    x, t = fld.training_set(bench.site("mixfld", [], lam=0.1), seeds)
    np.testing.assert_allclose(t, 0.1 * eye[seeds["first"]] + 0.9 * eye[seeds["second"]], rtol=1e-6)
    np.testing.assert_array_equal(x, seeds["x"])


def test_inverse_mixup_across_two_devices() -> None:
    """m1 = .1 a + .9 b, m2 = .1 b' + .9 a': s = -1/8 gives .1 s a + .9 (1 - s) a' of label a alone, s = 9/8 label b."""
    eye = np.eye(4, dtype=np.float32)
    a, b, a2, b2 = eye
    m1, m2 = 0.1 * a + 0.9 * b, 0.1 * b2 + 0.9 * a2
    x, y = fld.inverse_mixup(np.stack([m1, m2]), np.array([0, 1]), np.array([1, 0]), np.array([5, 6]), 0.1)
    np.testing.assert_array_equal(y, [0, 1])
    np.testing.assert_allclose(x[0], [-0.0125, -0.1125, 1.0125, 0.1125], atol=1e-6)
    np.testing.assert_allclose(x[1], [0.1125, 1.0125, -0.1125, -0.0125], atol=1e-6)
    weights = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])  # of labels 0 and 1 in a, b, a', b'
    np.testing.assert_allclose(x @ weights, [[1, 0], [0, 1]], atol=1e-6)  # a hard label each


def test_inverse_mixup_needs_two_devices() -> None:
    x, y = fld.inverse_mixup(np.ones((2, 4), np.float32), np.array([0, 1]), np.array([1, 0]), np.array([5, 5]), 0.1)
    assert x.shape == (0, 4)
    assert len(y) == 0


def test_sample_privacy_is_the_log_of_the_nearest_distance() -> None:
    raw = Samples(x=np.array([[0, 0], [10, 0]], np.uint8), y=np.array([0, 1], np.uint8))
    assert fld.sample_privacy(np.array([[3.0, 4.0]], np.float32), raw, 1.0) == pytest.approx(np.log(5))


def test_entropy_reduction_sharpens() -> None:
    """softmax((.6, .4) / .1): the odds are e^2."""
    np.testing.assert_allclose(dsfl.sharpen(np.array([[0.6, 0.4]]), 0.1), [_softmax([2, 0])])


def test_dsfl_distils_before_it_trains(bench: Bench) -> None:
    site = bench.site("ds-fl", [0], pool=[1, 2], batch=1, inputs=1, round_=1, label_code="float32")
    labels = np.array([[0, 0, 1]], np.float32)
    _, upload = method("ds-fl").device(site, {}, {"labels": labels})
    np.testing.assert_array_equal(bench.runtime.fed[0][1], labels)
    np.testing.assert_array_equal(bench.runtime.fed[1][1], [[1, 0, 0]])
    assert upload.payload == 1 * 3 * 4
    _, mean = method("ds-fl").server(
        site, {}, [{"labels": np.array([[0.5, 0.5, 0]])}, {"labels": np.array([[1.0, 0, 0]])}]
    )
    np.testing.assert_allclose(mean.arrays["labels"], [_softmax([7.5, 2.5, 0])], rtol=1e-6)


def test_delta_code_sends_what_changed() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0, 10, 1000)
    new = old.copy()
    new[:20] = (new[:20] + 1) % 10
    whole, delta = cfd.encode(new, cfd.NO_LABELS), cfd.encode(new, old)
    np.testing.assert_array_equal(cfd.decode(whole, cfd.NO_LABELS), new)
    np.testing.assert_array_equal(cfd.decode(delta, old), new)
    assert len(delta) < len(whole) / 8


def test_cfd_codes_against_what_the_server_has(bench: Bench) -> None:
    site = bench.site("cfd", [0], pool=[0, 1, 2], batch=1, inputs=3, steps=1)
    memory, _ = method("cfd").device(site, {}, {})
    np.testing.assert_array_equal(memory["known"], [])
    after, _ = method("cfd").device(site, memory, {"labels": np.zeros(3, np.int64), "cohort": np.array([True, True])})
    np.testing.assert_array_equal(after["known"], memory["sent"])
    lost, _ = method("cfd").device(site, memory, {"labels": np.zeros(3, np.int64), "cohort": np.array([False, True])})
    np.testing.assert_array_equal(lost["known"], memory["known"])


def test_votes_weigh_the_root_of_the_count() -> None:
    """Device 0 trained on 9 samples of label 0, device 1 on 4 of label 1, device 2 on 1: 3 beats 2, 2 + 1 ties 3."""
    eye = np.eye(3)
    roots = [share.weights_of(np.array(counts), "sqrt") for counts in ([9, 0, 0], [0, 4, 0], [0, 1, 0])]
    two = share.vote([eye[[0]], eye[[1]]], roots[:2], hard=True)
    np.testing.assert_array_equal(two, [[1, 0, 0]])
    three = share.vote([eye[[0]], eye[[1]], eye[[1]]], roots, hard=True)
    np.testing.assert_array_equal(three, [[1, 0, 0]])  # of equal ones the first
    soft = share.vote([eye[[0]], eye[[1]]], roots[:2], hard=False)
    np.testing.assert_allclose(soft, [[0.6, 0.4, 0]])
    nobody = share.vote([eye[[2]], eye[[2]], eye[[0]]], [*roots[:2], np.zeros(3)], hard=True)
    np.testing.assert_array_equal(nobody, [[0, 0, 1]])  # no word has weight: all weigh alike


def test_share_trains_on_two_halves(bench: Bench) -> None:
    site = bench.site("share", [0], pool=[2], batch=4, inputs=1, round_=6, warm_up=5)
    kept = {"of": np.array([5]), "targets": np.array([[[0, 1, 0]]], np.float32)}
    _, upload = method("share").device(site, kept, {})
    x, target = bench.runtime.fed[0]
    np.testing.assert_array_equal(x[[0, 2]], np.eye(3)[[0, 2]])
    np.testing.assert_array_equal(target[0], [2, 0, 0])  # one local sample for a half of two rows
    np.testing.assert_array_equal(upload.arrays["counts"], [1, 0, 0])
    assert upload.payload == 1 * 3 * 4 + 3 + 1  # a row, counts, one label in a byte


def test_share_warms_up_with_fd_alone(bench: Bench) -> None:
    site = bench.site("share", [0], pool=[2], batch=4, inputs=1, round_=4, warm_up=5)
    _, upload = method("share").device(site, {}, {})
    assert "labels" not in upload.arrays
    np.testing.assert_array_equal(bench.runtime.fed[0][1], [[4, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_share_keeps_the_newest_rounds(bench: Bench) -> None:
    site = bench.site("share", [0], pool=[2], inputs=1, round_=9, buffer=2)
    kept = {"of": np.array([6, 7]), "targets": np.zeros((2, 1, 3), np.float32)}
    new = share.remember(site, kept, {"labels": np.ones((1, 3), np.float32)})
    np.testing.assert_array_equal(new["of"], [7, 8])
    np.testing.assert_array_equal(new["targets"][:, 0, 0], [0, 1])
