"""Who pays: what pruning did to the accuracy of each class, and which images changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from xpruner.data import InputSpec
from xpruner.explain.audit import Audit, ClassAudit, Drop, audit
from xpruner.explain.pictures import data_uri, pixels_of
from xpruner.run.finished import FinishedRun

SHOWN = 12


@dataclass(frozen=True)
class ChangedImage:
    """An image that one model gets right and the other, which is wrong, takes for another class."""

    number: int
    truth: str
    taken_for: str
    picture: str


@dataclass(frozen=True)
class Changes:
    """What pruning changed.

    Attributes:
        audit: Class by class.
        lost: Some of the images that the dense model gets right and the pruned one wrong.
        gained: Some of those that the pruned model gets right and the dense one wrong.
    """

    audit: Audit
    lost: list[ChangedImage]
    gained: list[ChangedImage]

    @property
    def drop(self) -> Drop:
        """Of all images."""
        return _drop(self.audit.overall)

    @property
    def classes(self) -> list[tuple[ClassAudit, Drop]]:
        """With their drops, the class that lost most first."""
        return [(c, _drop(c)) for c in _ranked(self.audit)]


def changes(run: FinishedRun, predictions: tuple[Tensor, Tensor, Tensor], names: Sequence[str]) -> Changes:
    """Returns what pruning changed on the images of a run.

    Args:
        run: A finished run.
        predictions: Labels and the classes that the dense and the pruned model predict, of all images, each (images,).
        names: Of the classes.
    """
    labels, dense, pruned = predictions
    audited = audit(dense, pruned, labels, names)
    lost = _shown(run, lost_first(audited), labels, pruned, names)
    return Changes(audited, lost, _shown(run, gained_first(audited), labels, dense, names))


def _ranked(audited: Audit) -> list[ClassAudit]:
    return sorted(audited.classes, key=lambda c: -c.drop)


def _drop(audited: ClassAudit) -> Drop:
    return Drop.of(len(audited.lost), len(audited.gained), audited.images)


def lost_first(audited: Audit) -> list[int]:
    """Returns the images that were lost, one of each class in turn, the class that lost most first."""
    return _in_turn([c.lost for c in _ranked(audited)])


def gained_first(audited: Audit) -> list[int]:
    """Returns the images that were gained, one of each class in turn, the class that gained most first."""
    return _in_turn([c.gained for c in reversed(_ranked(audited))])


def _in_turn(queues: Sequence[Sequence[int]]) -> list[int]:
    longest = max(map(len, queues))
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def _shown(
    run: FinishedRun, numbers: Sequence[int], labels: Tensor, wrong: Tensor, names: Sequence[str]
) -> list[ChangedImage]:
    """Returns the first of some images, with the prediction of the model that is wrong about them."""
    spec = InputSpec.of(run.dense)
    return [
        ChangedImage(n, names[int(labels[n])], names[int(wrong[n])], data_uri(pixels_of(run.images[n][0], spec)))
        for n in numbers[:SHOWN]
    ]
