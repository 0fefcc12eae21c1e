"""Divides the images of a dataset: for training, tuning, testing and calibration."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xpruner.config import DataConfig
from xpruner.config.checks import check
from xpruner.data.by_class import absent, last_of_class_last, size_to_hold_out, stratified_order
from xpruner.data.class_names import Classes, match
from xpruner.data.dataset import ImageDataset, Reader
from xpruner.data.duplicates import find_duplicates
from xpruner.data.lookup import find_sources
from xpruner.data.sources import Source
from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError, XPrunerError

logger = logging.getLogger("xpruner")

# Not the run's seed: images that a dense model has not seen must remain unseen when it is pruned with other seeds.
TEST_SEED = 0
VAL_SEED = 0


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: With augmentation; ``train.plain()`` is without.
        val: Held out of the training images for tuning, if asked for.
        test: For the final figures.
        calibration: The first of ``train``, without augmentation.
        class_names: By label.
    """

    train: ImageDataset
    val: ImageDataset | None
    test: ImageDataset
    calibration: ImageDataset
    class_names: list[str]

    @property
    def parts(self) -> dict[str, ImageDataset]:
        """The images by purpose: ``training``, ``held out`` where there are any, and ``test``."""
        held_out = {} if self.val is None else {"held out": self.val}
        return {"training": self.train, **held_out, "test": self.test}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def measured(self) -> ImageDataset:
        """The images that accuracy is measured on: those held out for tuning if any, else the test images."""
        return self.test if self.val is None else self.val

    def of_classes(self, labels: Sequence[int], calibration: int) -> "Splits":
        """Returns the images of some classes, labelled by their place among these.

        Args:
            labels: The chosen classes.
            calibration: Number of training images for calibration, at most: the first readable ones.
        """
        train = self.train.of_classes(labels)
        return Splits(
            train=train,
            val=None if self.val is None else self.val.of_classes(labels),
            test=self.test.of_classes(labels),
            calibration=train.plain().readable(calibration),
            class_names=[self.class_names[label] for label in labels],
        )


def load_data(config: DataConfig, spec: InputSpec, seed: int, classes: Classes | None = None) -> Splits:
    """Finds the images of a dataset and divides them.

    The seed decides which images are used when fewer are asked for, their order, and the augmentation. Neither the
    images held out for tuning nor the test images depend on it: a model trained without them has not seen them in a run
    with another seed either. Test images are held out by class, and no class gives its last training image for tuning
    while another has two.

    Images for figures are decoded once before anything is computed: unreadable ones are left out. Likely mistakes in
    the data are logged.

    Args:
        config: Which images, and how many of them for what.
        spec: The input that the model expects.
        seed: Not negative.
        classes: The model's, whose labels the images get; absent, they keep their own.

    Raises:
        UsageError: An option is out of range, or the dataset does not exist, is not laid out as it must be, has fewer
            images than asked for, or other classes than the model.
        XPrunerError: It cannot be fetched, its labels are not those of its classes, or too many images are unreadable.
    """
    check(config, "data.")
    if spec.channels != 3:
        raise UsageError(f"The model takes {spec.channels} channels, but images are read as RGB; give a model with 3.")
    train_source, test_source, names = _sources(config, classes)
    reader = test_reader = Reader(train_source, config.max_unreadable, config.cache)
    if test_source is None:
        records, test = _hold_out_test(train_source.labels, config)
    else:
        test_reader = Reader(test_source, config.max_unreadable, config.cache)
        records = np.arange(len(train_source.labels))
        test = np.random.default_rng(TEST_SEED).permutation(len(test_source.labels))
    val_size = _checked("val_size", config.val_size, 0, len(records) - 1)
    order = np.random.default_rng(VAL_SEED).permutation(records)
    val = order[last_of_class_last(train_source.labels[order])][:val_size]
    shuffled = np.random.default_rng(seed).permutation(records)
    rest = shuffled[~np.isin(shuffled, val)]
    train_size = _checked("train_size", config.train_size, 1, len(rest))
    test_size = _checked("test_size", config.test_size, 1, len(test))
    calibration_size = _calibration_size(config.calibration_size, train_size)
    reader.readable(rest, calibration_size)
    train = ImageDataset(reader, reader.without_unreadable(rest)[:train_size], spec, config.augment, seed)
    splits = Splits(
        train=train,
        val=ImageDataset(reader, val, spec).readable() if val_size else None,
        test=ImageDataset(test_reader, np.sort(test[:test_size]), spec).readable(),
        calibration=train.plain(calibration_size),
        class_names=names,
    )
    _warn(splits)
    return splits


def _sources(config: DataConfig, classes: Classes | None) -> tuple[Source, Source | None, list[str]]:
    """Returns the training images, the test images where there are some, and the classes by label, all checked."""
    train, test = find_sources(config.name, config.root, config.class_order)
    names = _class_names(train, config.name)
    if test is not None:
        _check_test(test, train, names, config.name)
    if classes is not None:
        names = match([source for source in (train, test) if source is not None], classes, config.name)
    return train, test, names


def _warn(splits: Splits) -> None:
    """Logs likely mistakes in the data: classes without images, and images that are both trained and measured on."""
    for name, kinds in splits.train.reader.source.found.empty.items():
        there = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing"
        logger.warning("Folder %r holds no image and is not a class; it holds %s.", name, there)
    if unseen := [splits.class_names[label] for label in absent(splits.train.labels, splits.num_classes)]:
        logger.warning(
            "%d of %d classes have no training images, so there is no evidence about them: %s.",
            len(unseen), splits.num_classes, _abridged(unseen),
        )  # fmt: skip
    pairs = find_duplicates(splits.train, [part for part in (splits.val, splits.test) if part is not None])
    if pairs:
        logger.warning(
            "%d images that accuracy is measured on are among the training images too, such as %s, the same as %s; "
            "remove them, or accuracy is overestimated.", len(pairs), *reversed(pairs[0]),
        )  # fmt: skip


def class_names(config: DataConfig) -> list[str]:
    """Returns the classes of a dataset by label, before a model and its input are known.

    Raises:
        UsageError: As :func:`load_data`.
        XPrunerError: As :func:`load_data`.
    """
    return _class_names(find_sources(config.name, config.root, config.class_order)[0], config.name)


def _hold_out_test(labels: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns the records for training and those held out for testing."""
    size = size_to_hold_out(labels, config.test_share)
    if not size:
        raise UsageError(
            f"Dataset {config.name!r} has one image of each class and no test images, so none can be held out; "
            "add images."
        )
    logger.info(
        "%s has no test images of its own: %d of its %d training images are held out, by class.",
        config.name, size, len(labels),
    )  # fmt: skip
    order = stratified_order(labels, TEST_SEED)
    return np.sort(order[size:]), order[:size]


def _class_names(source: Source, name: str) -> list[str]:
    names = source.class_names or [str(label) for label in range(source.labels.max(initial=-1) + 1)]
    if len(np.unique(source.labels)) < 2:
        raise UsageError(f"Dataset {name!r} has training images of fewer than 2 classes; add another class.")
    _check_labels(source, names, name)
    return names


def _check_test(source: Source, train: Source, class_names: list[str], name: str) -> None:
    if source.class_names and train.class_names and source.class_names != train.class_names:
        raise XPrunerError(
            f"The test images of {name!r} have the classes {_abridged(source.class_names)}, but its training images "
            f"{_abridged(train.class_names)}; give both the same classes in the same order."
        )
    if len(source.labels) == 0:
        raise UsageError(f"Dataset {name!r} has an empty test split; add images, or remove the split.")
    _check_labels(source, class_names, name)


def _check_labels(source: Source, class_names: list[str], name: str) -> None:
    wrong = np.flatnonzero((source.labels < 0) | (source.labels >= len(class_names)))
    if len(wrong):
        raise XPrunerError(
            f"Image {source.name(wrong[0])} of {name!r} has the label {source.labels[wrong[0]]}, but labels must lie "
            f"in 0..{len(class_names) - 1}; correct it, or remove a split that has no labels."
        )


def _checked(option: str, asked: int | None, least: int, most: int) -> int:
    if asked is None:
        return most
    if not least <= asked <= most:
        raise UsageError(f"{option} is {asked}, but must lie in {least}..{most} with the images available.")
    return asked


def _calibration_size(asked: int, train_size: int) -> int:
    if asked > train_size:
        logger.info("calibration_size %d is reduced to the %d training images available.", asked, train_size)
    return min(asked, train_size)


def _abridged(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
