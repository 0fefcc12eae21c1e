import pytest
from tiny_models import tiny
from torch import nn

from xpruner.units import Stream, find_units, register_streams
from xpruner.units.adapters.timm.embed import EmbedAdapter
from xpruner.units.streams import _streams, stream_key, stream_parts, streams_of


def test_a_vision_transformer_has_one_stream_and_a_swin_one_a_stage():
    assert [(part.key, part.size) for part in stream_parts(tiny("vit"))] == [("stream:embed", 24)]
    parts = list(stream_parts(tiny("swin")))
    assert [(part.key, part.size) for part in parts] == [("layers.0:embed", 12), ("layers.1:embed", 24)]
    assert {part.location for part in parts} == {""}


@pytest.mark.parametrize(
    ("name", "path", "key"),
    [
        ("vit", "blocks.1.mlp.fc2", "stream:embed"),
        ("vit", "head", "stream:embed"),
        ("swin", "layers.1.blocks.0.attn", "layers.1:embed"),
        ("swin", "layers.1", "layers.1:embed"),
        ("swin", "head.fc", ""),
    ],
)
def test_a_module_reads_the_stream_that_it_lies_in(name, path, key):
    assert stream_key(tiny(name), path) == key


def test_a_model_of_an_unknown_class_has_no_streams():
    assert list(streams_of(nn.Linear(2, 2))) == []
    assert stream_key(nn.Linear(2, 2), "") == ""


def test_a_registration_serves_the_class_and_its_subclasses(monkeypatch):
    class Mine(nn.Module):
        pass

    class Derived(Mine):
        pass

    monkeypatch.setattr("xpruner.units.streams._streams", dict(_streams))
    stream = Stream("trunk", "stages", EmbedAdapter("stages", 0, last=True))
    register_streams(Mine)(lambda model: [stream])
    assert streams_of(Derived()) == [stream]
    assert stream_key(Derived(), "stages.3.fc") == "trunk:embed"
    assert stream_key(Derived(), "head") == ""


def test_known_streams_belong_to_the_whole_model():
    model = tiny("vit")
    (part,) = stream_parts(model)
    assert part.module is model
    assert part.contains("blocks.0.attn")


def test_the_name_of_a_stream_need_not_be_a_path_inside_it(monkeypatch):
    model = tiny("vit")
    stock = find_units(model, ["embed"])["stream:embed"]
    monkeypatch.setattr("xpruner.units.streams._streams", dict(_streams))
    register_streams(type(model))(lambda model: [Stream("trunk", "blocks", EmbedAdapter("blocks", 0, last=True))])
    trunk = find_units(model, ["embed"])["trunk:embed"]
    assert (trunk.macs, trunk.params) == (stock.macs, stock.params)
