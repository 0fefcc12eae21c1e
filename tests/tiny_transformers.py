"""Every vision model of transformers that can be pruned, small enough to run in milliseconds, made without the hub."""

import copy
from collections.abc import Callable
from functools import cache, partial

import torch
import transformers as hf
from torch import nn

SIDE = 32
VIT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=SIDE, patch_size=8
)
DINO = {name: value for name, value in VIT.items() if name != "intermediate_size"} | dict(mlp_ratio=2)
SWIN = dict(image_size=SIDE, patch_size=4, embed_dim=12, depths=(2, 1), num_heads=(2, 4), window_size=4)
PYRAMID = dict(
    image_size=SIDE,
    num_encoder_blocks=2,
    depths=(1, 2),
    hidden_sizes=(12, 24),
    num_attention_heads=(2, 4),
    sr_ratios=(2, 1),
    patch_sizes=(7, 3),
    strides=(4, 2),
    mlp_ratios=(2, 2),
)
SEGFORMER = {name: value for name, value in PYRAMID.items() if name != "image_size"} | dict(decoder_hidden_size=16)
HIERA = dict(
    image_size=(SIDE, SIDE),
    embed_dim=12,
    depths=(2, 2),
    num_heads=(2, 4),
    num_query_pool=1,
    masked_unit_size=(4, 4),
    masked_unit_attention=(True, False),
    mlp_ratio=2.0,
)
DPT = dict(reassemble_factors=(1, 0.5), neck_hidden_sizes=(8, 8), fusion_hidden_size=8, patch_size=8)
DETR = dict(
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=36,
    decoder_ffn_dim=40,
    num_queries=5,
)


def _resnet(*stages: str) -> hf.ResNetConfig:
    return hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=list(stages)
    )


def _detr(model: type[nn.Module], stages: tuple[str, ...] = ("stage2",), **kwargs) -> nn.Module:
    return model(model.config_class(backbone_config=_resnet(*stages), **DETR | kwargs))


def _build(model: type[nn.Module], **kwargs) -> nn.Module:
    return model(model.config_class(**kwargs))


def _dpt_on_dinov2() -> nn.Module:
    backbone = hf.Dinov2Config(**DINO, out_indices=[1, 2], reshape_hidden_states=False)
    return hf.DPTForDepthEstimation(hf.DPTConfig(backbone_config=backbone, **DPT, neck_ignore_stages=()))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(_build, hf.ViTModel, **VIT),
    "vit classifier": partial(_build, hf.ViTForImageClassification, **VIT, qkv_bias=False),
    "deit": partial(_build, hf.DeiTForImageClassification, **VIT),
    "deit distilled": partial(_build, hf.DeiTForImageClassificationWithTeacher, **VIT),
    "beit": partial(_build, hf.BeitForImageClassification, **VIT, use_relative_position_bias=True),
    "beit, absolute": partial(_build, hf.BeitModel, **VIT, use_absolute_position_embeddings=True),
    "dinov2": partial(_build, hf.Dinov2Model, **DINO),
    "dinov2 swiglu": partial(_build, hf.Dinov2ForImageClassification, **DINO, use_swiglu_ffn=True),
    "dinov2 registers": partial(_build, hf.Dinov2WithRegistersForImageClassification, **DINO),
    "dinov2 registers swiglu": partial(_build, hf.Dinov2WithRegistersModel, **DINO, use_swiglu_ffn=True),
    "dinov3": partial(_build, hf.DINOv3ViTModel, **VIT, num_register_tokens=2),
    "dinov3 gated": partial(_build, hf.DINOv3ViTModel, **VIT, use_gated_mlp=True, key_bias=True, mlp_bias=False),
    "vit mae": partial(_build, hf.ViTMAEModel, **VIT),
    "vit mae decoder": partial(
        _build,
        hf.ViTMAEForPreTraining,
        **VIT,
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=20,
    ),
    "swin": partial(_build, hf.SwinForImageClassification, **SWIN),
    "swin, padded windows": partial(_build, hf.SwinModel, **SWIN | dict(window_size=3), qkv_bias=False),
    "swin v2": partial(_build, hf.Swinv2ForImageClassification, **SWIN),
    "swin v2, padded windows": partial(_build, hf.Swinv2Model, **SWIN | dict(window_size=3)),
    "segformer": partial(_build, hf.SegformerForImageClassification, **SEGFORMER),
    "segformer segmentation": partial(_build, hf.SegformerForSemanticSegmentation, **SEGFORMER),
    "yolos": partial(_build, hf.YolosForObjectDetection, **VIT | dict(image_size=(SIDE, SIDE)), num_detection_tokens=4),
    "clip": partial(_build, hf.CLIPVisionModel, **VIT),
    "clip classifier": partial(_build, hf.CLIPForImageClassification, vision_config=VIT),
    "siglip": partial(_build, hf.SiglipVisionModel, **VIT),
    "siglip classifier": partial(_build, hf.SiglipForImageClassification, vision_config=VIT),
    "dpt": partial(_build, hf.DPTForSemanticSegmentation, **VIT | DPT, backbone_out_indices=(0, 1)),
    "dpt on dinov2": _dpt_on_dinov2,
    "pvt v2": partial(_build, hf.PvtV2ForImageClassification, **PYRAMID),
    "pvt v2 linear": partial(_build, hf.PvtV2Model, **PYRAMID, linear_attention=True, qkv_bias=False),
    "hiera": partial(_build, hf.HieraForImageClassification, **HIERA),
    "detr": partial(_detr, hf.DetrForObjectDetection),
    "conditional detr": partial(_detr, hf.ConditionalDetrForObjectDetection),
    "deformable detr": partial(_detr, hf.DeformableDetrForObjectDetection, ("stage1", "stage2"), num_feature_levels=2),
}


@cache
def _stirred(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def tiny(name: str, attention: str = "sdpa") -> nn.Module:
    """Returns a copy of one of ``MODELS`` in eval mode, all its parameters stirred, with that kind of attention."""
    model = copy.deepcopy(_stirred(name))
    if attention == "eager":
        model.set_attn_implementation("eager")
    return model
