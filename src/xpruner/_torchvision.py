"""One workaround: make ``import torchvision`` (and so timm) work beside a CPU build of torch.

The package index carries torchvision with CUDA kernels only. Where its compiled extension does not load, the
operators ``torchvision::nms`` and ``torchvision::qnms`` are never declared and ``import torchvision`` fails while it
registers their shape functions. Declaring the two schemas is enough: xpruner and timm use torchvision's image
transforms and never call these operators.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[Any] = []  # torch.library.Library objects withdraw their operators when they are collected


class _BeforeTorchvision:
    """Finds nothing itself: declares the operators when torchvision is about to be imported, and then is gone."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_torchvision_ops()


def declare_before_import() -> None:
    """Has :func:`declare_torchvision_ops` called when torchvision is first imported; until then nothing is loaded."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


def declare_torchvision_ops() -> None:
    """Declares the operator schemas that torchvision lacks when its extension does not load; else does nothing."""
    import importlib.util  # nothing is imported before it is needed
    from pathlib import Path

    spec = importlib.util.find_spec("torchvision")
    if _libraries or spec is None or spec.origin is None or _extension_loads(Path(spec.origin).parent):
        return
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)


def _extension_loads(package: "Path") -> bool:
    import torch

    for extension in package.glob("_C*.so"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            return False
        return True
    return False
