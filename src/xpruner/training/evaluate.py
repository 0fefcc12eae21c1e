"""Top-1 accuracy, without showing a label to the model."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xpruner.data import batches
from xpruner.errors import UsageError
from xpruner.runtime.devices import accelerator, autocast
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of
from xpruner.runtime.progress import Progress


def evaluate(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 64, workers: int = 0, precision: str = "fp32"
) -> float:
    """Returns the share, 0 to 1, of images whose largest logit is that of their label.

    The arguments and what it raises are those of :func:`predict`.
    """
    predicted, labels = predict(model, dataset, batch_size=batch_size, workers=workers, precision=precision)
    return (predicted == labels).sum().item() / len(labels)


def predict(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 64, workers: int = 0, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Returns the class with the largest logit and the label of every image, both (images,), in the dataset's order.

    The model is moved to accelerate's device, sees images alone, and gets its train or eval mode back.

    Args:
        model: Takes images (batch, channels, height, width), returns logits (batch, classes).
        dataset: Pairs of an image and a class index.
        batch_size: Images a step, over all processes.
        workers: Loader processes.
        precision: ``fp32``, ``bf16``, or ``fp16`` on a GPU.

    Raises:
        UsageError: If there are no images, or the precision is not available.
    """
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise UsageError("There are no images to evaluate on; choose a dataset that has some.")
    place = accelerator()
    loader = place.prepare_data_loader(batches(dataset, batch_size, seed=0, shuffle=False, workers=workers))
    model.to(place.device)
    found: list[tuple[Tensor, Tensor]] = []
    show = Progress("evaluating", len(loader), enabled=place.is_main_process)
    with evaluating(model), torch.inference_mode(), autocast(precision, place.device), show:
        for images, labels in loader:
            pair = place.gather_for_metrics((logits_of(model(images)).argmax(dim=-1), labels))
            found.append((pair[0].cpu(), pair[1].cpu()))
            show.advance(len(pair[1]))
    return torch.cat([predicted for predicted, _ in found]), torch.cat([labels for _, labels in found])
