"""One image before two models: what they predict, and their maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xpruner.data import InputSpec
from xpruner.data.image import read_image
from xpruner.errors import UsageError
from xpruner.explain.image_cards import image_card
from xpruner.explain.map_pair import ANY_CLASS, map_pair
from xpruner.run.finished import open_run

SPEC = InputSpec((4, 2), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def digit(finished, tmp_path):
    """The first test image of the run, as a file."""
    source = finished.images.reader.source
    path = tmp_path / "digit.png"
    source.open(int(finished.images.records[0])).save(path)
    return path


def test_an_image_is_read_as_the_model_takes_it(tmp_path):
    """Black is -1 and white is 1 where mean and deviation are a half."""
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png", SPEC)
    assert found.shape == (3, 4, 2)
    assert (found[:, 0] == 1).all() and (found[:, 1:] == -1).all()


def test_an_image_that_a_camera_took_on_its_side_is_put_upright(tmp_path):
    pixels = np.zeros((2, 4), np.uint8)
    pixels[:, 0] = 255  # on the left; turned clockwise by a quarter it is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=exif)
    found = read_image(tmp_path / "image.png", SPEC)
    assert (found[:, 0] == 1).all() and (found[:, 1:] == -1).all()


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "image.png"
    with pytest.raises(
        UsageError, match=rf"^The image {path} cannot be read \(No such file or directory\); give a PNG"
    ):
        read_image(path, SPEC)
    path.write_text("no image")
    with pytest.raises(UsageError, match=r"^The image mine\.png cannot be read \(its format is unknown\); give a PNG"):
        read_image(path, SPEC, "mine.png")
    Image.new("RGB", (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match=r"cannot be read \(.*truncated.*\); give a PNG"):
        read_image(path, SPEC)


def test_the_card_of_an_image(finished, digit, tmp_path):
    card = image_card(finished, digit, "relevance", label=3, output=tmp_path / "card.png")
    image = finished.images[0][0]
    assert (card.image, card.explained, card.method) == (str(digit), "3", "relevance")
    for model, found in ((finished.dense, card.dense), (finished.pruned, card.pruned)):
        best = model(image[None]).softmax(-1)[0].topk(5)
        assert [prediction.name for prediction in found] == [str(label) for label in best.indices.tolist()]
        assert [prediction.probability for prediction in found] == pytest.approx(best.values.tolist())
    pair = map_pair(finished.dense, finished.pruned, image, "relevance", 3)
    assert (card.similarity, card.chance) == (pair.similarity, pair.chance)
    picture = np.asarray(Image.open(card.picture))
    assert picture.shape == (224, 3 * 224 + 2 * 8, 3)
    grey = image.mean(0) * 0.5 + 0.5  # of the image, whose pixels are enlarged 14 times
    assert np.abs(picture[::14, :224:14].mean(-1) / 255 - grey.numpy()).max() < 1 / 255


def test_a_picture_lies_in_the_run_by_default(finished_folder, digit, tmp_path):
    for name in ("dense", "pruned", "plan.json", "config.yaml"):
        (tmp_path / name).symlink_to(finished_folder / name)
    card = image_card(open_run(tmp_path), digit, "rollout")
    assert card.picture == str(tmp_path / "explained" / "digit-rollout.png")
    assert Image.open(card.picture).size == (3 * 224 + 2 * 8, 224)


def test_an_image_of_the_run_has_a_number(finished, tmp_path):
    number = len(finished.images) - 1
    image, label = finished.images[number]
    card = image_card(finished, number, "gradcam", output=tmp_path / "card.png")
    assert (card.image, card.truth) == (str(number), str(label))
    best = finished.dense(image[None]).softmax(-1)[0].max().item()
    assert card.dense[0].probability == pytest.approx(best)
    with pytest.raises(
        UsageError, match=rf"^There is no image {number + 1}; those of the run are 0 to {number}, and a"
    ):
        image_card(finished, number + 1)


def test_the_picture_of_a_number_lies_beside_those_of_files(finished_folder, tmp_path):
    for name in ("dense", "pruned", "plan.json", "config.yaml"):
        (tmp_path / name).symlink_to(finished_folder / name)
    card = image_card(open_run(tmp_path), 3, "gradcam")
    assert card.picture == str(tmp_path / "explained" / "image-3-gradcam.png") and Path(card.picture).exists()


def test_a_method_that_knows_no_class_explains_any(finished, digit, tmp_path):
    first, second = (
        image_card(finished, digit, "rollout", label, output=tmp_path / f"{label}.png") for label in (1, 2)
    )
    assert first.explained == second.explained == ANY_CLASS
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_an_image_of_16_bits_is_scaled(tmp_path):
    """A third of white is -1/3 where mean and deviation are a half."""
    Image.fromarray(np.full((4, 2), 65535 // 3, np.uint16)).save(tmp_path / "deep.png")
    torch.testing.assert_close(read_image(tmp_path / "deep.png", SPEC), torch.full((3, 4, 2), -1 / 3))


def test_an_unknown_method_is_refused(finished, digit, tmp_path):
    with pytest.raises(UsageError, match="Unknown explanation method 'relevanz'; did you mean 'relevance'"):
        image_card(finished, digit, "relevanz", output=tmp_path / "card.png")
