import json

import pytest

import xpruner
from xpruner.cli import main
from xpruner.cli.options import parse_with_run
from xpruner.cli.specialise import ABOUT, SpecialiseOptions, folder_name


@pytest.mark.parametrize(
    "classes",
    [["--classes=7,2"], ["--classes=[7, 2]"], ["--classes", "7,2,"], ["--classes", "7", "--classes", "2"]],
    ids=" ".join,
)
@pytest.mark.parametrize("first", [True, False])
def test_classes_are_given_in_many_ways_and_the_run_stands_before_or_behind_them(classes, first):
    flags = [*classes, "--budget", "0.5"]
    options = parse_with_run("specialise", SpecialiseOptions(), ["a", *flags] if first else [*flags, "a"], ABOUT)
    assert options == SpecialiseOptions(run="a", classes=["7", "2"], budget="0.5")


def test_a_model_for_some_classes_is_written(finished_folder, tmp_path, capsys):
    flags = ["--classes", "7,2", "--budget", "0.5", "--output", str(tmp_path / "out")]
    assert main(["specialise", *flags, str(finished_folder)]) == 0
    assert "The model for 7, 2 is in" in capsys.readouterr().out
    assert xpruner.load(tmp_path / "out" / "model").num_classes == 2
    assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())) == ["dense", "cut", "compensated"]
    assert xpruner.Plan.load(tmp_path / "out" / "plan.json").method == "xpruner, specialised"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes", "7,eleven"], "Unknown class 'eleven'"),
        (["--classes", "7"], "1 of 10 classes are chosen"),
        ([], "0 of 10 classes are chosen"),
        (["--classes", ""], "0 of 10 classes are chosen"),
        (
            ["somewhere", "--classes", "1,2"],
            "The run is given twice, as 'somewhere' and by --run; leave one of them out.",
        ),
        (["--classes", "1,2", "--steps", "-1"], "--steps is -1; it must be 0 or more."),
        (["--classes", "1,2", "--budget", "0.001"], "out of reach"),
        (["--clases", "1,2"], "Unknown flag '--clases'; did you mean '--classes'?"),
    ],
)
def test_a_wrong_request_gets_one_sentence(finished_folder, flags, message, capsys):
    assert main(["specialise", "--run", str(finished_folder), *flags]) == 2
    assert message in capsys.readouterr().err


def test_one_model_does_not_overwrite_another(finished_folder, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for part in finished_folder.iterdir():
        (run / part.name).symlink_to(part)
    for classes in ("7,2", "2,7"):
        assert main(["specialise", "--classes", classes, "--budget", "0.5", str(run)]) == 0
    assert sorted(path.name for path in (run / "specialised").iterdir()) == ["2,7-0.5", "7,2-0.5"]
    assert f"is in {run / 'specialised' / '2,7-0.5' / 'model'}." in "".join(capsys.readouterr().out.splitlines())
    assert xpruner.load(run / "specialised" / "7,2-0.5" / "model").num_classes == 2


def test_a_folder_is_named_after_what_was_asked():
    assert folder_name(["cat", "dog"], "0.3", 0) == "cat,dog-0.3"
    assert folder_name(["cat", "dog"], "params:1M", 20) == "cat,dog-params_1M-20-steps"


def test_names_that_do_not_fit_get_a_checksum():
    names = [folder_name(classes, "0.3", 0) for classes in (["a/b", "c"], ["a_b", "c"], ["a b", "c"], ["a_b,c"])]
    assert len(set(names)) == 4 and all(name.startswith("a_b,c-") for name in names) and names[1] == "a_b,c-0.3"
    many = [[f"class {number}" for number in range(count)] for count in (400, 401)]
    long, longer = (folder_name(classes, "0.3", 0) for classes in many)
    assert long != longer and long[:60] == longer[:60] and len(long) == 60 + len("-12345678-0.3")
