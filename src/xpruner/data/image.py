"""An image file as a model's input."""

from pathlib import Path

from PIL import UnidentifiedImageError
from torch import Tensor

from xpruner.data import InputSpec
from xpruner.data.rgb import FORMATS, as_rgb, open_image
from xpruner.data.transforms import Plain
from xpruner.errors import UsageError


def read_image(path: str | Path, spec: InputSpec, name: str | None = None) -> Tensor:
    """Returns an image file as a model's input, (3, height, width).

    Args:
        path: Of the file.
        spec: The input that the model expects.
        name: What to call it where it cannot be read; its path when absent.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        with open_image(path) as file:
            image = as_rgb(file)
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is unknown" if unknown else getattr(error, "strerror", None) or error
        raise UsageError(
            f"The image {name or path} cannot be read ({reason}); give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} "
            "file."
        ) from error
    return Plain(spec)(image)
