"""Plain values become dataclasses, and paths lose their ~ once."""

from pathlib import Path

import pytest

from xpruner.config import DataConfig, FinetuneConfig, ModelConfig, RunConfig, preset
from xpruner.config.files import expanded, from_dict
from xpruner.errors import UsageError


def test_a_dict_is_laid_over_the_preset():
    config = from_dict(RunConfig, {"finetune": {"epochs": 0}, "seed": 3}, preset("paper"))
    assert (config.finetune.epochs, config.finetune.distill, config.seed) == (0, 0.0, 3)
    assert config.masks == preset("paper").masks


def test_a_dataclass_is_taken_as_it_is():
    recipe = FinetuneConfig(lr=1.0)
    assert from_dict(RunConfig, {"finetune": recipe}).finetune is recipe


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"finetunes": {}}, "Unknown option 'finetunes'; did you mean 'finetune'?"),
        ({"finetune": {"epoch": 1}}, "Unknown option 'finetune.epoch'; did you mean 'finetune.epochs'?"),
        ({"finetune": 3}, "finetune is 3, but must be a FinetuneConfig or a dict of its options."),
        ([1], r"The configuration is \[1\], but must be a RunConfig or a dict of its options."),
    ],
)
def test_what_is_no_option_is_refused_by_name(values, sentence):
    with pytest.raises(UsageError, match=sentence):
        from_dict(RunConfig, values)


def test_the_home_folder_is_put_into_every_path():
    config = expanded(
        RunConfig(
            output="~/half",
            model=ModelConfig("~/m", checkpoint="~/w.pth"),
            data=DataConfig("~/d", root="a/~"),
            finetune=FinetuneConfig(teacher="~/t"),
        )
    )
    home = str(Path.home())
    assert [config.output, config.model.name, config.model.checkpoint, config.data.name, config.finetune.teacher] == [
        f"{home}/{name}" for name in ("half", "m", "w.pth", "d", "t")
    ]
    assert config.data.root == "a/~"
