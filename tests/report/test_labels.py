"""Names under and beside the figures."""

import pytest

from xpruner.report.labels import distinct, short, shortened, text

SWIN = [f"swin.encoder.layers.{stage}.blocks.{block}.attention.self:head" for stage in (0, 1) for block in (0, 1)]


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (["layers.0.blocks.1.mlp:hidden", "layers.0.blocks.1.attn:qk"],
         ["layers.0.blocks.1.mlp:hidden", "layers.0.blocks.1.attn:qk"]),
        (SWIN, [f"…{stage}.blocks.{block}.attention.self:head" for stage in (0, 1) for block in (0, 1)]),
        (SWIN[:1], ["…self:head"]),
        (["a" * 29 + ".b:head", "c.d:head"], ["a" * 29 + ".b:head", "c.d:head"]),
    ],
)  # fmt: skip
def test_long_names_of_layers_lose_what_all_begin_with(keys, shown):
    assert shortened(keys) == shown


def test_names_are_text_alone_short_and_distinct():
    assert text("<b>\x1b&\u202e") == "&lt;b&gt;\\x1b&amp;\\u202e"
    assert short("a" * 28) == "a" * 28 and short("a" * 29) == "a" * 27 + "…"
    assert distinct(["a", "b", "a"]) == ["a", "b", "a (2)"]
