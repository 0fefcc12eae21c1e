"""xpruner.testing's checks of a method, and its score on weights whose norms are known."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from xpruner_example.reader_norm import ReaderNormOptions, reader_norm

from xpruner.testing import MethodTests, small_vit, tiny_problem


class TestReaderNorm(MethodTests):
    method = "reader_norm"


class TestSumOfMagnitudes(MethodTests):
    method = "reader_norm"
    options: ClassVar = {"order": 1.0}


@pytest.mark.parametrize(("order", "norm"), [(1.0, 7.0), (2.0, 5.0)])
def test_the_score_is_the_norm_of_what_reads_the_unit(order, norm):
    model = small_vit()
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight[:, 6] = 0
        model.blocks[0].mlp.fc2.weight[:2, 6] = torch.tensor([3.0, -4.0])
    problem = replace(tiny_problem("reader_norm", model), options=ReaderNormOptions(order))
    assert reader_norm(problem)["blocks.0.mlp:hidden"][6] == norm
