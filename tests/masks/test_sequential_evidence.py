"""Sequential evidence, against values computed by hand."""

import pytest
import torch

from xpruner.calibration.moments import consumer_moments
from xpruner.masks.evidence import class_evidence
from xpruner.masks.sequential_evidence import backward_elimination, sequential_evidence
from xpruner.units import KINDS, find_units

SINGLE = torch.arange(3)[:, None]


def test_independent_units_keep_their_evidence():
    """No unit can replace another: both cases are one, whatever the order."""
    evidence = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 6.0]])
    covariance = torch.eye(3, dtype=torch.float64)
    found = backward_elimination(evidence, evidence, covariance, covariance, SINGLE)
    assert torch.allclose(found, evidence)


def test_of_two_units_the_second_counts_as_if_alone():
    """With correlation r the other leaves 1 - r^2 of the variance; once the weaker is eliminated, all of it is left."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    among_all, alone = torch.tensor([[0.1, 0.2]]), torch.tensor([[1.0, 5.0]])
    found = backward_elimination(among_all, alone, covariance, torch.linalg.inv(covariance), SINGLE[:2])
    assert torch.allclose(found, torch.tensor([[0.1, 5.0]]))


def test_halfway_is_the_geometric_mean():
    """Unit 2 keeps 1/4 of its variance beside 0 and 1, 1/2 beside 1 alone: halfway from evidence 1 to 16 lies 4."""
    shared = 0.5**0.5
    covariance = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, shared], [0.5, shared, 1.0]], dtype=torch.float64)
    among_all, alone = torch.tensor([[0.1, 50.0, 1.0]]), torch.tensor([[0.1, 50.0, 16.0]])
    found = backward_elimination(among_all, alone, covariance, torch.linalg.inv(covariance), SINGLE)
    assert found[0, 0] == pytest.approx(0.1)
    assert found[0, 2] == pytest.approx(4.0)


def test_no_unit_counts_less_than_one_that_was_eliminated_before():
    """Unit 1 falls to 0.5 without 0 (its whole counts less than its part); it is raised to the evidence of 0."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    found = backward_elimination(
        torch.tensor([[1.0, 2.0], [3.0, 2.1]]), torch.tensor([[1.0, 0.25], [3.0, 0.75]]),
        covariance, torch.linalg.inv(covariance), SINGLE[:2],
    )  # fmt: skip
    assert torch.allclose(found, torch.tensor([[1.0, 1.0], [3.0, 3.0]]))


def test_units_of_several_channels_that_lie_interleaved():
    """Unit u owns channels u and u + 2; unit 1's covariance given unit 0 has trace 2 (1 - r^2), its own 2."""
    r = 0.6
    covariance = torch.eye(4, dtype=torch.float64)
    covariance[0, 1] = covariance[1, 0] = covariance[2, 3] = covariance[3, 2] = r
    channels = torch.tensor([[0, 2], [1, 3]])
    among_all, alone = torch.tensor([[0.1, 0.2]]), torch.tensor([[1.0, 5.0]])
    found = backward_elimination(among_all, alone, covariance, torch.linalg.inv(covariance), channels)
    assert torch.allclose(found, torch.tensor([[0.1, 5.0]]))


def test_of_two_copies_one_is_kept(tiny_vit):
    """Two equal hidden units: with both there neither is needed; in sequence, one counts as much as it does alone."""
    mlp = tiny_vit.blocks[0].mlp
    with torch.no_grad():
        mlp.fc1.weight[1], mlp.fc1.bias[1] = mlp.fc1.weight[0], mlp.fc1.bias[0]
    key = "blocks.0.mlp:hidden"
    units, data = find_units(tiny_vit), [(torch.randn(64, 3, 32, 32), torch.arange(64) % 5)]
    moments = consumer_moments(tiny_vit, units, data)
    among_all = class_evidence(tiny_vit, units, data, 5, moments)[key].mean(0)
    sequential = sequential_evidence(tiny_vit, units, data, 5, moments)[key].mean(0)
    least, most = sequential[:2].sort().values
    assert least == pytest.approx(among_all[:2].min().item(), rel=1e-3)
    assert most > 3 * among_all[:2].max()


def test_a_share_of_the_evidence_is_of_the_whole_unit(tiny_vit):
    units, data = find_units(tiny_vit, KINDS), [(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)]
    moments = consumer_moments(tiny_vit, units, data)
    taylor = class_evidence(tiny_vit, units, data, 5)
    none, some, whole = (sequential_evidence(tiny_vit, units, data, 5, moments, whole=w) for w in (0.0, 0.25, 1.0))
    for key in taylor:
        assert torch.allclose(some[key], 0.75 * none[key] + 0.25 * taylor[key])
        assert torch.allclose(whole[key], taylor[key])


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_swin"])
def test_every_kind_has_finite_evidence(name, request):
    model = request.getfixturevalue(name)
    units, data = find_units(model, KINDS), [(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)]
    tables = sequential_evidence(model, units, data, 5, consumer_moments(model, units, data))
    assert set(tables) == {group.key for group in units}
    for group in units:
        table = tables[group.key]
        assert table.shape == (5, group.size)
        assert torch.isfinite(table).all()
        assert (table >= 0).all()
