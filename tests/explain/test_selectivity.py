import pytest
import torch
from torch import nn

from xpruner.errors import UsageError
from xpruner.explain.selectivity import Selectivity, marked, selectivity
from xpruner.units import find_units

HIDDEN = "blocks.1.mlp:hidden"
TABLES = {"a": torch.tensor([[0.9, 0.1], [0.2, 0.3]]), "b": torch.tensor([[0.5, 0.8, 0.0], [0.1, 0.9, 0.7]])}


def test_a_row_marks_its_largest_values_over_all_groups():
    assert marked(TABLES, 0, 0.4) == {"a": [0], "b": [1]}
    assert marked(TABLES, 1, 0.4) == {"b": [1, 2]}
    assert marked(TABLES, 1, 0.01) == {"b": [1]}


@pytest.fixture
def two_units_for_two_classes(tiny_vit) -> nn.Module:
    """Hidden unit 0 of the last block is all that speaks for class 0, unit 1 for class 1; both are always on."""
    with torch.no_grad():
        for parameter in tiny_vit.parameters():
            parameter.zero_()
        tiny_vit.norm.weight.fill_(1.0)
        mlp = tiny_vit.blocks[1].mlp
        mlp.fc1.bias[:2] = 3.0
        mlp.fc2.weight[0, 0], mlp.fc2.weight[1, 1] = 1.0, 1.0
        tiny_vit.head.weight[0, 0], tiny_vit.head.weight[1, 1] = 1.0, 1.0
        tiny_vit.head.bias[2] = 0.5
    return tiny_vit


def test_closing_what_a_class_marks_costs_it_alone(two_units_for_two_classes):
    """Both logits are equal and class 0 is named first: without its unit 0 class 0 is lost, without unit 1 nothing."""
    model, images = two_units_for_two_classes, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 0, 2, 2]))]
    table = torch.full((5, 96), 0.01)
    table[0, 0] = table[2, 1] = 0.9
    found = selectivity(model, find_units(model), {HIDDEN: table}, images, share=1 / 96)
    assert found == [Selectivity(0, 100.0, 0.0), Selectivity(2, 0.0, 0.0)]


def test_a_share_out_of_range_is_refused(tiny_vit):
    with pytest.raises(UsageError, match=r"A share of 1\.5"):
        selectivity(tiny_vit, find_units(tiny_vit), TABLES, [], share=1.5)
