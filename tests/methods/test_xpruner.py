"""X-Pruner's rounds, with training between them."""

from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem

from xpruner.config import CompensateConfig
from xpruner.cost import count_macs
from xpruner.errors import UsageError
from xpruner.methods import find_method
from xpruner.surgery import apply


def search(problem):
    return find_method("xpruner")(problem)


def test_recovery_hands_over_the_network_of_its_plan_with_weights_that_were_trained():
    updates = []
    problem = replace(
        tiny_problem("xpruner", rounds=2, recovery=3), on_step=lambda step, _figures: updates.append(step)
    )
    before = {key: value.clone() for key, value in problem.model.state_dict().items()}
    outcome = search(problem)
    assert updates == [1, 2, 3, 1, 2, 3]
    cut = apply(problem.model, outcome.plan)
    shapes = {name: tensor.shape for name, tensor in cut.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in outcome.model.state_dict().items() if name in shapes}
    assert count_macs(outcome.model, (3, 32, 32)) == outcome.plan.cost["macs_pruned"]
    assert not torch.equal(outcome.model.head.weight, cut.head.weight)
    assert all(torch.equal(value, before[key]) for key, value in problem.model.state_dict().items())


def test_without_recovery_no_network_is_handed_over():
    assert search(tiny_problem("xpruner", rounds=2)).model is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"recovery": -1}, "recovery is -1; it must be 0 or more"),
        ({"recovery": 5, "max_class_drop": 2.0}, "recovery trains between rounds"),
        ({"recovery": 5, "compensate": CompensateConfig(mode="affine")}, "compensate.mode is affine"),
    ],
)
def test_what_does_not_go_with_recovery_is_refused(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        search(tiny_problem("xpruner", rounds=1, **changes))
