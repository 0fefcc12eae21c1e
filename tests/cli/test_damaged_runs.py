"""Commands on a run whose files were damaged: one sentence that names the file and what helps, and exit status 1."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xpruner.cli import main


@pytest.fixture
def run(finished_folder, tmp_path) -> Path:
    return Path(shutil.copytree(finished_folder, tmp_path / "run"))


def change(path: Path, *keys: str, to: object) -> None:
    tree = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(tree))


def masks(path: Path, key: str, to: torch.Tensor | None) -> None:
    found = {name: m for name, m in load_file(path).items() if name != key or to is not None}
    save_file(found | ({} if to is None else {key: to}), path)


HEADS = "blocks.0.attn:head"
PLAN = {
    "an index that is no whole number": lambda run: change(run / "plan.json", "keep", HEADS, to=[0.5]),
    "an index below 0": lambda run: change(run / "plan.json", "keep", HEADS, to=[-1]),
    "an index twice": lambda run: change(run / "plan.json", "keep", HEADS, to=[1, 1]),
    "units of another model": lambda run: change(run / "plan.json", "sizes", HEADS, to=4),
    "no object": lambda run: (run / "plan.json").write_text("[]"),
    "nothing": lambda run: (run / "plan.json").unlink(),
    "nesting without end": lambda run: (run / "plan.json").write_text("[" * 100_000),
}
MASKS = {
    "not a number": lambda run: masks(run / "masks_dense.safetensors", HEADS, torch.full((10, 3), torch.nan)),
    "classes of another run": lambda run: masks(run / "masks_dense.safetensors", HEADS, torch.ones(9, 3)),
    "a group too few": lambda run: masks(run / "masks_dense.safetensors", HEADS, None),
    "no tensors": lambda run: (run / "masks_dense.safetensors").write_text("{}"),
}
METRICS = {
    "a top-1 above 1": lambda run: change(run / "metrics.json", "pruned", "top1", to=90.0),
    "a stage that is none": lambda run: change(run / "metrics.json", "finetuned", to=3),
    "MACs as words": lambda run: change(run / "metrics.json", "dense", "macs", to="many"),
    "a list": lambda run: (run / "metrics.json").write_text("[1]"),
    "a guard of other classes": lambda run: change(run / "metrics.json", "search", "guard", to={"limit": 2}),
}
CONFIG = {
    "an unknown key": lambda run: (run / "config.yaml").write_text("speed: 3"),
    "a wrong type": lambda run: (run / "config.yaml").write_text("data: {batch_size: many}"),
    "a list": lambda run: (run / "config.yaml").write_text("- 1"),
}


def check(words: list[str], file: str, capsys) -> None:
    """Runs a command and checks that its last line is the one sentence."""
    assert main(words) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("xpruner: error: ") and file in said and " cannot be read (" in said
    assert "unexpected" not in said and "; " in said


@pytest.mark.parametrize(
    ("words", "file", "damage"),
    [
        *((["explain", "class", "3"], "plan.json", PLAN[name]) for name in PLAN),
        *((["explain", "class", "3"], "masks_dense.safetensors", MASKS[name]) for name in MASKS),
        *((["explain", "audit"], "metrics.json", METRICS[name]) for name in METRICS),
        *((["explain", "audit"], "config.yaml", CONFIG[name]) for name in CONFIG),
        (["explain", "unit", "blocks.0.attn:1"], "plan.json", PLAN["an index twice"]),
        (["explain", "unit", "blocks.0.attn:1"], "masks_dense.safetensors", MASKS["not a number"]),
        (["report"], "metrics.json", METRICS["MACs as words"]),
        (["report"], "plan.json", PLAN["units of another model"]),
        (["specialise", "--classes", "1,2"], "config.yaml", CONFIG["a wrong type"]),
    ],
)
def test_what_is_damaged_is_named_with_what_helps(run, capsys, words, file, damage):
    damage(run)
    check([*words, "--run", str(run)], str(run / file), capsys)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("plan.json", PLAN["an index twice"]),
        ("plan.json", PLAN["nothing"]),
        ("metrics.json", METRICS["a top-1 above 1"]),
        ("metrics.json", METRICS["a list"]),
    ],
)
def test_a_run_is_not_gone_on_with_from_damaged_files(run, capsys, file, damage):
    damage(run)
    check(["prune", "--config", str(run / "config.yaml"), "--output", str(run)], str(run / file), capsys)


def test_a_run_is_not_gone_on_with_under_a_damaged_configuration(run, finished_folder, capsys):
    CONFIG["a list"](run)
    words = ["prune", "--config", str(finished_folder / "config.yaml"), "--output", str(run)]
    check(words, str(run / "config.yaml"), capsys)


@pytest.mark.parametrize("places", ["[]", '{"root": 5}', '{"name": "digits"}', '{"speed": "/"}'])
def test_damaged_places_of_the_images_are_named(run, capsys, places):
    (run / "data.json").write_text(places)
    check(["explain", "audit", str(run)], str(run / "data.json"), capsys)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"stage": "finetune", "loop": 9, "step": 1, "speed": 3}',
        '{"stage": "finetune"}',
        '{"stage": [], "loop": 1, "step": 1}',
        "\ud800",
    ],
)
def test_damaged_lines_of_a_history_keep_no_report_from_being_written(run, capsys, line):
    with (run / "history.jsonl").open("a", encoding="utf-8", errors="surrogatepass") as file:
        file.write(line + "\n")
    assert main(["report", str(run)]) == 0
