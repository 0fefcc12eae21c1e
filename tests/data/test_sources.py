"""Each kind of dataset is found, read and refused."""

import numpy as np
import pytest

from xpruner.data.lookup import find_sources
from xpruner.errors import UsageError, XPrunerError

from .conftest import BLACK, RED, WHITE, paint, png, write_parquet


def colour(source, record: int) -> tuple[int, ...]:
    return source.open(record).convert("RGB").getpixel((0, 0))


def test_digits_are_gray_and_never_mirrored():
    train, test = find_sources("digits")
    assert test is None and not train.mirror
    assert np.bincount(train.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert train.open(0).size == (8, 8) and train.open(0).getextrema() == (0, round(15 * 255 / 16))


def test_class_folders(tmp_path):
    paint(tmp_path / "dog" / "1.png", RED)
    paint(tmp_path / "cat" / "deeper" / "1.jpg", WHITE)
    paint(tmp_path / ".hidden" / "1.png")
    paint(tmp_path / "preview.png")
    (tmp_path / "empty").mkdir()
    train, test = find_sources(str(tmp_path))
    assert test is None
    assert train.class_names == ["cat", "dog"] and train.labels.tolist() == [0, 1]
    assert colour(train, 0) == WHITE and colour(train, 1) == RED
    assert train.name(1) == str(tmp_path / "dog" / "1.png")


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    for name in ("10", "9", "1"):
        paint(tmp_path / name / "a.png")
    assert find_sources(str(tmp_path))[0].class_names == ["1", "9", "10"]


@pytest.mark.parametrize("split", ["test", "val", "validation"])
def test_train_and_test_folders_share_the_labels(tmp_path, split):
    for name in ("cat", "dog"):
        paint(tmp_path / "train" / name / "1.png")
    paint(tmp_path / split / "dog" / "1.png", RED)
    train, test = find_sources(str(tmp_path))
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [1] and colour(test, 0) == RED


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "Validation"), ("train", "dev"), ("train", "valid"),
     ("trainset", "eval")],
)  # fmt: skip
def test_splits_are_known_by_any_usual_name(tmp_path, train, test):
    paint(tmp_path / train / "cat" / "1.png")
    paint(tmp_path / test / "cat" / "1.png", RED)
    found_train, found_test = find_sources(str(tmp_path))
    assert found_train.class_names == ["cat"]
    assert colour(found_train, 0) == BLACK and colour(found_test, 0) == RED


def test_the_test_split_wins_over_validation_but_for_imagenet(tmp_path):
    for split, shade in (("train", BLACK), ("Val", RED), ("Test", WHITE)):
        paint(tmp_path / split / "cat" / "1.png", shade)
    assert colour(find_sources(str(tmp_path))[1], 0) == WHITE
    assert colour(find_sources("imagenet", str(tmp_path))[1], 0) == RED


@pytest.mark.parametrize("splits", [["Test"], ["test", "val"], ["Train", "Test"]])
def test_splits_without_class_folders_of_training_images_are_refused(tmp_path, splits):
    for split in splits:
        paint(tmp_path / split / ("1.png" if split == "Train" else "cat/1.png"))
    with pytest.raises(UsageError, match=r"are named like splits .*, but none holds class folders of training images"):
        find_sources(str(tmp_path))


def test_two_folders_for_the_same_split_are_refused(tmp_path):
    for split in ("Train", "training"):
        paint(tmp_path / split / "cat" / "1.png")
    with pytest.raises(UsageError, match="has 'Train' and 'training', both for the same split"):
        find_sources(str(tmp_path))


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("bus", "train", "test"):
        paint(tmp_path / name / "1.png")
    assert find_sources(str(tmp_path))[0].class_names == ["bus", "test", "train"]


def test_a_test_class_that_was_never_trained_is_refused(tmp_path):
    for folder in ("train/cat", "train/dog", "test/owl"):
        paint(tmp_path / folder / "1.png")
    with pytest.raises(UsageError, match="class 'owl', which the training images lack"):
        find_sources(str(tmp_path))


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "labels"), ("img", "fine_label")])
@pytest.mark.parametrize("names", [["cat", "dog"], None])
def test_parquet(tmp_path, columns, names):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [png(WHITE)], [0], *columns, names=names)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [png(RED)], [1], *columns, names=names)
    write_parquet(tmp_path / "test.parquet", [png(BLACK)], [1], *columns, names=names)
    train, test = find_sources(str(tmp_path))
    assert train.class_names == names
    assert train.labels.tolist() == [0, 1] and colour(train, 0) == WHITE and colour(train, 1) == RED
    assert test.labels.tolist() == [1] and colour(test, 0) == BLACK


def test_parquet_below_one_folder_with_paths_and_plain_bytes(tmp_path):
    import pyarrow

    paint(tmp_path / "red.png", RED)
    (tmp_path / "data").mkdir()
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "red.png")}], "label": [0]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data" / "train.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [png(WHITE)], "label": [0]}), tmp_path / "data" / "test.parquet"
    )
    train, test = find_sources(str(tmp_path))
    assert colour(train, 0) == RED and colour(test, 0) == WHITE


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train-00000-of-00001.parquet", "Test.parquet"), ("training.parquet", "validation_0.parquet"),
     ("train/0000.parquet", "test/0000.parquet"), ("data/train-0.parquet", "data/dev-0.parquet"),
     ("cats.parquet", "testset.PARQUET")],
)  # fmt: skip
def test_parquet_files_are_known_by_any_usual_name(tmp_path, train, test):
    for name, shade in ((train, WHITE), (test, RED)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / name, [png(shade)], [0])
    (tmp_path / train).with_name("._train.parquet").write_bytes(b"left behind")
    found_train, found_test = find_sources(str(tmp_path))
    assert colour(found_train, 0) == WHITE and colour(found_test, 0) == RED


@pytest.mark.parametrize("named", ["/etc/hostname", "../secret.png", "link.png", None])
def test_a_table_opens_no_file_outside_of_its_folder(tmp_path, named):
    import pyarrow

    folder = tmp_path / "data"
    paint(tmp_path / "secret.png", RED)
    paint(folder / "own.png", WHITE)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rows = {"image": [{"bytes": None, "path": path} for path in ("own.png", named)], "label": [0, 1]}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "train.parquet")
    source, _ = find_sources(str(folder))
    assert colour(source, 0) == WHITE
    with pytest.raises(OSError, match=f"its row holds no image, and {named!r} is not a file of the data set"):
        source.open(1)


def test_named_dataset_is_read_from_its_root_and_imagenet_prefers_validation(tmp_path):
    for split, label in (("train", 0), ("validation", 1), ("test", -1)):
        write_parquet(tmp_path / f"{split}.parquet", [png(WHITE)], [label])
    assert find_sources("imagenet", str(tmp_path))[1].labels.tolist() == [1]
    assert find_sources("cifar10", str(tmp_path))[1].labels.tolist() == [-1]


@pytest.mark.parametrize(
    ("columns", "lack"),
    [(("picture", "label"), "no column of encoded images"), (("image", "kind"), "no column of whole-number labels")],
)
def test_parquet_without_a_column_is_refused(tmp_path, columns, lack):
    write_parquet(tmp_path / "train.parquet", [png(WHITE)], [0], *columns)
    with pytest.raises(UsageError, match=f"{lack} among {', '.join(columns)}"):
        find_sources(str(tmp_path))


def test_parquet_with_labels_in_words_is_refused(tmp_path):
    write_parquet(tmp_path / "train.parquet", [png(WHITE)], ["cat"])
    with pytest.raises(UsageError, match="no column of whole-number labels"):
        find_sources(str(tmp_path))


def test_parquet_without_training_files_is_refused(tmp_path):
    write_parquet(tmp_path / "test.parquet", [png(WHITE)], [0])
    with pytest.raises(UsageError, match=r"no train\*\.parquet beside test\.parquet"):
        find_sources(str(tmp_path))


def test_damaged_parquet_is_refused_by_name(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(XPrunerError, match=r"train.parquet cannot be read .*; fetch the files again"):
        find_sources(str(tmp_path))


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        find_sources(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "'nowhere' is not a folder that exists"),
        ("/nowhere/at/all", "'/nowhere/at/all' is not a folder that exists"),
        ("cifra10", "did you mean 'cifar10'"),
        ("wds/shards", "is a stream"),
        ("torch/cifar10", "needs a folder"),
        ("torch/image_folder", "needs a folder"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        find_sources(name)


def test_hub_that_cannot_be_reached_says_what_to_give(monkeypatch):
    def unreachable(name, **_):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(XPrunerError, match=r"'uoft-cs/cifar10' cannot be fetched .*Couldn't reach.*; give as root"):
        find_sources("cifar10")


def test_hub_dataset_is_read_by_its_splits(monkeypatch, tmp_path):
    import datasets

    for split, label in (("train", 0), ("validation", 1)):
        write_parquet(tmp_path / f"{split}.parquet", [png(RED)], [label], names=["cat", "dog"])
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "validation")}
    splits = datasets.load_dataset("parquet", data_files=files)
    monkeypatch.setattr("datasets.load_dataset", lambda name, cache_dir: {"someone/pets": splits}[name])
    train, test = find_sources("hfds/someone/pets")
    assert train.class_names == ["cat", "dog"] and train.labels.tolist() == [0] and test.labels.tolist() == [1]
    assert colour(train, 0) == RED


def test_torchvision_dataset_through_timm(tmp_path):
    import gzip

    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, header in (("images-idx3", [2, 28, 28]), ("labels-idx1", [2])):
            magic = bytes([0, 0, 8, len(header)]) + b"".join(size.to_bytes(4, "big") for size in header)
            data = bytes([7, 3]) if len(header) == 1 else bytes(28 * 28) + bytes([255] * 28 * 28)
            (folder / f"{part}-{kind}-ubyte").write_bytes(magic + data)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(magic + data))
    train, test = find_sources("torch/mnist", str(tmp_path))
    assert train.labels.tolist() == test.labels.tolist() == [7, 3]
    assert train.class_names[3] == "3 - three" and not train.mirror
    assert colour(train, 0) == BLACK and colour(train, 1) == WHITE


def test_unknown_torchvision_dataset_is_refused(tmp_path):
    with pytest.raises(XPrunerError, match="'torch/nothing' cannot be read"):
        find_sources("torch/nothing", str(tmp_path))
