"""The structure of a saved model, as data: ``structure.json``."""

import json
from dataclasses import dataclass
from typing import Any

from xpruner.data.spec import InputSpec
from xpruner.errors import XPrunerError

FORMAT, VERSION, LIBRARIES = "xpruner", 2, ("timm", "transformers")


@dataclass(frozen=True)
class Structure:
    """The structure of a model; with the weights it defines the whole model.

    Attributes:
        architecture: timm's name of the dense model, or the name of its class in transformers.
        kwargs: Arguments of ``timm.create_model`` that build it, or the configuration of transformers.
        units: For each group's key its current number of units; 0 where the whole branch or block was removed. Groups
            of other kinds than heads and hidden units are named only where they were cut.
        biases: Paths of the linear layers with a bias that the stock model lacks; compensation adds them.
        input: The images that the model expects.
        class_names: Of the classifier's outputs in order, where known.
        library: ``timm`` or ``transformers``.
        made_with: The version of that library that the model was saved with.
        top1: The accuracy of the model, 0 to 1, where it was measured.
    """

    architecture: str
    kwargs: dict[str, Any]
    units: dict[str, int]
    biases: list[str]
    input: InputSpec
    class_names: list[str] | None = None
    library: str = "timm"
    made_with: str = ""
    top1: float | None = None

    def to_json(self) -> str:
        """Returns the structure as JSON text."""
        head = {"format": FORMAT, "version": VERSION}
        return json.dumps({**head, **vars(self), "input": self.input.to_dict()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Structure":
        """Reads :meth:`to_json`.

        Raises:
            XPrunerError: If the text is not a structure, or of a newer version.
        """
        try:
            data = json.loads(text)
            kind, version, library = data["format"], data["version"], data["library"]
            if version > VERSION:
                raise XPrunerError(
                    f"The structure has version {version} but this xpruner reads up to {VERSION}; update xpruner."
                )
            if kind != FORMAT or library not in LIBRARIES:
                raise XPrunerError(
                    f"The structure is of format {kind!r} for {library!r}, not xpruner's for {' or '.join(LIBRARIES)}."
                )
            return cls(
                architecture=str(data["architecture"]),
                kwargs=dict(data["kwargs"]),
                units={key: _whole(count) for key, count in data["units"].items()},
                biases=_texts(data["biases"]),
                input=InputSpec.from_dict(data["input"]),
                class_names=None if data["class_names"] is None else _texts(data["class_names"]),
                library=library,
                made_with=str(data["made_with"] if "made_with" in data else data["timm"]),  # its name in version 1
                top1=_share(data.get("top1")),
            )
        except KeyError as error:
            raise XPrunerError(f"The structure lacks {error}; save the model again.") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise XPrunerError(f"The structure is damaged ({error}); save the model again.") from error


def _whole(count: Any) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"a group has {count!r} units")
    return count


def _texts(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{names!r} is not a list of names")
    return names


def _share(value: Any) -> float | None:
    if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ValueError(f"top1 is {value!r}")
    return value
