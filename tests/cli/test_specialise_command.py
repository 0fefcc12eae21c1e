import json

import pytest

import xpruner
from xpruner.cli import main


@pytest.mark.parametrize("classes", ["--classes=7,2", "--classes=[7, 2]"])
def test_a_model_for_some_classes_is_written(finished_folder, tmp_path, capsys, classes):
    asked = ["specialise", str(finished_folder), classes, "--budget", "0.5", "--output", str(tmp_path / "out")]
    assert main(asked) == 0
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
        (["--classes", "1,2", "--steps", "-1"], "--steps is -1; it must be 0 or more."),
        (["--classes", "1,2", "--budget", "0.001"], "out of reach"),
        (["--clases", "1,2"], "Unknown flag '--clases'; did you mean '--classes'?"),
    ],
)
def test_a_wrong_request_gets_one_sentence(finished_folder, flags, message, capsys):
    assert main(["specialise", "--run", str(finished_folder), *flags]) == 2
    assert message in capsys.readouterr().err
