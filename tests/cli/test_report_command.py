"""``xpruner report``: what it asks for and refuses; its pages are tested with the library."""

import re

import pytest

from xpruner.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name what to report on: `xpruner report RUN`, with a run directory, or `xpruner report compare FOLDER`"),
        (["compare"], "Name what to report on"),
        (["compare", "a", "b"], "Name what to report on"),
        (["compair", "a"], "Unknown report 'compair'; did you mean 'compare'?"),
        (["a", "b", "c"], "'b' is a word too many; `xpruner report --help` shows what is expected."),
        (["a", "--run", "b"], "The run is given twice, as 'a' and by --run; leave one of them out."),
        (["compare", "a", "--maps", "gradcam"], "Unknown flag '--maps'"),
        (["a", "--map_images", "17,cat"], "--map_images is 'cat', but takes numbers of the run's images"),
        (["--maps"], "--maps stands without a value; give one after it."),
        (["--output", "x.html", "nowhere"], "nowhere is no run directory"),
        (["--run=nowhere"], "nowhere is no run directory"),
    ],
)
def test_a_wrong_request_gets_one_sentence(words, message, capsys):
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_method_of_maps_fails_before_the_run_is_opened(capsys):
    assert main(["report", "nowhere", "--maps", "gradkam"]) == 2
    assert "Unknown explanation method 'gradkam'; did you mean 'gradcam'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["compare"]])
def test_help_lists_what_can_be_reported_on(words, capsys):
    with pytest.raises(SystemExit):
        main(["report", *words, "--help"])
    said = capsys.readouterr().out
    assert "\nxpruner report RUN " in said and "\nxpruner report compare FOLDER " in said and "xpruner[report]" in said
    assert ("--maps" in said) != bool(words)


def test_images_may_be_chosen(finished_folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    chosen = ["--maps", "rollout", "--map_images", "1,3"]
    assert main(["report", str(finished_folder), "--output", str(page), *chosen]) == 0
    said = page.read_text()
    assert re.findall(r"Explanation map of the dense model for image (\d+)", said) == ["1", "3"]
    assert main(["report", str(finished_folder), "--output", str(page), "--map_images", "9999"]) == 2
    assert "The run has no image 9999" in capsys.readouterr().err


def test_the_run_may_stand_behind_the_flags(finished_folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", "--output", str(page), "--maps", "rollout", str(finished_folder)]) == 0
    assert page.exists() and f"The report is {page}." in "".join(capsys.readouterr().out.splitlines())
