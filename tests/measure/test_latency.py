import time

import pytest
import torch
from torch import nn

from xpruner.errors import UsageError
from xpruner.measure import latency
from xpruner.measure.latency import measure_latency

SHAPE = (3, 4, 4)


class Clock:
    """Stands in for ``time.perf_counter``: it moves when a fake model moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake(nn.Module):
    """Takes the given seconds for each image, call after call, and writes down what it saw."""

    def __init__(self, clock, *seconds, log=None, name=""):
        super().__init__()
        self.clock, self.seconds, self.log, self.name = clock, seconds, log if log is not None else [], name
        self.calls = []

    def forward(self, images):
        self.clock.now += self.seconds[len(self.calls) % len(self.seconds)] * len(images)
        self.calls.append((tuple(images.shape), images.dtype, self.training, torch.is_inference_mode_enabled()))
        self.log.append(self.name)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", clock)
    return clock


def test_medians_in_milliseconds_for_every_model_and_batch_size(clock):
    models = {"dense": Fake(clock, 0.004), "pruned": Fake(clock, 0.001)}
    result = measure_latency(models, SHAPE, [1, 8], rounds=3)
    assert result == {
        "dense": {1: pytest.approx(4), 8: pytest.approx(32)},
        "pruned": {1: pytest.approx(1), 8: pytest.approx(8)},
    }


def test_one_slow_pass_does_not_move_the_median(clock):
    result = measure_latency({"m": Fake(clock, 0.002, 0.900, 0.003)}, SHAPE, [1], rounds=3, warmup=0)
    assert result["m"][1] == pytest.approx(3)


def test_the_warm_up_is_not_timed(clock):
    model = Fake(clock, 5.0, 0.5, 0.001, 0.001, 0.001)
    result = measure_latency({"m": model}, SHAPE, [1], rounds=3, warmup=2)
    assert len(model.calls) == 5
    assert result["m"][1] == pytest.approx(1)


def test_models_take_turns_and_each_round_starts_with_the_next(clock):
    order = []
    models = {name: Fake(clock, 0.001, log=order, name=name) for name in "abc"}
    measure_latency(models, SHAPE, [1], rounds=4, warmup=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"


def test_no_round_starts_after_the_time_is_up(clock):
    model = Fake(clock, 1.0)
    measure_latency({"m": model}, SHAPE, [1], rounds=100, warmup=2, max_seconds=5)
    assert len(model.calls) == 5  # the two of the warm-up count


def test_at_least_one_round_is_timed_however_short_the_time(clock):
    model = Fake(clock, 1.0)
    assert measure_latency({"m": model}, SHAPE, [1, 2], warmup=0, max_seconds=0) == {"m": {1: 1000.0, 2: 2000.0}}


def test_models_see_images_of_the_asked_shape_in_eval_and_inference_mode(clock):
    model = Fake(clock, 0.001)
    measure_latency({"m": model}, SHAPE, [2], rounds=1, warmup=0)
    assert model.calls == [((2, 3, 4, 4), torch.float32, False, True)]


def test_real_time_is_measured():
    class Sleeper(nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, images):
            time.sleep(self.seconds)

    result = measure_latency({"slow": Sleeper(0.02), "fast": Sleeper(0.002)}, SHAPE, [1], rounds=5, warmup=0)
    assert 2 <= result["fast"][1] < 20 <= result["slow"][1]


def test_every_module_gets_its_mode_back():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    model.train()
    model[0].eval()
    measure_latency({"m": model}, SHAPE, [2], rounds=1)
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def test_modes_come_back_when_a_model_fails():
    model = nn.Sequential(nn.Linear(7, 7)).train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure_latency({"m": model}, SHAPE, [1])
    assert model.training and model[0].training


def test_half_precision_runs_on_copies(clock):
    seen = []

    class Convolution(nn.Conv2d):
        def forward(self, images):
            seen.append((images.dtype, self.weight.dtype))
            return super().forward(images)

    model = Convolution(3, 2, 1)
    measure_latency({"m": model}, SHAPE, [1], rounds=1, warmup=0, precision="bf16")
    assert seen == [(torch.bfloat16, torch.bfloat16)]
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "no model to time"),
        ({"batch_sizes": []}, r"Batch sizes \[\]"),
        ({"batch_sizes": [1, 0]}, r"Batch sizes \[1, 0\]"),
        ({"rounds": 0}, "0 rounds"),
        ({"precision": "bf61"}, "Unknown precision 'bf61'; did you mean 'bf16'"),
        ({"models": {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1, device="meta")}}, r"several devices \(cpu, meta\)"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(changes, message):
    request = {"models": {"m": nn.Identity()}, "input_shape": SHAPE, "batch_sizes": [1]} | changes
    with pytest.raises(UsageError, match=message):
        measure_latency(**request)
