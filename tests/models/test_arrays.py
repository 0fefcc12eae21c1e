"""Checkpoints as JAX left them, in arrays of numpy."""

import numpy as np
import pytest
import torch
from tiny_models import VIT, tiny

from xpruner.config import ModelConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.models import load_model


def config(checkpoint: str) -> ModelConfig:
    return ModelConfig("vit_tiny_patch16_224", checkpoint, num_classes=5, img_size=32, kwargs=VIT)


def test_arrays_of_jax_are_loaded_as_timm_does_with_their_classifier_or_not_at_all(tmp_path):
    wanted, path = tiny("vit"), tmp_path / "a.npz"
    arrays = arrays_of(wanted)
    np.savez(path, **arrays)
    given, _ = load_model(config(str(path)))
    assert torch.equal(given.head.weight, wanted.head.weight)
    assert torch.equal(given.blocks[1].attn.qkv.weight, wanted.blocks[1].attn.qkv.weight)
    for bias, classes in ((np.zeros(7, np.float32), 7), (None, 0)):
        others = {name: array for name, array in arrays.items() if name != "head/bias"}
        np.savez(path, **others | ({} if bias is None else {"head/bias": bias}))
        with pytest.raises(UsageError, match=f"has {classes} classes where 5 are requested"):
            load_model(config(str(path)))
    path.write_bytes(b"PK" + bytes(64))
    with pytest.raises(XPrunerError, match=r"timm cannot read the arrays in .*a\.npz"):
        load_model(config(str(path)))


def arrays_of(model) -> dict[str, np.ndarray]:
    """Returns the weights of a tiny ViT as the JAX code that it was published with names and lays them out."""
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays = {
        "embedding/kernel": weights["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": weights["patch_embed.proj.bias"],
        "cls": weights["cls_token"],
        "Transformer/posembed_input/pos_embedding": weights["pos_embed"],
        "Transformer/encoder_norm/scale": weights["norm.weight"],
        "Transformer/encoder_norm/bias": weights["norm.bias"],
        "head/kernel": weights["head.weight"].T,
        "head/bias": weights["head.bias"],
    }
    for number in range(2):
        own, block = f"blocks.{number}.", f"Transformer/encoderblock_{number}/"
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for name, rows in zip(("query", "key", "value"), range(0, 72, 24), strict=True):
            part = slice(rows, rows + 24)
            arrays[f"{attention}{name}/kernel"] = weights[f"{own}attn.qkv.weight"][part].T.reshape(24, 3, 8)
            arrays[f"{attention}{name}/bias"] = weights[f"{own}attn.qkv.bias"][part].reshape(3, 8)
        arrays[f"{attention}out/kernel"] = weights[f"{own}attn.proj.weight"].T.reshape(3, 8, 24)
        arrays[f"{attention}out/bias"] = weights[f"{own}attn.proj.bias"]
        for norm, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{block}{theirs}/scale"] = weights[f"{own}{norm}.weight"]
            arrays[f"{block}{theirs}/bias"] = weights[f"{own}{norm}.bias"]
        for layer, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{block}MlpBlock_3/{theirs}/kernel"] = weights[f"{own}mlp.{layer}.weight"].T
            arrays[f"{block}MlpBlock_3/{theirs}/bias"] = weights[f"{own}mlp.{layer}.bias"]
    return arrays
