import pytest
import torch
from tiny_models import MODELS, tiny, units_of

from xpruner.units.stream_points import stream_point


def record(model, name):
    """Returns the inputs and outputs of all modules by path, for two images."""
    inputs, outputs = {}, {}
    for path, module in model.named_modules():

        def note(_module, args, output, path=path):
            inputs[path], outputs[path] = args[0], output

        module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.randn(2, *units_of(name).input_size))
    return inputs, outputs


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"vit_post_norm"}))
def test_a_branch_adds_its_scaled_output_to_the_stream(name):
    model = tiny(name)
    inputs, outputs = record(model, name)
    for group in units_of(name):
        point = stream_point(model, group.module)
        block = group.module.rpartition(".")[0]
        before = inputs[point.norm]
        after = inputs[f"{block}.norm2"].view(before.shape) if group.kind == "head" else outputs[block]
        output = outputs[group.consumer]
        real = point.arrange(torch.ones_like(before)).reshape(output.shape) == 1  # padding is in no stream
        change = point.arrange(after.view(before.shape) - before).reshape(output.shape)
        torch.testing.assert_close(change[real], (output * point.scale)[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["swin", "swin_padded_windows", "swin_small_maps"])
def test_the_stream_is_arranged_as_window_attention_reads_it(name):
    model = tiny(name)
    inputs, outputs = record(model, name)
    for group in units_of(name):
        if group.kind == "head":
            point = stream_point(model, group.module)
            read = inputs[group.module]
            assert torch.equal(point.arrange(outputs[point.norm]).reshape(read.shape), read)


def test_a_branch_that_ends_in_a_norm_cannot_aim_at_the_stream():
    model = tiny("vit_post_norm")
    assert [stream_point(model, group.module) for group in units_of("vit_post_norm")] == [None] * 4
