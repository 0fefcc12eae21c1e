"""Models on disk: ``model.safetensors`` beside ``structure.json``, from which the library rebuilds the cut model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError, XPrunerError
from xpruner.files import write_text, write_whole
from xpruner.models.about import About, known_classes, note
from xpruner.models.preprocessing import to_processor
from xpruner.models.skeleton import Misfit, guesses, identify, skeleton, version_of
from xpruner.models.structure import Structure
from xpruner.models.tensors import check_tensors, in_float32
from xpruner.plan.plan import Plan
from xpruner.registry import ADAPTERS, load_installed
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import tensors_of
from xpruner.surgery import apply
from xpruner.units import DEFAULT_KINDS, prunable_parts

WEIGHTS, STRUCTURE, CONFIG = "model.safetensors", "structure.json", "config.json"
PROCESSOR = "preprocessor_config.json"
PICKLES = (".bin", ".pth", ".pt")


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_spec: InputSpec | None = None,
    class_names: Sequence[str] | None = None,
    top1: float | None = None,
) -> None:
    """Writes a model, dense or pruned; the folder is complete once its ``structure.json`` exists.

    Before anything is written the model is rebuilt as in :func:`load`, and the outputs are compared.

    Args:
        model: Made by ``timm.create_model`` or of a class of transformers, and pruned any number of times.
        folder: To write to; created if absent.
        kwargs: The arguments given to ``timm.create_model``; deduced from the model when absent. A model of
            transformers has its own configuration; where that can express the cut, ``from_pretrained`` can read the
            folder too.
        input_spec: The images that the model expects; as noted on the model when absent.
        class_names: Of the classifier's outputs in order; as noted on the model when absent.
        top1: Its accuracy, 0 to 1, stored beside it.

    Raises:
        UsageError: If the model cannot be rebuilt from its architecture and arguments, or its weights are not finite or
            not of floating point.
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    about = About(input_spec, None if class_names is None else tuple(class_names), top1)
    structure = _describe(model, kwargs, about)
    folder = Path(folder).expanduser()
    weights = {name: tensor.cpu().clone().contiguous() for name, tensor in model.state_dict().items()}  # some are tied
    config = _own_config(model, structure, weights)

    def write_weights(temporary: Path) -> None:  # safetensors' save_file hides the errno of a full disk
        temporary.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
        for older in (STRUCTURE, CONFIG, PROCESSOR):  # must never stand beside these weights
            (folder / older).unlink(missing_ok=True)

    write_whole(folder / WEIGHTS, write_weights)
    if config:
        write_text(folder / CONFIG, config)
        processor = to_processor(structure.input)
        if processor:
            write_text(folder / PROCESSOR, json.dumps(processor, indent=1))
    write_text(folder / STRUCTURE, structure.to_json())


def load(folder: str | Path) -> nn.Module:
    """Returns a saved model on the CPU in eval mode; its outputs are bit for bit those of the model saved there.

    Its attention is fused where timm fuses it by default, whatever the saved model used, and weights saved in half or
    double precision are read in float32. Nothing is fetched, and no code in the folder runs.

    Raises:
        UsageError: If the folder holds no saved model, one of an architecture that timm does not know, arguments that
            could run code or fetch files, or weights that are not finite or not of floating point.
        XPrunerError: If a file is damaged or of a newer version, or the two do not fit each other.
    """
    load_installed(ADAPTERS)
    structure = read_structure(folder)
    path = Path(folder).expanduser() / WEIGHTS
    try:
        # own memory, independent of the file, and aligned as by torch: alignment can change the last bit
        weights = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise XPrunerError(f"{path} is damaged ({error}); copy it again or save the model again.") from error
    try:
        dense = skeleton(structure.library, structure.architecture, structure.kwargs, str(path.with_name(STRUCTURE)))
        model = _fit(dense, structure, in_float32(weights, str(path)), str(path))
    except Misfit as misfit:
        library = structure.library
        raise XPrunerError(
            f"{path} does not fit its {STRUCTURE} in {library} {version_of(library)}: {misfit}; "
            f"save the model again, or use {library} {structure.made_with}, which it was saved with."
        ) from misfit
    if structure.library == "timm":
        model.pretrained_cfg.update(structure.input.to_dict())
    names = structure.class_names
    note(model, input=structure.input, class_names=None if names is None else tuple(names), top1=structure.top1)
    return model


def arguments_of(model: nn.Module, kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the arguments that rebuild a model, proven by rebuilding it; call it before the model is cut if possible.

    Args:
        model: As for :func:`save`.
        kwargs: The arguments given to ``timm.create_model``; deduced from the model when absent.

    Raises:
        UsageError: If the model cannot be rebuilt from its architecture and arguments.
    """
    return _describe(model, kwargs, About()).kwargs


def read_structure(folder: str | Path) -> Structure:
    """Returns the structure of the model in a folder, without its weights.

    Raises:
        UsageError: If the folder holds no saved model.
        XPrunerError: If its ``structure.json`` is damaged or of a newer version.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; give one written by xpruner.save.")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    missing = [name for name in (STRUCTURE, WEIGHTS) if not (folder / name).is_file()]
    if missing and pickles:
        raise UsageError(f"{folder} holds the pickle {pickles[0]}, which is never read; convert it to safetensors.")
    if missing:
        raise UsageError(f"{folder} has no {' and no '.join(missing)}; give a folder written by xpruner.save.")
    try:
        return Structure.from_json((folder / STRUCTURE).read_text(encoding="utf-8"))
    except (XPrunerError, OSError, UnicodeDecodeError) as error:
        raise XPrunerError(f"{folder / STRUCTURE} cannot be read: {error}") from error


def first_difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Returns in words how the names or shapes of given weights first differ from the wanted ones, or None."""
    for name in (*wanted, *given):
        if name not in given:
            return f"{name!r} is missing"
        if name not in wanted:
            return f"{name!r} has no place in it"
        if given[name].shape != wanted[name].shape:
            return f"{name!r} has shape {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
    return None


def _describe(model: nn.Module, kwargs: Mapping[str, Any] | None, about: About) -> Structure:
    """Returns the model's structure, proven by rebuilding the model from it."""
    prunable_parts(model)  # refuses a model that cannot be pruned before identifying it
    library, architecture = identify(model)
    misfits = []
    for arguments in guesses(model, library, architecture) if kwargs is None else [_as_json(kwargs)]:
        try:
            return _proven(model, library, architecture, arguments, about)
        except Misfit as misfit:
            misfits.append((arguments, misfit))
    arguments, first = misfits[0]
    raise UsageError(
        f"The model cannot be rebuilt by timm.create_model({architecture!r}, **{arguments}): {first}; "
        "pass the arguments that made it as kwargs=."
        if library == "timm"
        else f"The {architecture} cannot be rebuilt from its configuration: {first}; undo what changed it."
    ) from first


def _proven(
    model: nn.Module,
    library: str,
    architecture: str,
    arguments: dict[str, Any],
    about: About,
) -> Structure:
    dense, weights = skeleton(library, architecture, arguments), model.state_dict()
    biases = [
        path
        for path, layer in dense.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is None and f"{path}.bias" in weights
    ]
    counts = _counts(model, dense)
    made_with = version_of(library)
    spec = about.input or InputSpec.of(model)
    names = about.class_names or known_classes(model).names
    listed = list(names) if names else None
    structure = Structure(architecture, arguments, counts, biases, spec, listed, library, made_with, about.top1)
    if not _same_outputs(_fit(dense, structure, weights), model, spec):
        raise Misfit("its outputs differ")
    return structure


def _counts(model: nn.Module, dense: nn.Module) -> dict[str, int]:
    """Returns how many units each group of the dense model has left; 0 where a branch or block was removed."""
    left = {key: part.size for key, part in prunable_parts(model).items()}
    whole = prunable_parts(dense)
    skipped = {key: part for key, part in whole.items() if part.is_one_unit and key not in left}
    counts = {}
    for key, part in whole.items():
        if key in skipped:
            counts[key] = 0
        elif any(block.contains(part.location) for block in skipped.values()):
            continue
        elif part.adapter.kind in DEFAULT_KINDS:
            counts[key] = left.get(key, 0)
        elif left.get(key, part.size) != part.size:
            counts[key] = left[key]
    return counts


def _own_config(model: Any, structure: Structure, weights: Mapping[str, Tensor]) -> str | None:
    """Returns the configuration with which transformers itself rebuilds the pruned model, if there is one."""
    if structure.library != "transformers":
        return None
    config = {**structure.kwargs, "architectures": [structure.architecture]}
    hidden = {count for key, count in structure.units.items() if key.endswith(":hidden")}
    if len(hidden) == 1 and "intermediate_size" in config:
        config["intermediate_size"] = hidden.pop()
    try:
        rebuilt = skeleton("transformers", structure.architecture, config)
    except Misfit:
        return None
    return None if first_difference(weights, rebuilt.state_dict()) else json.dumps(config, indent=1)


def _fit(dense: Any, structure: Structure, weights: Mapping[str, Tensor], where: str = "the model") -> Any:
    """Cuts a dense skeleton to the structure, in place, and loads the weights, in eval mode."""
    sizes = {key: part.size for key, part in prunable_parts(dense).items()}
    for key, count in structure.units.items():
        if not 0 <= count <= sizes.get(key, -1):
            raise Misfit(f"{count} units in {key!r} where there are {sizes.get(key, 0)}")
    keep = {key: list(range(count)) for key, count in structure.units.items()}
    try:
        model: Any = apply(dense, Plan(keep, sizes), inplace=True)
    except UsageError as error:
        raise Misfit(str(error).rstrip(".")) from error
    layers = dict(model.named_modules())
    for path in structure.biases:
        if not isinstance(layers.get(path), nn.Linear | nn.Conv2d):
            raise Misfit(f"a bias for {path!r} where there is no linear layer")
        layers[path].bias = nn.Parameter(torch.empty(len(layers[path].weight)))
    stock = model.state_dict()
    difference = first_difference(weights, stock)
    if difference:
        raise Misfit(difference)
    check_tensors(weights, dict(model.named_parameters()), where)
    model.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():
        if name not in stock and buffer.is_floating_point():  # such as Swin's masks, which are built in float32
            owner, _, leaf = name.rpartition(".")
            like = next(model.get_submodule(owner).parameters(), next(model.parameters()))
            setattr(model.get_submodule(owner), leaf, buffer.to(like.dtype))
    return model.to(next(model.parameters()).device).eval()


@torch.no_grad()
def _same_outputs(rebuilt: Any, model: nn.Module, spec: InputSpec) -> bool:
    """Compares on one image, with a tolerance for the rounding of other kernels only."""
    image = torch.rand(1, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))
    image = image.to(next(rebuilt.parameters()))
    outputs = []
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for each in (rebuilt, model):
            torch.manual_seed(0)  # masked autoencoders hide patches at random
            outputs.append(tensors_of(each(image)))
    pairs = list(zip(*outputs, strict=True))
    return all(given.shape == wanted.shape and _close(given, wanted) for given, wanted in pairs)


def _close(given: Tensor, wanted: Tensor) -> bool:
    tolerance = torch.finfo(wanted.dtype).eps ** (2 / 3) * wanted.abs().nan_to_num().max()
    return torch.allclose(given, wanted, rtol=0, atol=tolerance.item(), equal_nan=True)


def _as_json(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(kwargs)))
    except TypeError as error:
        raise UsageError(f"The kwargs {dict(kwargs)} cannot be written as JSON ({error}); give names.") from error
