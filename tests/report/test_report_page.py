"""The page: one file that needs no other, complete, safe and accessible."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from made_up_contents import guard_of, made_up
from plotly.offline import get_plotlyjs

import xpruner.report
from xpruner.errors import UsageError
from xpruner.report.changes import Changes
from xpruner.report.figures import (
    COLOURS,
    curve_figures,
    drop_figure,
    importance_figure,
    keep_figure,
    mask_figures,
    thinned,
)
from xpruner.report.metrics import Result
from xpruner.report.page import page, write_report
from xpruner.report.pairs import Maps
from xpruner.run.finished import open_run

EVIL = '</script><script>alert(1)</script><a href="https://evil.example">&amp;'
SIZES = {"blocks.0.attn:head": 3, "blocks.0.mlp:hidden": 8}
VOID = {"meta", "img", "br", "input", "link", "hr"}


class Parsed(HTMLParser):
    """Collects tags with their attributes, and checks that what opens also closes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.stack: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def every(self, *names: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag in names]


def without_plotly(text: str) -> str:
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def plots_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def text() -> str:
    return page(made_up(["cat", EVIL, "owl"], SIZES))


def test_the_page_of_a_run(finished_folder, tmp_path):
    path = write_report(open_run(finished_folder), tmp_path / "deep" / "report.html")
    found = path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    groups = len(json.loads((finished_folder / "plan.json").read_text())["keep"])
    names = {"keep", "importance", "drops", "curve-finetune", "masks-all", *(f"masks-{i}" for i in range(groups))}
    assert plots_of(found).keys() == names
    assert found.count("data:image/png;base64,") >= 4
    assert "vit_tiny_patch16_224" in found and "steps: 2" in found


def test_nothing_is_loaded_from_elsewhere(text):
    rest = without_plotly(text)
    for tag, attributes in Parsed(rest).tags:
        assert not {"action", "srcset", "formaction", "poster", "data"} & attributes.keys()
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:image/", "#")), tag
    assert re.findall(r"<link|@import|\bfetch\(|XMLHttpRequest|url\(", rest) == []
    assert "default-src 'none'" in rest


def test_names_are_escaped(text):
    rest = without_plotly(text)
    assert "alert(1)</script>" not in rest and "<a href=" + '"https' not in rest
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in rest
    for figure in plots_of(text).values():
        assert not re.search(r"<(?!br>|extra>|/extra>)", json.dumps(figure))


def test_names_can_steer_neither_the_page_nor_its_figures():
    text = page(made_up(["cat\x1b[2J\udce9", "gpj.\u202etac", "owl"], SIZES))
    assert text.encode("utf-8") and not {"\x1b", "\u202e"} & set(without_plotly(text))
    assert r"cat\x1b[2J\udce9" in text and r"gpj.\u202etac" in text
    shown = json.dumps(plots_of(text), ensure_ascii=False)
    assert r"cat\\x1b" in shown and not {"\x1b", "\u202e", "\udce9"} & set(shown)


def test_the_configuration_keeps_its_lines(text):
    assert re.search(r"<pre[^>]*>([^<]*)</pre>", text)[1] == made_up(["cat"], SIZES).config


@pytest.mark.parametrize("classes", [2, 10])
def test_the_figure_of_the_whole_network_has_room_for_the_names_below_it(classes):
    """Letters of about 7 pixels go down by 5 where names are slanted by 45 degrees."""
    sizes = {f"model.layers.{n}.blocks.1.attention.self:head": 3 for n in range(9)}
    figure = mask_figures(made_up([f"class {n}" for n in range(classes)], sizes))[0]
    names = figure.plot["data"][0]["x"]
    assert names[0] == "…0.blocks.1.attention.self:head"
    assert figure.plot["layout"]["height"] >= 22 * classes + 5 * len(names[0]) + 100


def test_the_same_contents_make_the_same_page(text):
    assert page(made_up(["cat", EVIL, "owl"], SIZES)) == text


def test_a_thousand_classes_and_a_deit_small_fit_into_15_megabytes(thousand_classes):
    text = thousand_classes
    assert 5e6 < len(text.encode()) < 15e6
    plots = plots_of(text)
    assert len(plots) == 1 + 24 + 4
    assert plots["masks-1"]["data"][0]["z"]["shape"] == "200, 1024"
    assert len(plots["drops"]["data"][0]["x"]) == 30
    assert text.count('<th scope="row">class ') >= 1000


def test_a_run_without_masks_gets_a_sentence():
    whole = made_up(["cat", "dog"], SIZES)
    layers = [replace(layer, lowest=None) for layer in whole.layers]
    text = page(replace(whole, method="magnitude", masks=None, importance=None, layers=layers))
    assert plots_of(text).keys() == {"keep", "drops", "curve-finetune"}
    assert "The method magnitude learns no masks" in text and '<select id="group"' not in text


def test_classes_that_nothing_is_known_of_are_named(text):
    whole = made_up(["cat", "dog"], SIZES)
    audited = replace(whole.changes.audit, class_names=["cat", "dog", "o<w>l"])
    masks = replace(whole.masks, unseen=["yak"])
    named = page(replace(whole, masks=masks, changes=replace(whole.changes, audit=audited)))
    assert "Nothing is known of the classes without an image here: o&lt;w&gt;l." in named
    assert "The masks have seen no image of the following classes, so nothing is known of them: yak." in named
    assert "Nothing is known of the classes" not in text and "have seen no image" not in text


def test_what_is_not_there_gets_a_sentence():
    whole = made_up(["cat", "dog"], SIZES)
    text = page(replace(
        whole, curves=[], maps=Maps("gradcam", [], "No attention."), changes=Changes(whole.changes.audit, [], []),
        result=Result(whole.result.stages, []), limit=2.0,
    ))  # fmt: skip
    for sentence in (
        "There are no explanation maps. No attention.", "no history", "No image was lost.", "No image was gained.",
        "Latency was not measured", "the run stored no figures of its guard",
    ):  # fmt: skip
        assert sentence in text


@pytest.mark.parametrize(
    ("dense", "pruned", "words"),
    [
        ("cat", "cat", "right both times"),
        ("cat", "dog", "taken for dog after pruning"),
        ("dog", "cat", "taken for dog before pruning"),
        ("dog", "dog", "taken for dog both times"),
        ("dog", "owl", "taken for dog before and owl after pruning"),
    ],
)
def test_what_both_models_predict_is_in_words(dense, pruned, words):
    whole = made_up(["cat", "dog"], SIZES)
    pair = replace(whole.maps.pairs[0], dense=dense, pruned=pruned)
    text = page(replace(whole, maps=Maps("relevance", [pair])))
    assert f"<li><strong>cat</strong>,\n{words}\n<div" in text


def test_maps_are_shown_beside_what_chance_makes_of_them(text):
    assert text.count("rank correlation 0.75 (chance level −0.12), overlap 0.50 (chance level 0.11)") == 1 + 6


def test_the_masks_that_are_shown_are_named(text):
    whole = made_up(["cat", "dog"], SIZES)
    assert "the masks of the dense model, before anything was pruned (masks_dense.safetensors)" in text
    decided = page(replace(whole, masks=replace(whole.masks, file="masks.safetensors")))
    assert "the deciding masks, as the run stores no others (masks.safetensors)" in decided
    assert "whose masks in masks.safetensors differ most" in decided and "masks_dense" not in decided


def test_units_that_were_pruned_for_other_reasons_are_counted():
    whole = made_up(["cat", "dog"], SIZES)
    layers = [replace(layer, above=3) for layer in whole.layers]
    text = page(replace(whole, layers=layers))
    assert "6 units of at least this importance were pruned too: in an early round" in text
    assert "were pruned too" not in page(whole)
    assert "by the weights of the guard" in page(replace(whole, layers=layers, limit=2.0))


def test_the_result_of_a_guard_is_shown():
    whole = made_up(["cat", "dog"], SIZES)
    held = page(replace(whole, limit=2.0, guard=guard_of(2)))
    assert "No class was to lose more than 2 points" in held and "The plan met the limit without it." in held
    guard = guard_of(2, drops=[None, 1.5], weights=[0.5, 1.5], budget_without=0.6)
    changed = " ".join(page(replace(whole, limit=2.0, guard=guard)).split())
    assert "Without the guard it would be 3.5, at the same budget of 50.0 %." in changed
    assert "loses 0.2 points more; without multipliers the limit is met at 60.0 %" in changed
    assert "mean odds, each class weighed as the guard did" in changed
    dog, cat = '<th scope="row">dog</th><td>1.5</td><td>1.50</td>', '<th scope="row">cat</th><td>–</td><td>0.50</td>'
    assert 0 < changed.index(dog) < changed.index(cat)


def test_a_model_that_became_no_faster_is_named(text):
    assert "not faster than the dense one at batch size 1." in text
    assert "not faster than the dense one at batch size 32." not in text
    assert "1.50× as fast at batch 32" in text


def test_the_page_can_be_read_without_eyes(text):
    found = Parsed(without_plotly(text))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(found.every("main")) == len(found.every("header")) == len(found.every("nav")) == 1
    assert len(found.every("table")) == len(found.every("caption"))
    assert all("scope" in cell for cell in found.every("th"))
    assert all(image["alt"] for image in found.every("img"))
    plots = [attributes for attributes in found.every("div") if "data-plot" in attributes]
    assert len(plots) == 5 and all(p["role"] == "img" and p["aria-label"] for p in plots)
    assert all(a["tabindex"] == "0" and a["aria-labelledby"] for a in found.every("div") if a.get("role") == "region")
    assert found.tags.index(("a", {"class": "skip", "href": "#main"})) < found.tags.index(("header", {}))
    assert found.every("html") == [{"lang": "en"}]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_colours_stand_out(side):
    """By WCAG 2.2, level AA: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    css = (Path(xpruner.report.__file__).parent / "style.css").read_text()
    colours = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", css)}
    for ground in ("page", "raised"):
        for text in ("text", "quiet", "link", "bad"):
            assert contrast(colours[text][side], colours[ground][side]) >= 4.5
    assert all(contrast(colour, colours["page"][side]) >= 3 for colour in COLOURS)


@pytest.mark.parametrize(("module", "library"), [("plotly.offline", "plotly"), ("jinja2", "jinja2")])
def test_a_missing_library_is_named_with_the_extra(finished_folder, tmp_path, monkeypatch, module, library):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"{library} is needed to write a report; pip install 'xpruner\[report\]'"):
        write_report(open_run(finished_folder), tmp_path / "report.html")


def test_figures_show_the_contents():
    contents = made_up(["cat", "dog"], SIZES)
    [heads, hidden] = keep_figure(contents).plot["data"]
    assert (heads["y"], hidden["y"]) == ([pytest.approx(200 / 3)], [50.0])
    every, first, _ = mask_figures(contents)
    assert first.title == "blocks.0.attn:head" and every.name == "masks-all"
    table = contents.masks.tables[0]
    assert first.plot["data"][0]["z"]["shape"] == "2, 3"
    assert first.plot["layout"]["shapes"][0]["x0"] == sum(column.kept for column in table.columns) - 0.5 == 1.5
    assert first.sentence.startswith("2 of 3 units are kept; mean mask in masks_dense.safetensors of the kept ones ")
    plot = drop_figure(contents).plot
    drops, ranked = plot["data"][0], contents.changes.classes
    assert drops["x"] == sorted((drop.value for _, drop in ranked), reverse=True)
    assert drops["x"][0] - drops["error_x"]["arrayminus"][0] == pytest.approx(ranked[0][1].low)
    assert (plot["layout"]["xaxis"]["zeroline"], plot["layout"]["yaxis"]["zeroline"]) == (True, False)


def test_the_lowest_importance_is_on_an_axis_that_fits():
    whole = made_up(["cat", "dog"], {"a:head": 2, "b:head": 2})

    def drawn(*lowest: float | None):
        layers = [replace(layer, lowest=value) for layer, value in zip(whole.layers, lowest, strict=True)]
        return importance_figure(replace(whole, layers=layers))

    axes = [drawn(*lowest).plot["layout"]["yaxis"] for lowest in ((1.0, 9.0), (1e-6, 9.0), (0.0, 9.0))]
    assert [(axis.get("type"), axis.get("dtick")) for axis in axes] == [("log", "D2"), ("log", None), (None, None)]
    assert drawn(2.0, 2.0).sentence.endswith("from the first layer to the last: head 2.")
    assert drawn(None, 0.25).plot["data"][0]["y"] == [None, 0.25]


def test_loops_follow_each_other_and_long_curves_are_thinned():
    contents = made_up(["cat", "dog"], SIZES)
    [curve] = contents.curves
    two = replace(contents, curves=[curve, replace(curve, loop=2, steps=[1, 2], figures={"loss": [3.0, float("nan")]})])
    [figure] = curve_figures(two)
    first, second = figure.plot["data"]
    assert len(first["x"]) == 400 and second["x"] == [5001, 5002] and second["y"] == [3.0, None]
    assert thinned([1, 2, 3], [0.5, float("inf"), 2.0]) == ([1.0, 2.0, 3.0], [0.5, None, 2.0])
