"""The closed forms against the dynamics they solve, the kernels against plain gradients and quadrature: to rounding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainer.ntk import analytic, exact, kernels, predict

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
"""Torch's own: its forward mode compiles a few formulas at its first use."""


@pytest.mark.parametrize("claims", [exact.prediction_claims, exact.analytic_claims, exact.kernel_claims])
def test_every_exact_claim_holds(claims: object) -> None:
    made = list(claims())  # type: ignore[operator]
    assert len(made) >= 5
    assert not [claim for claim in made if not claim.passed]
    assert all(claim.tolerance == 1e-10 for claim in made)


def test_a_claim_fails_on_nan_on_a_wrong_shape_and_below_its_bar() -> None:
    zeros = torch.zeros(2)
    assert exact.exact_claim("same", zeros, zeros).passed
    assert not exact.exact_claim("nan", zeros * math.nan, zeros).passed
    assert not exact.exact_claim("shape", torch.zeros(2, 1), zeros).passed
    assert not exact.Claim(text="slope", measured=1.4, predicted=2, tolerance=1.5, at_least=True).passed
    assert exact.Claim(text="slope", measured=1.5, predicted=2, tolerance=1.5, at_least=True).passed


def test_kernels_of_a_constant_layer_stack() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        analytic.relu_kernels(torch.ones(1, 2), layers=())
    with pytest.raises(ValueError, match="variance"):
        analytic.Layer(weight=0)
    one = analytic.relu_kernels(torch.tensor([[3.0, 4.0]]).double(), layers=(analytic.Layer(weight=2, bias=1),))
    assert one.ntk.item() == one.nngp.item() == 2 * 25 / 2 + 1


def test_a_network_keeps_its_buffers_and_loses_nothing_of_its_parameters() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network, parameters = kernels.network_of(module)
    assert kernels.parameter_count(parameters) == 2 * 3 + 3 + 3 + 3
    x = torch.ones(2, 2).double()
    torch.testing.assert_close(network(parameters, x), module.double()(x))


def test_kd_ends_between_label_and_teacher_and_a_wrong_teacher_wins_only_above_one() -> None:
    theta = torch.diag(torch.tensor([1.0, 2.0]).double())
    labels, wrong = torch.tensor([[1.0, 0.0]]).T.double(), torch.tensor([[0.0, 1.0]]).T.double()
    start = predict.Predicted(train=torch.zeros(2, 1).double(), unseen=torch.zeros(0, 1).double())
    ends = {}
    for lam in (0.5, 0.99, 1.01, 4):
        blend = predict.regularised(lam)
        end = predict.kd(
            predict.modes(theta),
            torch.zeros(0, 2).double(),
            start,
            labels=labels,
            teacher=wrong,
            blend=blend,
            clock=predict.Flow(eta=1, t=1e3),
        )
        torch.testing.assert_close(end.train, (labels + lam * wrong) / (1 + lam))
        ends[lam] = int(end.train.argmax())
    assert ends == {0.5: 0, 0.99: 0, 1.01: 1, 4: 1}


def test_cd_reaches_the_labels_for_every_lambda() -> None:
    p = exact.problem()
    moving = predict.modes(p.theta + 0.1 * torch.eye(exact.SEEN).double())
    start = predict.Predicted(train=p.start[:, : exact.SEEN], unseen=p.start[:, exact.SEEN :])
    for lam in (0.0, 0.5, 8.0):
        end = predict.cd_live(moving, p.cross, start, labels=p.labels, lam=lam, clock=predict.Flow(eta=1, t=500))
        torch.testing.assert_close(end.train, p.labels.expand_as(end.train))
