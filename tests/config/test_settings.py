"""Options from nested YAML keys, laid over a dataclass of defaults."""

import pytest

from xpruner.config import FinetuneConfig, RunConfig
from xpruner.config.settings import dotted, load_yaml, overlaid, settings_of
from xpruner.errors import UsageError


def test_nested_keys_become_dotted_ones():
    tree = {"budget": 0.5, "finetune": {"lr": 0.1}}
    assert dotted(tree, RunConfig, "a.yaml") == {"budget": "0.5", "finetune.lr": 0.1}
    assert settings_of(RunConfig(finetune=FinetuneConfig(lr=0.1)))["finetune.lr"] == 0.1


def test_settings_are_laid_over_the_defaults():
    defaults = RunConfig(seed=3, finetune=FinetuneConfig(lr=0.1, epochs=2))
    found = overlaid(defaults, {"finetune.epochs": 5, "finetune.min_lr": "1e-6"}, "a.yaml")
    assert (found.seed, found.finetune.lr, found.finetune.epochs, found.finetune.min_lr) == (3, 0.1, 5, 1e-6)
    assert defaults.finetune.epochs == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": "x"}, "seed is 'x', but must be a whole number; correct it in a.yaml."),
        ({"finetune.lr": -1.0}, "finetune.lr is -1.0, but must be positive."),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(UsageError) as raised:
        overlaid(RunConfig(), settings, "a.yaml")
    assert str(raised.value) == message


def test_an_empty_file_holds_no_keys(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(tmp_path / "empty.yaml") == {}
