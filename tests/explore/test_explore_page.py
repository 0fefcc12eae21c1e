"""What the page answers to its controls; the page itself is tried where gradio is installed."""

import sys

import pytest

from xpruner.errors import UsageError
from xpruner.explore import page
from xpruner.explore.answers import models_of
from xpruner.run.finished import open_run


@pytest.fixture
def answers(finished_folder) -> page._Answers:
    return page._Answers(open_run(finished_folder), 16, RuntimeError)


def test_a_model_is_made_once(answers, monkeypatch):
    made = []
    monkeypatch.setattr(page, "models_of", lambda *asked, images: made.append(asked[1:]) or models_of(*asked, images))
    fresh = page._Answers(answers.run, 16, RuntimeError)
    for share, labels in ((0.4, []), (0.4, range(10)), (0.45, []), (0.4, []), (0.4, [3, 1]), (0.4, [1, 3])):
        fresh.predictions(share, labels, 0, None)
        fresh.maps(share, labels, 1, None, "gradcam")
    assert [(choice.share, choice.labels) for (choice,) in made] == [(0.4, ()), (0.45, ()), (0.4, (1, 3))]


def test_the_answers_are_about_what_was_chosen(answers):
    summary, units = answers.plan(0.4, [2, 7])
    assert "made here" in summary and "--classes 2,7 --budget 0.4" in summary
    assert "blocks.0.attn" in units
    html = answers.predictions(0.4, [2, 7], 5, None)
    assert html.startswith("<p>Image 5 of the run, class ") and html.count("<li>") == 4
    assert answers.maps(0.5, [], 5, None, "rollout").count("<img") == 3
    assert "the run&#x27;s own" in answers.plan(0.5, [])[0]


def test_units_are_counted_before_there_are_threads(finished_folder):
    """Counting them while another thread computes would count amiss."""
    run = open_run(finished_folder)
    assert page._Answers(run, 16, RuntimeError).budget.amount == 0.5
    assert "units" in vars(run)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda a: a.plan(0.01, []), "The budget of 0.01 macs is out of reach"),
        (lambda a: a.predictions(0.5, [], 99, None), "The number of the image is 99"),
        (lambda a: a.maps(0.5, [], 0, "nowhere/<b>.png", "gradcam"), r"The image &lt;b&gt;\.png cannot be read"),
        (lambda a: a.maps(0.5, [], 0, None, "gradkam"), "Unknown explanation method &#x27;gradkam&#x27;"),
        (lambda a: a.plan(0.5, [1]), "1 of 10 classes are chosen"),
    ],
)
def test_what_cannot_be_answered_is_the_error_of_the_page(answers, ask, sentence):
    with pytest.raises(RuntimeError, match=f"^{sentence}"):
        ask(answers)


def test_without_gradio_its_extra_is_named(finished_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"^gradio is needed to open the page; pip install 'xpruner\[explore\]'\.$"):
        page.build_page(open_run(finished_folder))
