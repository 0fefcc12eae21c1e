"""Which stand-in takes the place of which of timm's modules, once it is to hold fewer heads than it was built for."""

from torch import nn

from xpruner._compat import declare_torchvision_ops
from xpruner.units import resizable_biased as biased
from xpruner.units import resizable_channel as channel
from xpruner.units import resizable_mixed as mixed
from xpruner.units import resizable_plain as plain
from xpruner.units.resizable_base import Resizable

declare_torchvision_ops()

_STAND_INS: tuple[type[Resizable], ...] = (
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

RESIZABLE: dict[type[nn.Module], type[Resizable]] = {stand_in.__bases__[-1]: stand_in for stand_in in _STAND_INS}
"""For each stock class the stand-in that is made from an instance of it and computes the same."""
