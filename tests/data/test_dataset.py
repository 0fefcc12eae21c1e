"""What a model sees: normalised pixels, augmentation by seed, epoch and image alone, and the order of batches."""

import gc
import logging
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from xpruner.data import ImageDataset, InputSpec, batches, calibration_batches
from xpruner.data.dataset import Reader
from xpruner.data.sources import ClassFolders, Digits
from xpruner.errors import UsageError, XPrunerError

from .conftest import BLACK, RED, WHITE, paint


def digits(spec, augment="none", seed=0, count=40) -> ImageDataset:
    return ImageDataset(Reader(Digits(), 0), np.arange(count), spec, augment, seed)


def folder_of(tmp_path, *images) -> ClassFolders:
    for number, image in enumerate(images):
        path = tmp_path / "only" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        elif isinstance(image, Image.Image):
            image.save(path)
        else:
            paint(path, image)
    return ClassFolders(tmp_path)


def whole(source, spec, augment="none", max_unreadable=0) -> ImageDataset:
    return ImageDataset(Reader(source, max_unreadable), np.arange(len(source.labels)), spec, augment)


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_colours_are_normalised_by_channel(tmp_path):
    spec = InputSpec((32, 48), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    dataset = whole(folder_of(tmp_path, RED, WHITE), spec)
    red, label = dataset[0]
    assert red.shape == (3, 32, 48) and red.dtype == torch.float32 and label == 0
    torch.testing.assert_close(red[:, 5, 7], torch.tensor([1.0, -1.0, 0.0]))
    torch.testing.assert_close(dataset[1][0][:, 5, 7], torch.tensor([1.0, 3.0, 0.5]))


def test_crop_leaves_the_middle(tmp_path, spec):
    image = Image.new("RGB", (64, 64), BLACK)
    image.paste(WHITE, (16, 16, 48, 48))
    cropped = InputSpec(spec.size, spec.mean, spec.std, crop_pct=0.5)
    assert whole(folder_of(tmp_path, image), cropped)[0][0].unique().tolist() == [1.0]
    assert whole(ClassFolders(tmp_path), spec)[0][0].unique().numel() > 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_mode_is_read_as_rgb(tmp_path, spec, mode):
    path = tmp_path / "only" / ("0.jpg" if mode == "CMYK" else "0.png")
    path.parent.mkdir()
    Image.new("RGB", (8, 8), WHITE).convert(mode).save(path)
    assert whole(ClassFolders(tmp_path), spec)[0][0].unique().tolist() == [1.0]


def test_16_bits_of_grey_are_scaled_and_sides_turned(tmp_path, spec):
    """A third of white is -1/3; on its side, it is the upper half that is white."""
    grey = Image.fromarray(np.full((8, 8), 65535 // 3, np.uint16))
    lying = Image.new("L", (8, 8))
    lying.paste(255, (0, 0, 4, 8))
    folder_of(tmp_path, grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "only" / "1.png", exif=exif)
    dataset = whole(ClassFolders(tmp_path), spec)
    torch.testing.assert_close(dataset[0][0], torch.full((3, 32, 32), -1 / 3))
    assert (dataset[1][0][:, :12] > 0.9).all() and (dataset[1][0][:, 20:] < -0.9).all()


def stripe(column: int) -> Image.Image:
    image = Image.new("RGB", (32, 32), BLACK)
    image.paste(WHITE, (column, 0, column + 1, 32))
    return image


def columns_seen(dataset, epochs=200) -> set[int]:
    seen = set()
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        seen.add(int(dataset[0][0][0, 0].argmax()))
    return seen


def test_light_flips_and_shifts_by_a_thirty_second(tmp_path, spec):
    dataset = whole(folder_of(tmp_path, stripe(5)), spec, "light")
    assert columns_seen(dataset) == {4, 5, 6, 31 - 4, 31 - 5, 31 - 6}


def test_light_never_mirrors_what_must_not_be(tmp_path, spec):
    source = folder_of(tmp_path, stripe(5))
    source.mirror = False
    assert columns_seen(whole(source, spec, "light")) == {4, 5, 6}


def test_light_shifts_both_ways_and_repeats_the_edge(tmp_path, spec):
    image = Image.new("RGB", (32, 32), BLACK)
    image.paste(WHITE, (0, 0, 32, 1))
    dataset = whole(folder_of(tmp_path, image), spec, "light")
    rows = set()
    for epoch in range(100):
        dataset.set_epoch(epoch)
        rows.add(int((dataset[0][0][0, :, 0] == 1).sum()))
    assert rows == {0, 1, 2}  # up and out of sight, in place, and down with the edge repeated


@pytest.mark.parametrize("augment", ["light", "timm"])
def test_augmentation_depends_on_seed_epoch_and_image_alone(spec, augment):
    dataset = digits(spec, augment)
    dataset.set_epoch(3)
    expected = [dataset[index][0] for index in range(4)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    again = digits(spec, augment)
    again.set_epoch(3)
    for index in (2, 0, 3, 1):
        assert torch.equal(again[index][0], expected[index])
    again.set_epoch(4)
    assert any(not torch.equal(again[index][0], expected[index]) for index in range(4))
    other = digits(spec, augment, seed=1)
    other.set_epoch(3)
    assert any(not torch.equal(other[index][0], expected[index]) for index in range(4))


@pytest.mark.parametrize("augment", ["none", "light", "timm"])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_is_left_alone(spec, augment, workers):
    dataset = digits(spec, augment)
    before = random_states()
    next(iter(batches(dataset, 4, seed=0, workers=workers)))
    assert random_states() == before


def test_plain_is_the_image_itself(spec):
    augmented = digits(spec, "timm", seed=3)
    for index in range(3):
        assert torch.equal(augmented.plain()[index][0], digits(spec)[index][0])
    assert len(augmented.plain(7)) == 7


def test_unknown_augmentation_is_refused(spec):
    with pytest.raises(UsageError, match="Unknown augmentation 'lihgt'; did you mean 'light'"):
        digits(spec, "lihgt")


def test_labels_are_those_of_the_images(spec):
    dataset = digits(spec)
    assert dataset.labels.tolist() == [label for _, label in dataset]  # and iteration ends
    assert dataset[-1][1] == dataset.labels[-1]


def test_dataset_can_be_sent_to_another_process(spec):
    dataset = digits(spec, "timm")
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], dataset[3][0])


def indexed(count: int) -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(torch.arange(count))


def test_batches_of_an_epoch_hold_every_image_once():
    parts = [batch for (batch,) in batches(indexed(10), 4, seed=0)]
    order = torch.cat(parts).tolist()
    assert [len(batch) for batch in parts] == [4, 4, 2]
    assert sorted(order) == list(range(10)) != order


def test_order_depends_on_seed_and_epoch_alone():
    def order(**kwargs):
        return torch.cat([batch for (batch,) in batches(indexed(50), 4, **kwargs)]).tolist()

    assert order(seed=0, epoch=1) == order(seed=0, epoch=1)
    assert order(seed=0, epoch=1) != order(seed=0, epoch=0)
    assert order(seed=0, epoch=1) != order(seed=1, epoch=1)
    assert order(seed=0, shuffle=False) == list(range(50))


def test_start_skips_batches_without_loading_them(spec, monkeypatch):
    every = list(batches(digits(spec, "light"), 16, seed=0, epoch=2))
    opened = []
    read = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, record: (opened.append(record), read(self, record))[1])
    rest = list(batches(digits(spec, "light"), 16, seed=0, epoch=2, start=1))
    assert len(opened) == 40 - 16
    for (images, labels), (expected, expected_labels) in zip(rest, every[1:], strict=True):
        assert torch.equal(images, expected) and torch.equal(labels, expected_labels)


def test_drop_last_counts_from_the_whole_epoch():
    assert len(batches(indexed(10), 4, seed=0, drop_last=True)) == 2
    assert len(batches(indexed(10), 4, seed=0, drop_last=True, start=1)) == 1
    assert len(batches(indexed(10), 4, seed=0, start=3)) == 0


def test_workers_do_not_change_what_is_seen(spec):
    for augment in ("light", "timm"):
        alone = list(batches(digits(spec, augment), 16, seed=5, epoch=1))
        helped = list(batches(digits(spec, augment), 16, seed=5, epoch=1, workers=2))
        for (images, labels), (others, other_labels) in zip(alone, helped, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_epochs_may_be_read_side_by_side(spec):
    dataset = digits(spec, "light")
    first, second = batches(dataset, 40, seed=0, epoch=0), batches(dataset, 40, seed=0, epoch=1)
    expected = next(iter(batches(digits(spec, "light"), 40, seed=0, epoch=0)))[0]
    assert torch.equal(next(iter(first))[0], expected)
    assert not torch.equal(next(iter(second))[0], expected)


def test_accelerate_does_not_turn_the_epoch_back(spec):
    from accelerate import Accelerator

    loader = batches(digits(spec, "light"), 16, seed=0, epoch=3)
    prepared = Accelerator(cpu=True).prepare(batches(digits(spec, "light"), 16, seed=0, epoch=3))
    for (images, _), (others, _) in zip(loader, prepared, strict=True):
        assert torch.equal(images, others)


def test_unreadable_image_is_named_once_and_replaced_by_the_next(tmp_path, spec, caplog):
    source = folder_of(tmp_path, BLACK, b"no image", b"", WHITE)
    dataset = whole(source, spec, max_unreadable=2)
    with caplog.at_level(logging.WARNING, "xpruner"):
        for _ in range(2):
            assert [int(pixels[0, 0, 0]) for pixels, _ in dataset] == [-1, 1, 1, 1]
    assert [record.args[0] for record in caplog.records] == [source.name(1), source.name(2)]


def test_one_unreadable_image_too_many_ends_the_run(tmp_path, spec):
    dataset = whole(folder_of(tmp_path, BLACK, b"no image", b"", WHITE), spec, max_unreadable=1)
    with pytest.raises(XPrunerError, match=r"^2 images cannot be read, .*2\.png, and max_unreadable allows 1; repair"):
        dataset[1]


def test_truncated_image_is_unreadable(tmp_path, spec):
    paint(tmp_path / "only" / "0.jpg", size=(64, 64))
    path = tmp_path / "only" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(XPrunerError, match="1 images cannot be read"):
        whole(ClassFolders(tmp_path), spec)[0]


def test_only_unreadable_images_end_the_run(tmp_path, spec):
    with pytest.raises(XPrunerError, match="None of these 2 images can be read"):
        whole(folder_of(tmp_path, b"", b""), spec, max_unreadable=9)[0]


def test_images_that_can_be_read_keep_their_order_and_are_decoded_once(tmp_path, spec, monkeypatch):
    source = folder_of(tmp_path, b"", BLACK, b"no image", WHITE, RED, BLACK)
    dataset = whole(source, spec, max_unreadable=2)
    opened = []
    open_file = ClassFolders.open
    monkeypatch.setattr(ClassFolders, "open", lambda self, record: (opened.append(record), open_file(self, record))[1])
    assert dataset.readable(2).records.tolist() == [1, 3] and sorted(opened) == [0, 1, 2, 3]
    assert dataset.readable().records.tolist() == [1, 3, 4, 5] and sorted(opened) == [0, 1, 2, 3, 4, 5]
    assert [label for _, label in dataset.readable()] == [0] * 4


def test_looking_for_images_that_can_be_read_keeps_to_the_limit(tmp_path, spec):
    with pytest.raises(XPrunerError, match=r"^2 images cannot be read, .*2\.png, and max_unreadable allows 1; repair"):
        whole(folder_of(tmp_path, b"", BLACK, b"", WHITE), spec, max_unreadable=1).readable()
    with pytest.raises(XPrunerError, match="None of these 2 images can be read"):
        whole(folder_of(tmp_path / "none", b"", b""), spec, max_unreadable=9).readable()


def test_some_images_are_taken_with_their_augmentation(spec):
    dataset = digits(spec, "light", seed=3)
    some = dataset.only([7, 2])
    assert len(some) == 2 and torch.equal(some[0][0], dataset[7][0]) and some[1][1] == dataset.labels[2]


def test_calibration_images_that_are_all_alike_are_refused(tmp_path, spec):
    alike = whole(folder_of(tmp_path, RED, RED, RED), spec)
    with pytest.raises(UsageError, match="give no evidence about the units, as all 3 are the same; check the images"):
        calibration_batches(alike, 2)
    with pytest.raises(UsageError, match="give no evidence about the units, as there is only one;"):
        calibration_batches(alike.only([0]), 2)
    ((first, _), (second, _)) = calibration_batches(digits(spec, count=5), 3)
    assert torch.equal(torch.cat([first, second]), torch.stack([pixels for pixels, _ in digits(spec, count=5)]))


def test_loader_processes_count_together_and_fail_in_one_sentence(tmp_path, spec):
    dataset = whole(folder_of(tmp_path, BLACK, b"", WHITE, b""), spec, max_unreadable=1)
    iterator = iter(batches(dataset, 2, seed=0, shuffle=False, workers=2))
    with pytest.raises(XPrunerError) as failure:
        list(iterator)
    message = str(failure.value)
    assert message.startswith("2 images cannot be read") and "\n" not in message
    del failure
    gc.collect()  # or else torch waits 5 s for each process, once the iterator is found in a cycle


def test_what_is_cached_is_read_once_and_still_varies(tmp_path, spec):
    source = folder_of(tmp_path, stripe(5))
    plain, cached = (ImageDataset(Reader(source, 0, cache), np.arange(1), spec, "light") for cache in (False, True))
    wanted = []
    for epoch in range(8):
        plain.set_epoch(epoch)
        wanted.append(plain[0][0])
    cached[0]
    source._paths = ["gone"]
    for epoch in range(8):
        cached.set_epoch(epoch)
        assert torch.equal(cached[0][0], wanted[epoch])
