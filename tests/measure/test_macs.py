import copy
import threading

import pytest
import torch
from tiny_models import VIT, build, tiny
from torch import nn

from xpruner.measure.macs import count_macs, count_params, input_size, trace


def test_macs_of_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 7))
    assert count_macs(model, (3, 4, 4)) == 48 * 7


def test_macs_of_a_convolution_by_hand():
    assert count_macs(nn.Conv2d(3, 5, kernel_size=2, stride=2), (3, 8, 6)) == (4 * 3) * (3 * 2 * 2) * 5


def test_params_by_hand():
    assert count_params(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))) == 4 * 3 + 3 + 6


def test_shared_weights_count_once_as_params_and_each_time_as_macs():
    layer = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(nn.Flatten(), layer, layer)
    assert (count_params(model), count_macs(model, (1, 2, 2))) == (16, 32)


def test_the_trace_tells_what_each_module_does(tiny_swin):
    traced = trace(tiny_swin)
    macs = traced.below("layers.0.blocks.0")
    assert macs("attn.proj") == 256 * 12 * 12
    assert macs("attn") == 256 * (4 * 12 * 12 + 2 * 16 * 12)  # 16 tokens in a window
    assert macs("mlp") == 256 * 2 * 12 * 48
    assert macs("") == macs("attn") + macs("mlp")
    assert macs("norm1") == 0
    assert traced.total == 2175096


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (lambda: tiny("vit"), (3, 32, 32)),
        (lambda: tiny("swin_padded_windows"), (3, 24, 36)),
        (lambda: build("vit_tiny_patch16_224", in_chans=1, **VIT), (1, 32, 32)),
        (lambda: nn.Conv2d(3, 3, 1), (3, 224, 224)),
    ],
)
def test_the_models_own_image_size(model, size):
    assert input_size(model()) == size


def test_a_model_in_training_mode_costs_what_it_costs_in_use():
    model = build("vit_tiny_patch16_224", patch_drop_rate=0.5, **VIT)
    assert count_macs(model.train()) == count_macs(model.eval()) == 336600


def test_what_another_thread_runs_is_not_counted(tiny_vit):
    alone = trace(tiny_vit)
    other, image, done = copy.deepcopy(tiny_vit), torch.randn(1, 3, 32, 32), threading.Event()

    def busy() -> None:
        while not done.is_set():
            other(image)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert all(trace(tiny_vit).macs == alone.macs for _ in range(20))
    finally:
        done.set()
        thread.join()


def test_a_trace_that_fails_leaves_the_model_as_it_was(tiny_vit):
    tiny_vit.train()
    with pytest.raises(AssertionError, match="Input height"):
        trace(tiny_vit, (3, 64, 64))
    assert all(module.training and not module._forward_pre_hooks for module in tiny_vit.modules())
    assert tiny_vit(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
