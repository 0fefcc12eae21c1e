"""Which module replaces which of timm's, so that it can have fewer heads than it was built with."""

from torch import nn

from xpruner.units.modules import biased_attention as biased
from xpruner.units.modules import channel_attention as channel
from xpruner.units.modules import mixed_blocks as mixed
from xpruner.units.modules import token_attention as plain
from xpruner.units.modules.base import Resizable

_REPLACEMENTS: tuple[type[Resizable], ...] = (
    plain.MetaformerAttention,
    plain.ConvitMHSA,
    plain.VoloAttention,
    plain.FastvitAttention,
    plain.NestAttention,
    plain.DavitWindowAttention,
    plain.TwinsLocalAttention,
    plain.TwinsGlobalAttention,
    plain.PvtAttention,
    plain.NextvitAttention,
    plain.CrossvitAttention,
    plain.CaitClassAttention,
    plain.LatentPool,
    biased.BeitAttention,
    biased.RelPosAttention,
    biased.GcvitAttention,
    biased.SwinV2Attention,
    biased.SwinV2CrAttention,
    biased.RopeAttention,
    biased.EvaAttention,
    biased.ConvitGPSA,
    channel.XcitAttention,
    channel.EdgenextAttention,
    channel.DavitChannelAttention,
    channel.DavitChannelAttentionV2,
    channel.CoatAttention,
    channel.VoloOutlookAttention,
    channel.NextvitConvAttention,
    mixed.CaitTalkingHeads,
    mixed.EfficientFormerTalkingHeads,
    mixed.DiffAttention,
    mixed.ParallelScalingBlock,
    mixed.DiffParallelScalingBlock,
)

RESIZABLE: dict[type[nn.Module], type[Resizable]] = {
    replacement.__bases__[-1]: replacement for replacement in _REPLACEMENTS
}
"""For each stock class the replacement that is made from an instance of it and computes the same."""
