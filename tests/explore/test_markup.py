"""The page's HTML: figures one can compute by hand, and nothing of a name that would run."""

from html.parser import HTMLParser
from types import SimpleNamespace

import torch

from xpruner.data import InputSpec
from xpruner.explain.map_pair import MapPair, MapSimilarity
from xpruner.explain.predictions import Prediction
from xpruner.explore import markup
from xpruner.plan.plan import Plan

EVIL = "<script>alert('1')</script>&amp;"
PLAN = Plan(
    {"a.attn:head": [0, 2], "a.mlp:hidden": [1]}, {"a.attn:head": 3, "a.mlp:hidden": 4},
    cost={"macs_dense": 4e6, "macs_pruned": 1e6, "params_dense": 2.5e6, "params_pruned": 1e6},
)  # fmt: skip


class Read(HTMLParser):
    """Collects the tags and the words; whatever opens must close."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def bars(self) -> list[str]:
        return [attributes["style"] for tag, attributes in self.tags if tag == "i" and "style" in attributes]


def test_costs_are_given_as_shares_of_the_dense_model():
    words = Read(markup.costs(PLAN)).words
    assert words == ["MACs", "1.00 M", "25.0 % of 4.00 M", "Parameters", "1.00 M", "40.0 % of 2.50 M"]


def test_units_are_a_row_for_each_module_and_a_column_for_each_kind():
    found = Read(markup.units(PLAN))
    assert found.words == ["layer", "head", "hidden", "a.attn", "2 of 3", "a.mlp", "1 of 4"]
    assert found.bars() == ["width: 66.7%", "width: 25.0%"]
    assert [attributes["scope"] for tag, attributes in found.tags if tag == "th"] == [*["col"] * 3, *["row"] * 2]


def test_predictions_are_shown_with_their_probabilities():
    found = Read(markup.predictions("Image 3", 0.3, [Prediction("cat", 0.75)], [Prediction("dog", 0.5)]))
    assert [word for word in found.words if word.strip()] == [
        "Image 3.", "Dense model", "cat", "75.0 %", "Pruned to 0.3", "dog", "50.0 %",
    ]  # fmt: skip
    assert found.bars() == ["width: 75.0%", "width: 50.0%"]


def test_pictures_have_a_name_each():
    spec = InputSpec((4, 4), (0.5,) * 3, (0.5,) * 3)
    pair = MapPair(0, torch.rand(4, 4), torch.rand(4, 4), MapSimilarity(-0.25, 0), MapSimilarity(0.125, 0))
    found = Read(markup.maps(torch.zeros(3, 4, 4), spec, pair, "cat"))
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["image", "dense model", "pruned model"]
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert "".join(found.words).endswith(
        "Evidence for cat; the two maps' rank correlation is -0.250 (chance level 0.125)."
    )


def test_the_command_stands_where_there_is_one():
    assert Read(markup.source("Its own.", "")).words == ["Its own."]
    assert Read(markup.source("Made here.", "xpruner 'a'")).words == ["Made here.", "xpruner 'a'"]


def test_names_are_shown_and_never_run():
    config = SimpleNamespace(
        model=SimpleNamespace(name=EVIL), data=SimpleNamespace(name=EVIL), budget=EVIL, method=EVIL
    )
    prediction = Prediction(EVIL, 0.5)
    pair = MapPair(0, torch.rand(4, 4), torch.rand(4, 4), MapSimilarity(1, 1), MapSimilarity(0, 0))
    plan = Plan({f"{EVIL}:head": [0]}, {f"{EVIL}:head": 1})
    for text in (
        markup.heading(SimpleNamespace(folder=SimpleNamespace(name=EVIL), config=config)),
        markup.source(EVIL, EVIL),
        markup.units(plan),
        markup.predictions(EVIL, 0.5, [prediction], [prediction]),
        markup.maps(torch.zeros(3, 4, 4), InputSpec((4, 4), (0.5,) * 3, (0.5,) * 3), pair, EVIL),
    ):
        found = Read(text)
        assert "script" not in {tag for tag, _ in found.tags}
        assert EVIL in "".join(found.words)
