"""The demo, short enough to see how it goes on; and, slowly, that the real one keeps its promises."""

from dataclasses import replace
from pathlib import Path

import pytest

from xpruner.config import DataConfig, FinetuneConfig, MaskConfig, RunConfig, ThresholdConfig
from xpruner.errors import UsageError
from xpruner.run.demo import demo_config, run_demo

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
RECIPE = FinetuneConfig(epochs=1, distill=0.0)


def short(output: Path, seed: int = 0) -> RunConfig:
    return replace(
        demo_config(output, seed),
        data=DataConfig("digits", train_size=64, test_size=32, calibration_size=32, batch_size=16),
        rounds=1,
        masks=MaskConfig(steps=2),
        thresholds=ThresholdConfig(steps=2),
        finetune=FinetuneConfig(epochs=1),
        latency=[],
    )


def test_the_demo_trains_a_dense_model_and_prunes_it_to_half(tmp_path):
    metrics = run_demo(short(tmp_path), SIZES, RECIPE).metrics
    assert metrics["finetuned"]["macs"] <= 0.5 * metrics["dense"]["macs"]
    assert metrics["dense"]["params"] == 12173 + 5 * 25  # the model of the tests of inspect, with 10 classes


def test_a_dense_model_that_is_there_is_not_trained_again(tmp_path):
    weights = tmp_path / "dense_training" / "model.safetensors"
    first = run_demo(short(tmp_path), SIZES, RECIPE)
    written = weights.stat().st_mtime_ns
    assert run_demo(short(tmp_path), SIZES, RECIPE).metrics == first.metrics
    assert weights.stat().st_mtime_ns == written


def test_another_runs_directory_is_refused_before_anything_is_trained(tmp_path):
    run_demo(short(tmp_path), SIZES, RECIPE)
    (tmp_path / "dense_training" / "structure.json").unlink()
    with pytest.raises(UsageError, match="belongs to a run with seed 0, not 1"):
        run_demo(short(tmp_path, seed=1), SIZES, RECIPE)
    assert not (tmp_path / "dense_training" / "structure.json").exists()


@pytest.mark.slow
def test_the_whole_demo_loses_less_than_a_point(tmp_path):
    metrics = run_demo(demo_config(tmp_path)).metrics
    assert metrics["dense"]["top1"] >= 0.97
    assert metrics["finetuned"]["top1"] >= metrics["dense"]["top1"] - 0.01
    assert 0.495 <= metrics["finetuned"]["macs"] / metrics["dense"]["macs"] <= 0.5
