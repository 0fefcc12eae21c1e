"""Models on disk: ``model.safetensors`` beside ``structure.json``, from which stock timm rebuilds what was pruned."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xpruner._compat import declare_torchvision_ops
from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError, XPrunerError, unknown
from xpruner.files import write_text, write_whole
from xpruner.plan import Plan
from xpruner.surgery import apply
from xpruner.training.evaluate import evaluating
from xpruner.units import prunable_parts
from xpruner.units.branch import ConstantBranch

declare_torchvision_ops()

import timm

WEIGHTS, STRUCTURE = "model.safetensors", "structure.json"
FORMAT, VERSION, LIBRARY = "xpruner", 1, "timm"
PICKLES = (".bin", ".pth", ".pt")
FAMILIES = {"deit": "deit*", "swin_transformer": "swin_*", "vision_transformer": "vit_*"}
"""timm's modules whose models can be pruned, and how those are called."""


@dataclass(frozen=True)
class Structure:
    """What a model is built of; with its weights it is the whole model.

    Attributes:
        architecture: timm's name of the dense model.
        kwargs: Arguments of ``timm.create_model`` that build it.
        units: For each group's key how many units are there now; 0 where the whole branch is gone.
        biases: Paths of the linear layers with a bias that the stock model lacks; compensation adds them.
        input: The images that the model expects.
        class_names: Of the classifier's outputs in order, where known.
        timm: Version of timm that the model was saved with.
    """

    architecture: str
    kwargs: dict[str, Any]
    units: dict[str, int]
    biases: list[str]
    input: InputSpec
    class_names: list[str] | None = None
    timm: str = timm.__version__

    def to_json(self) -> str:
        """Returns the structure as JSON text."""
        head = {"format": FORMAT, "version": VERSION, "library": LIBRARY}
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
            if (kind, library) != (FORMAT, LIBRARY):
                raise XPrunerError(f"The structure is of format {kind!r} for {library!r}, not xpruner's for timm.")
            return cls(
                architecture=str(data["architecture"]),
                kwargs=dict(data["kwargs"]),
                units={key: int(count) for key, count in data["units"].items()},
                biases=list(data["biases"]),
                input=InputSpec.from_dict(data["input"]),
                class_names=data["class_names"],
                timm=str(data["timm"]),
            )
        except KeyError as error:
            raise XPrunerError(f"The structure lacks {error}; save the model again.") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise XPrunerError(f"The structure is damaged ({error}); save the model again.") from error


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_spec: InputSpec | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a model, dense or pruned; the folder is complete once its ``structure.json`` is there.

    Before anything is written the model is rebuilt as :func:`load` will do it, and the outputs are compared.

    Args:
        model: Made by ``timm.create_model``, and pruned any number of times.
        folder: Where to; made if absent.
        kwargs: The arguments given to ``timm.create_model``; deduced from the model when absent.
        input_spec: The images that the model expects; as the model says when absent.
        class_names: Of the classifier's outputs in order.

    Raises:
        UsageError: If the model cannot be rebuilt from its architecture and arguments.
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    names = list(class_names) if class_names is not None else None
    structure = _describe(model, kwargs, input_spec or InputSpec.of(model), names)
    folder = Path(folder).expanduser()
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}

    def write_weights(temporary: Path) -> None:  # safetensors' own save_file does not tell a full disk by its errno
        temporary.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
        (folder / STRUCTURE).unlink(missing_ok=True)  # an older structure must never stand beside these weights

    write_whole(folder / WEIGHTS, write_weights)
    write_text(folder / STRUCTURE, structure.to_json())


def load(folder: str | Path) -> nn.Module:
    """Returns a saved model on the CPU in eval mode; its outputs are bit for bit those of the model saved there.

    Its attention is fused where timm fuses it by default, whatever the saved model had set.

    Raises:
        UsageError: If the folder holds no saved model, or one of an architecture that timm does not know.
        XPrunerError: If a file is damaged or of a newer version, or the two do not fit each other.
    """
    structure = read_structure(folder)
    path = Path(folder).expanduser() / WEIGHTS
    try:
        # own memory, whatever becomes of the file, and aligned as torch does it: alignment can change the last bit
        weights = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise XPrunerError(f"{path} is damaged ({error}); copy it again or save the model again.") from error
    try:
        model = _fit(_skeleton(structure.architecture, structure.kwargs), structure, weights)
    except _Misfit as misfit:
        raise XPrunerError(
            f"{path} does not fit its {STRUCTURE} in timm {timm.__version__}: {misfit}; "
            f"save the model again, or use timm {structure.timm}, which it was saved with."
        ) from misfit
    model.pretrained_cfg.update(structure.input.to_dict())
    return model


def read_structure(folder: str | Path) -> Structure:
    """Returns what the model in a folder is built of, without its weights.

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


def unknown_model(name: str) -> UsageError:
    """Returns the error for a name that is none of timm's, with the nearest of those that can be pruned."""
    names = [name for module in FAMILIES for name in timm.list_models(module=module)]
    return unknown("timm model", name, difflib.get_close_matches(name, names, n=1, cutoff=0.5) or FAMILIES.values())


class _Misfit(Exception):
    """Why weights and structure do not go together, in words."""


def _describe(
    model: nn.Module, kwargs: Mapping[str, Any] | None, spec: InputSpec, class_names: list[str] | None
) -> Structure:
    """Returns the model's structure, proven by rebuilding the model from it."""
    parts = prunable_parts(model)
    weights = model.state_dict()
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if architecture is None:
        raise UsageError("The model does not name its timm architecture; make it with timm.create_model.")
    arguments = _deduce(model, architecture) if kwargs is None else _as_json(kwargs)
    try:
        dense = _skeleton(architecture, arguments)
        units = {
            key: parts[key].adapter.size(parts[key].module) if key in parts else 0 for key in prunable_parts(dense)
        }
        biases = [
            path
            for path, layer in dense.named_modules()
            if isinstance(layer, nn.Linear) and layer.bias is None and f"{path}.bias" in weights
        ]
        structure = Structure(architecture, arguments, units, biases, spec, class_names)
        if not _same_outputs(_fit(dense, structure, weights), model):
            raise _Misfit("its outputs are others")
    except _Misfit as misfit:
        raise UsageError(
            f"The model cannot be rebuilt by timm.create_model({architecture!r}, **{arguments}): {misfit}; "
            "pass the arguments that it was made with as kwargs=."
        ) from misfit
    return structure


def _fit(dense: Any, structure: Structure, weights: Mapping[str, Tensor]) -> Any:
    """Cuts a dense skeleton to the structure, in place, and gives it the weights, in eval mode."""
    sizes = {key: part.adapter.size(part.module) for key, part in prunable_parts(dense).items()}
    for key, count in structure.units.items():
        if not 0 <= count <= sizes.get(key, -1):
            raise _Misfit(f"{count} units in {key!r} where there are {sizes.get(key, 0)}")
    keep = {key: list(range(count)) for key, count in structure.units.items()}
    model: Any = apply(dense, Plan(keep, sizes), inplace=True)
    layers = dict(model.named_modules())
    for path in structure.biases:
        if not isinstance(layers.get(path), nn.Linear):
            raise _Misfit(f"a bias for {path!r} where there is no linear layer")
        layers[path].bias = nn.Parameter(torch.empty(layers[path].out_features))
    stock = model.state_dict()
    difference = first_difference(weights, stock)
    if difference:
        raise _Misfit(difference)
    model.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():
        if name not in stock and buffer.is_floating_point():  # such as Swin's masks, which are built in float32
            owner, _, leaf = name.rpartition(".")
            like = next(model.get_submodule(owner).parameters())
            setattr(model.get_submodule(owner), leaf, buffer.to(like.dtype))
    return model.to(model.patch_embed.proj.weight.device).eval()


@torch.no_grad()
def _same_outputs(rebuilt: Any, model: nn.Module) -> bool:
    """Compares on one image, with room for the rounding of other kernels and for nothing else."""
    spec = InputSpec.of(model)
    image = torch.rand(1, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))
    image = image.to(rebuilt.patch_embed.proj.weight)
    with evaluating(model):
        wanted, given = model(image), rebuilt(image)
    tolerance = torch.finfo(wanted.dtype).eps ** (2 / 3) * wanted.abs().nan_to_num().max()
    return given.shape == wanted.shape and torch.allclose(given, wanted, rtol=0, atol=tolerance.item(), equal_nan=True)


class _Unwritten(TorchFunctionMode):
    """Leaves new parameters unwritten: to draw weights only to replace them takes most of the time of a load."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        return target if in_place and isinstance(target, nn.Parameter) else func(*args, **kwargs)


def _skeleton(architecture: str, kwargs: Mapping[str, Any]) -> Any:
    """Returns the dense model with parameters of the right shapes, their values undefined, and true buffers."""
    if not timm.is_model(architecture):
        raise unknown_model(architecture)
    try:
        with torch.random.fork_rng(devices=[]), _Unwritten():
            # checkpoint_path is given so that kwargs from a file cannot: timm would read a pickle from it
            return timm.create_model(architecture, pretrained=False, checkpoint_path=None, **kwargs)
    except Exception as error:  # whatever timm raises at arguments that it does not take
        raise _Misfit(f"timm refuses the arguments ({type(error).__name__}: {error})") from error


def _as_json(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(kwargs)))
    except TypeError as error:
        raise UsageError(f"The kwargs {dict(kwargs)} cannot be written as JSON ({error}); give names.") from error


def _deduce(model: nn.Module, architecture: str) -> dict[str, Any]:
    """Returns the arguments of ``timm.create_model`` in which a model differs from its plain architecture.

    The skeleton needs hidden units enough to be cut from, so a pruned MLP needs no ``mlp_ratio`` of its own.
    """
    own, plain = _read(model), _read(_skeleton(architecture, {}))
    ratio, plain_ratio = own.pop("mlp_ratio"), plain.pop("mlp_ratio")
    kwargs = {
        name: value
        for name, value in own.items()
        if value is not None and (value != plain[name] or name in ("num_classes", "img_size"))
    }
    return kwargs if ratio <= plain_ratio else {**kwargs, "mlp_ratio": math.ceil(ratio)}


def _read(model: Any) -> dict[str, Any]:
    """Reads arguments of ``timm.create_model`` off the modules of a VisionTransformer or SwinTransformer."""
    windowed = hasattr(model, "layers")
    stages = [list(stage.blocks) for stage in model.layers] if windowed else [list(model.blocks)]
    blocks = [block for stage in stages for block in stage]
    embed, heads = model.patch_embed, [_dense_heads(stage) for stage in stages]
    mlps = [(block.mlp, block.norm1.weight.numel()) for block in blocks if not isinstance(block.mlp, ConstantBranch)]
    read = {
        "num_classes": model.num_classes,
        "img_size": _side(embed.img_size),
        "patch_size": _side(embed.patch_size),
        "in_chans": embed.proj.in_channels,
        "embed_dim": embed.proj.out_channels,
        "global_pool": model.global_pool,
        "mlp_ratio": max((mlp.fc1.out_features / dim for mlp, dim in mlps), default=0.0),
        "drop_path_rate": round(max(getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks), 6),
    }
    if windowed:
        window = _side(max(block.window_size for block in blocks))  # smaller ones are clipped to the image
        return {**read, "depths": [len(stage) for stage in stages], "num_heads": heads, "window_size": window}
    scaled = any(name.endswith("ls1.gamma") for name, _ in model.named_parameters())
    return {
        **read,
        "depth": len(blocks),
        "num_heads": heads[0],
        "class_token": model.has_class_token,
        "no_embed_class": model.no_embed_class,
        "dynamic_img_size": model.dynamic_img_size,
        "init_values": 1e-5 if scaled else None,  # any value does: the scales are among the weights
    }


def _dense_heads(stage: Sequence[Any]) -> int:
    """Returns how many heads a block had before pruning; a head keeps its width, and the stream its own."""
    dim = stage[0].norm1.weight.numel()
    attentions = [block.attn for block in stage if not isinstance(block.attn, ConstantBranch)]
    return dim * attentions[0].num_heads // attentions[0].proj.in_features if attentions else 1


def _side(size: tuple[int, int] | None) -> int | list[int] | None:
    return size[0] if size and size[0] == size[1] else size and list(size)
