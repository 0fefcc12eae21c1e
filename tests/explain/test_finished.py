import pytest
import torch
from safetensors.torch import load_file

from xpruner.errors import UsageError, XPrunerError
from xpruner.explain.finished import open_run


def test_a_run_is_opened_as_it_was_made(finished, finished_folder):
    assert finished.config.data.calibration_size == 64
    assert finished.config.output == str(finished_folder)
    assert {group.kind for group in finished.units} == {"head", "hidden", "qk"}
    assert finished.masks.keys() == load_file(finished_folder / "masks.safetensors").keys()
    dense = load_file(finished_folder / "masks_dense.safetensors")
    assert all(torch.equal(finished.dense_masks[key], dense[key]) for key in finished.masks)
    assert len(finished.images) == 60


def test_some_images_are_spread_evenly_and_keep_their_numbers(finished):
    numbers, images = finished.some_images(3)
    assert numbers == [0, 29, 59]
    ((batch, labels),) = images
    assert torch.equal(batch[1], finished.images[29][0]) and labels[1] == finished.images[29][1]
    assert finished.some_images(1000)[0] == list(range(60))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no run directory; give the --output"):
        open_run(tmp_path)


def test_an_unfinished_run_is_refused(finished_folder, tmp_path):
    (tmp_path / "config.yaml").write_text((finished_folder / "config.yaml").read_text())
    with pytest.raises(UsageError, match="not finished; the same `xpruner prune` command finishes it"):
        open_run(tmp_path)


@pytest.mark.parametrize("text", ["model: [", "speed: 3", "just words"])
def test_a_damaged_configuration_is_named(finished_folder, tmp_path, text):
    (tmp_path / "pruned").symlink_to(finished_folder / "pruned")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(XPrunerError, match=r"config\.yaml cannot be read"):
        open_run(tmp_path)


def test_a_run_without_masks_says_what_makes_them(finished_folder, tmp_path):
    for name in ("dense", "pruned", "plan.json", "config.yaml"):
        (tmp_path / name).symlink_to(finished_folder / name)
    with pytest.raises(UsageError, match=r"has no masks.*`xpruner prune --method xpruner"):
        _ = open_run(tmp_path).masks
