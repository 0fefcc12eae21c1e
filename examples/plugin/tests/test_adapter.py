"""xpruner.testing's checks of an adapter, on a model that holds the module."""

import pytest
import timm
import xpruner_example  # noqa: F401, registers the model

from xpruner.testing import AdapterTests, stir

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_classes": 5}


class TestLinearAttention(AdapterTests):
    """It offers heads, and what the rest of the model offers by itself: hidden units and whole blocks."""

    kwargs = SIZES

    @pytest.fixture
    def model(self):
        return stir(timm.create_model("linear_vit_tiny", **SIZES).eval())

    def test_heads_are_offered(self, kinds):
        assert "head" in kinds
