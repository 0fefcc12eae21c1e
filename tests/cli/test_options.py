"""Flags and YAML become the options of a run: what wins over what, and what a wrong one is answered with."""

import json
from dataclasses import asdict

import pytest
import yaml
from cli_process import one_line, xpruner

from xpruner.cli.options import as_run, words_and_flags
from xpruner.cli.prune import read_options
from xpruner.config import FinetuneConfig, RunConfig, preset
from xpruner.errors import UsageError


@pytest.fixture
def file(tmp_path):
    """Writes a YAML file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_without_flags_a_run_is_the_default_preset():
    assert read_options([]) == preset("default")


def test_flags_win_over_the_file_and_the_file_over_the_preset(file):
    path = file("preset: paper\nseed: 5\nfinetune:\n  epochs: 7\n  lr: 1e-3\n")
    config = read_options(["--finetune.epochs", "9", "--config", path])
    assert config.masks == preset("paper").masks
    assert config.finetune == FinetuneConfig(epochs=9, lr=1e-3, distill=0.0)
    assert config.seed == 5


def test_a_preset_flag_wins_over_the_preset_of_the_file(file):
    config = read_options(["--config", file("preset: paper\nseed: 5\n"), "--preset", "default"])
    assert config == RunConfig(seed=5)


def test_a_later_file_wins_over_an_earlier_one(file, tmp_path):
    earlier = tmp_path / "earlier.yaml"
    earlier.write_text("seed: 1\nbudget: 0.3\n")
    config = read_options([f"--config={earlier}", f"--config={file('seed: 2')}"])
    assert (config.seed, config.budget) == (2, "0.3")


@pytest.mark.parametrize("text", ["0.5", "1e-1", "600M", "params:0.4"])
def test_a_budget_is_text_in_flags_and_in_files(text, file):
    assert read_options(["--budget", text]).budget == text
    assert read_options(["--config", file(f"budget: {text}")]).budget == text


def test_short_flags_name_the_model_and_the_data():
    config = read_options(["--model", "swin_tiny_patch4_window7_224", "--data=cifar10", "--batch_size", "8"])
    assert (config.model.name, config.data.name, config.data.batch_size) == (
        "swin_tiny_patch4_window7_224",
        "cifar10",
        8,
    )


def test_a_flag_for_yes_or_no_may_stand_alone():
    assert read_options(["--model.pretrained", "--seed", "3"]).model.pretrained
    assert not read_options(["--model.pretrained", "false"]).model.pretrained


def test_lists_and_arguments_of_the_model():
    config = read_options(["--latency", "[1,64]", "--model.kwargs.depth", "6", "--model.kwargs.num_heads=3"])
    assert config.latency == [1, 64]
    assert config.model.kwargs == {"depth": 6, "num_heads": 3}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budgt", "0.5"], "Unknown flag '--budgt'; did you mean '--budget'?"),
        (["--data.nme=x"], "Unknown flag '--data.nme'; did you mean '--data.name'?"),
        (["--preset", "papre"], "Unknown preset 'papre'; did you mean 'paper'?"),
        (["--config"], "--config stands without a value; give one after it."),
        (["--seed", "x"], "seed is 'x', but must be a whole number; `xpruner prune --help` lists the options."),
        (
            ["--model.img_size", "x"],
            "model.img_size is 'x', but must be a whole number or absent; `xpruner prune --help` lists the options.",
        ),
        (
            ["--data.augment", "much"],
            "data.augment is 'much', but must be one of light, timm, none; `xpruner prune --help` lists the options.",
        ),
        (
            ["--config", "missing.yaml"],
            "The configuration missing.yaml cannot be read (No such file or directory); correct --config.",
        ),
    ],
)
def test_a_wrong_flag_is_named_with_a_remedy(flags, said):
    with pytest.raises(UsageError) as raised:
        read_options(flags)
    assert str(raised.value) == said


def test_of_many_flags_the_nearest_are_named():
    with pytest.raises(
        UsageError, match=r"'--zzzzz'; the nearest of \d+ are: (--\S+, ){4}--\S+; `xpruner prune --help` l"
    ):
        read_options(["--zzzzz", "1"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("buget: 0.5", "Unknown key in {path}: 'buget'; did you mean 'budget'?"),
        ("data:\n  nme: x", "Unknown key in {path}: 'data.nme'; did you mean 'data.name'?"),
        ("epochs: 3", "Unknown key in {path}: 'epochs'; did you mean 'finetune.epochs'?"),
        (
            "compensate: none",
            "compensate is 'none' in {path}, but must hold keys: compensate.mode, compensate.ridge, compensate.focus, "
            "compensate.steps, compensate.lr.",
        ),
        ("seed: x", "seed is 'x', but must be a whole number; `xpruner prune --help` lists the options."),
    ],
)
def test_a_wrong_file_is_named_with_a_remedy(text, said, file):
    path = file(text)
    with pytest.raises(UsageError) as raised:
        read_options(["--config", path])
    assert str(raised.value) == said.format(path=path)


def test_a_file_that_is_not_yaml_is_refused(file):
    with pytest.raises(UsageError, match=r"(?s)run\.yaml is not YAML .* line 2"):
        read_options(["--config", file("a: [1\nb: 2")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "--budgt", "3"], "Unknown flag '--budgt'; did you mean '--budget'?"),
        (["evaluate", "--lateny", "[1]"], "Unknown flag '--lateny'; did you mean '--latency'?"),
        (["inspect", "--jsn"], "Unknown flag '--jsn'; did you mean '--json'?"),
        (["export-config", "--preset", "papre"], "Unknown preset 'papre'; did you mean 'paper'?"),
        (["demo", "--sed", "3"], "Unknown flag '--sed'; did you mean '--seed'?"),
    ],
)
def test_every_command_refuses_the_unknown_in_one_line(arguments, said):
    done = xpruner(*arguments)
    assert (done.returncode, done.stdout, one_line(done.stderr)) == (2, "", f"xpruner: error: {said}")


@pytest.mark.parametrize("name", ["default", "paper"])
def test_an_exported_preset_is_read_back_as_it_was(name, tmp_path):
    path = tmp_path / "deep" / "preset.yaml"
    printed = xpruner("export-config", "--preset", name)
    written = xpruner("export-config", "--preset", name, "--output", path)
    assert (printed.returncode, written.returncode, written.stdout) == (0, 0, "")
    assert path.read_text() == printed.stdout
    assert read_options(["--config", str(path)]) == preset(name)


def test_print_config_prints_what_would_run(file):
    path = file("preset: paper\ndata:\n  root: images\n")
    done = xpruner("prune", "--config", path, "--budget", "0.25", "--latency", "[]", "--print_config")
    expected = asdict(preset("paper")) | {"budget": "0.25", "latency": []}
    expected["data"]["root"] = "images"
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout) == expected


KNOWN = {"images": int, "json": bool, "no_browser": bool, "class_name": str | None, "names": list[str]}


@pytest.mark.parametrize(
    ("arguments", "words", "flags"),
    [
        (["a", "--images", "3", "b"], ["a", "b"], ["--images=3"]),
        (["--images=3", "a"], ["a"], ["--images=3"]),
        (["--images", "-1"], [], ["--images=-1"]),
        (["--json", "a", "--no-browser"], ["a"], ["--json=true", "--no_browser=true"]),
        (["--json", "false", "a", "--json=true"], ["a"], ["--json=false", "--json=true"]),
        (["--class", "cat dog", "a"], ["a"], ["--class_name=cat dog"]),
        (["--names", "a, b,", "--names=[c]", "--names", "'d'"], [], ['--names=["a", "b", "c", "d"]']),
        (["--names="], [], ["--names=[]"]),
        (["a", "--help"], ["a"], ["--help"]),
        (["--unknown", "--images", "3"], [], ["--unknown=", "--images=3"]),
    ],
)
def test_words_are_separated_from_the_values_of_flags(arguments, words, flags):
    assert words_and_flags(arguments, KNOWN) == (words, flags)


@pytest.mark.parametrize("arguments", [["--images"], ["a", "--class", "--json"]])
def test_a_flag_without_its_value_is_named_as_it_was_written(arguments):
    with pytest.raises(UsageError, match=r"^--(images|class) stands without a value; give one after it\.$"):
        words_and_flags(arguments, KNOWN)


def test_one_word_may_be_the_run():
    assert as_run("explore", ["half"], ["--images=3"]) == ["--run=half"]
    assert as_run("explore", [], ["--run=half"]) == []


@pytest.mark.parametrize("command", ["specialise", "explore", "report"])
def test_commands_on_a_run_say_so(command):
    done = xpruner(command, "--help")
    usage, what = done.stdout.split("options:")[0].split("\n\n", 1)
    assert "RUN" in usage.partition("--run")[0] and "finished run in the folder RUN" in what


@pytest.mark.parametrize("command", ["prune", "evaluate", "inspect", "export-config", "demo"])
def test_every_command_explains_its_flags(command):
    done = xpruner(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: xpruner {command} ")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("cat, dog,", ["cat", "dog"]),
        ("[cat, 7, no]", ["cat", "7", "no"]),
        ('["tench, Tinca tinca", "hen"]', ["tench, Tinca tinca", "hen"]),
        ("['tench, Tinca tinca', hen]", ["tench, Tinca tinca", "hen"]),
        ("[cat, dog", ["cat", "dog"]),
        ("tench, Tinca tinca,hen", ["tench", "Tinca tinca", "hen"]),
    ],
)
def test_a_list_in_brackets_is_taken_as_it_stands(written, names):
    _, (flag,) = words_and_flags([f"--classes={written}"], {"classes": list[str]})
    assert json.loads(flag.removeprefix("--classes=")) == names
