"""What a saved model is built of, as data: ``structure.json``."""

import json
from dataclasses import dataclass
from typing import Any

from xpruner.data.spec import InputSpec
from xpruner.errors import XPrunerError

FORMAT, VERSION, LIBRARIES = "xpruner", 2, ("timm", "transformers")


@dataclass(frozen=True)
class Structure:
    """What a model is built of; with its weights it is the whole model.

    Attributes:
        architecture: timm's name of the dense model, or the name of its class in transformers.
        kwargs: Arguments of ``timm.create_model`` that build it, or the configuration of transformers.
        units: For each group's key how many units are there now; 0 where the whole branch or block is gone. Groups of
            other kinds than heads and hidden units are named only where they were cut.
        biases: Paths of the linear layers with a bias that the stock model lacks; compensation adds them.
        input: The images that the model expects.
        class_names: Of the classifier's outputs in order, where known.
        library: ``timm`` or ``transformers``.
        made_with: The version of that library that the model was saved with.
    """

    architecture: str
    kwargs: dict[str, Any]
    units: dict[str, int]
    biases: list[str]
    input: InputSpec
    class_names: list[str] | None = None
    library: str = "timm"
    made_with: str = ""

    def to_json(self) -> str:
        """Returns the structure as JSON text."""
        head = {"format": FORMAT, "version": VERSION}
        return json.dumps({**head, **vars(self), "input": self.input.to_dict()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Structure":
        """Reads :meth:`to_json`.

        Raises:
            XPrunerError: If the text is something else, or of a newer version.
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
                units={key: int(count) for key, count in data["units"].items()},
                biases=list(data["biases"]),
                input=InputSpec.from_dict(data["input"]),
                class_names=data["class_names"],
                library=library,
                made_with=str(data["made_with"] if "made_with" in data else data["timm"]),  # as version 1 named it
            )
        except KeyError as error:
            raise XPrunerError(f"The structure lacks {error}; save the model again.") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise XPrunerError(f"The structure is damaged ({error}); save the model again.") from error
