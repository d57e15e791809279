# SPDX-License-Identifier: Apache-2.0
"""
What a segmenter is made of: dataclasses with the only defaults there are, and the presets.

Sizes are (height, width) in pixels. A configuration is read by :mod:`dgtl_core.strict`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
import math
from typing import Literal

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.strict import suggestion

# name: (embed_dim, depth, num_heads) of the named variants; a family's own name leaves them free
BACKBONES: dict[str, tuple[int, int, int] | None] = {
    'vit': None, 'dinov2': None, 'dinov2-reg': None, 'dinov3': None, 'eva02': None,
    'clip': None, 'siglip2': None,
    'mini': (192, 8, 3),
    'dinov2-s': (384, 12, 6), 'dinov2-b': (768, 12, 12), 'dinov2-l': (1024, 24, 16),
    'dinov2-s-reg': (384, 12, 6), 'dinov2-b-reg': (768, 12, 12), 'dinov2-l-reg': (1024, 24, 16),
    'dinov3-s': (384, 12, 6), 'dinov3-b': (768, 12, 12), 'dinov3-l': (1024, 24, 16),
    'eva02-l': (1024, 24, 16),
    'clip-b': (768, 12, 12), 'clip-l': (1024, 24, 16),
    'siglip2-b': (768, 12, 12), 'siglip2-l': (1024, 24, 16),
}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """
    The vision transformer.

    ``embed_dim``, ``depth`` and ``num_heads`` belong to the names without a size ("dinov2",
    "eva02", "vit", ...); a named variant ("dinov2-l") brings its own, see :attr:`sizes`.
    """

    name: str = 'dinov2-l'
    patch_size: int = 16
    img_size: tuple[int, int] = (512, 512)  # the picture that the position embedding is made for
    embed_dim: int = 0  # 0: the variant's
    depth: int = 0
    num_heads: int = 0
    # 'conv': convolutions in place of the patch projection, whose finer maps go to a light head;
    # for a network that learns without pretraining.
    stem: Literal['patch', 'conv'] = 'patch'
    out_indices: tuple[int, ...] = (7, 11, 15, 23)  # blocks whose patch features the neck takes
    # How the position embedding follows another picture size: 'scale' is DINOv2's rule (bicubic
    # by scale factor), 'size' is plain bicubic, 'fixed' refuses (VLTSeg's code).
    positions: Literal['scale', 'size', 'fixed'] = 'scale'
    attn_norm: bool = True  # EVA02 only: the layer norm inside the attention of the CLIP tower
    drop_path: float = 0.0  # stochastic depth of the last block, linear from 0
    trainable: bool = False
    weights: str = ''  # '' random, 'timm' the published ones by name, else a file

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            raise ValueError(
                f'unknown backbone.name {self.name!r}{suggestion(self.name, BACKBONES)}')
        variant = BACKBONES[self.name]
        given = (self.embed_dim, self.depth, self.num_heads)
        if variant is None and min(given) <= 0:
            raise ValueError(
                f'backbone {self.name!r} has no size of its own: give embed_dim, depth and '
                f'num_heads (got {given}) or choose one of {_sized(self.name)}')
        if variant is not None and any(g not in (0, v) for g, v in zip(given, variant)):
            raise ValueError(
                f'backbone {self.name!r} has (embed_dim, depth, num_heads) {variant}, got {given};'
                f' leave them out, or take the family name {self.name.split("-")[0]!r}')
        embed_dim, depth, num_heads = self.sizes
        if embed_dim % num_heads:
            raise ValueError(
                f'backbone.embed_dim must be a multiple of num_heads ({num_heads}), '
                f'got {embed_dim}')
        indices = self.out_indices
        if len(indices) != 4 or list(indices) != sorted(set(indices)) or indices[0] < 0 \
                or indices[-1] >= depth:
            raise ValueError(
                f'backbone.out_indices must be four rising block numbers in 0..{depth - 1}, '
                f'got {list(indices)}')
        if self.patch_size <= 0 or min(self.img_size) < self.patch_size:
            raise ValueError(
                f'backbone.img_size must be at least one patch ({self.patch_size}), '
                f'got {list(self.img_size)}')
        if not 0 <= self.drop_path < 1:
            raise ValueError(f'backbone.drop_path must be in [0, 1), got {self.drop_path}')
        if self.stem == 'conv' and (self.patch_size not in (16, 32) or not self.trainable):
            raise ValueError(
                "backbone.stem 'conv' has no published weights and a stride of 16 or 32: set "
                f'backbone.trainable true and patch_size 16 or 32, got {self.trainable} and '
                f'{self.patch_size}')

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(embed_dim, depth, num_heads)."""
        return BACKBONES[self.name] or (self.embed_dim, self.depth, self.num_heads)

    @property
    def family(self) -> str:
        """The name without its size: vit, dinov2, dinov2-reg, dinov3, eva02, clip, siglip2."""
        if self.name == 'mini':
            return 'vit'
        return '-'.join(part for part in self.name.split('-') if part not in ('s', 'b', 'l'))


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Learnable tokens linked to features, texts and masks."""

    method: Literal['dgtl', 'rein', 'none'] = 'dgtl'
    num_tokens: int = 100  # learnable tokens per backbone block
    rank: int = 16  # tokens are (num_tokens, rank) @ (rank, embed_dim); 0: stored in full
    # 'present': the classes in the labels, while training (released); 'all': every class, always
    text_link: Literal['off', 'present', 'all'] = 'present'
    mask_link: bool = True
    scale: float = 0.001  # initial weight of the feature link
    # Ours, for short training: the link's last projection starts at zero, so that the first step
    # sees the backbone's own features (take scale 1); queries come from normalised tokens.
    zero_start: bool = False
    query_norm: bool = False

    def __post_init__(self) -> None:
        if self.num_tokens < 2:
            raise ValueError(f'adapter.num_tokens must be at least 2, got {self.num_tokens}')
        if not 0 <= self.rank <= self.num_tokens:
            raise ValueError(
                f'adapter.rank must be in 1..num_tokens ({self.num_tokens}), or 0 for full '
                f'tokens, got {self.rank}')
        if self.method != 'dgtl' and (self.text_link != 'off' or self.mask_link):
            raise ValueError(
                f"adapter.method {self.method!r} has no text link and no mask link: set text_link "
                f"'off' and mask_link false (got {self.text_link!r}, {self.mask_link}), or take "
                "method 'dgtl'")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Class text embeddings; they live in a buffer of the model and in every checkpoint."""

    file: str = ''  # .npz made by training.embed_classes; '' leaves them for the checkpoint
    width: int = 1024  # of one embedding (RN50; ViT-B/16 has 512)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The Mask2Former head: deformable pixel decoder and masked-attention decoder."""

    kind: Literal['mask2former'] = 'mask2former'
    hidden_dim: int = 256
    num_heads: int = 8
    num_queries: int = 100
    queries: Literal['tokens', 'learned'] = 'tokens'  # made from the adapter's tokens, or free
    encoder_layers: int = 6
    encoder_feedforward: int = 1024
    num_points: int = 4  # sampled per head and level
    decoder_layers: int = 9
    decoder_feedforward: int = 2048

    @property
    def fixed(self) -> bool:
        """Whether query c stands for class c: in this head a matcher finds what each means."""
        return False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int) and value <= 0:
                raise ValueError(f'head.{item.name} must be positive, got {value}')
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise ValueError(
                f'head.hidden_dim must be a multiple of 32 (group norm) and of num_heads '
                f'({self.num_heads}), got {self.hidden_dim}')


@dataclass(frozen=True, kw_only=True)
class LightHeadConfig:
    """A head inside the encoder: queries enter its last blocks, masks are dot products."""

    kind: Literal['light'] = 'light'
    num_blocks: int = 4  # which the queries pass with the patches
    # 'last' are those of the backbone; 'own' are new ones behind it, on the sum of the features of
    # out_indices, for a backbone that stays frozen (PMT)
    blocks: Literal['last', 'own'] = 'last'
    # One query for each class, without a matcher: 'texts' from the text of the class, 'classes'
    # free, where there are no texts. Matched queries: 'tokens' from the adapter's, or 'learned'.
    queries: Literal['tokens', 'learned', 'texts', 'classes'] = 'tokens'
    num_queries: int = 100  # of 'tokens' and 'learned'
    # While it learns, a query sees the patches of its own mask alone, and block by block all of
    # them again (EoMT's mask annealing); the loss is then of every block. Inference is the same.
    annealed: bool = False
    # Widths of the steps from the patch grid to 1/4 of the picture, each twice as fine as the one
    # before; (): the backbone's own.
    upscale: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.num_blocks, self.num_queries, *self.upscale) < 1:
            raise ValueError(
                'head.num_blocks, head.num_queries and the widths in head.upscale must be '
                f'positive, got {self.num_blocks}, {self.num_queries} and {list(self.upscale)}')

    @property
    def fixed(self) -> bool:
        """Whether query c stands for class c."""
        return self.queries in ('texts', 'classes')


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A whole segmenter; ``mean`` and ``std`` are RGB, for pixel values 0..255."""

    name: str = 'segmenter'
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    text: TextConfig = field(default_factory=TextConfig)
    neck: Literal['interpolate', 'beit'] = 'interpolate'  # how four scales come from one
    head: HeadConfig | LightHeadConfig = field(default_factory=HeadConfig)
    classes: ClassSet = CITYSCAPES
    input_size: tuple[int, int] = (512, 512)  # of a picture, or of one sliding window
    window_stride: tuple[int, int] = (341, 341)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        adapter, head, patch = self.adapter, self.head, self.backbone.patch_size
        if min(self.input_size) < 2 * patch or self.backbone.positions != 'fixed' and any(
                length % patch for length in self.input_size):
            raise ValueError(
                f'input_size must be multiples of backbone.patch_size ({patch}), at least two '
                f'each way, got {list(self.input_size)}')
        if min(self.std) <= 0:
            raise ValueError(f'std must be positive, got {list(self.std)}')
        if min(self.window_stride) <= 0:
            raise ValueError(f'window_stride must be positive, got {list(self.window_stride)}')
        if adapter.text_link != 'off' and self.text.width <= 0:
            raise ValueError(
                f'adapter.text_link {adapter.text_link!r} needs text.width, the width of one text '
                f'embedding (1024 for RN50, 512 for ViT-B/16), got {self.text.width}')
        if adapter.text_link == 'present' and self.text.width != self.backbone.sizes[0]:
            raise ValueError(
                f"adapter.text_link 'present' multiplies tokens by texts and needs equal widths, "
                f"got text.width {self.text.width} and embed_dim {self.backbone.sizes[0]}; "
                "text_link 'all' learns a projection")
        if isinstance(head, LightHeadConfig):
            self._check_light(head)
        elif self.backbone.stem == 'conv':
            raise ValueError("backbone.stem 'conv' goes with the light head: set head.kind light")
        if head.queries == 'tokens' and adapter.method == 'none':
            raise ValueError(
                "head.queries 'tokens' needs an adapter, got adapter.method 'none'; "
                "take head.queries 'learned'")
        linked = head.queries == 'tokens' or adapter.mask_link
        if linked and head.num_queries != adapter.num_tokens:
            raise ValueError(
                f'each query belongs to one token: head.num_queries must be adapter.num_tokens '
                f'({adapter.num_tokens}), got {head.num_queries}')

    @property
    def patch_steps(self) -> int:
        """How many times a light head doubles the patch grid: at least once (EoMT)."""
        return max(1, int(math.log2(self.backbone.patch_size)) - 2)

    def _check_light(self, head: LightHeadConfig) -> None:
        depth = self.backbone.sizes[1]
        if self.backbone.out_indices[-1] != depth - 1 \
                or head.blocks == 'last' and head.num_blocks > depth:
            raise ValueError(
                f'a light head reads the last block of the backbone: backbone.out_indices must '
                f'end with {depth - 1} and head.num_blocks be at most {depth}, got '
                f'{list(self.backbone.out_indices)} and {head.num_blocks}')
        steps = self.patch_steps
        if len(head.upscale) not in (0, steps):
            raise ValueError(
                f'head.upscale must hold {steps} widths, for the steps from patches of '
                f'{self.backbone.patch_size} to 1/4 of the picture, got {list(head.upscale)}')
        if self.neck != 'interpolate':
            raise ValueError(f'a light head has no neck: leave neck out, got {self.neck!r}')
        if head.queries == 'texts' and self.adapter.text_link == 'off':
            raise ValueError(
                "head.queries 'texts' needs class texts: set adapter.text_link 'all', got 'off'; "
                "or take head.queries 'classes', which needs none")
        if head.fixed and self.adapter.mask_link:
            raise ValueError(
                f'head.queries {head.queries!r} has no tokens to link masks with: set '
                'adapter.mask_link false')

    @property
    def method(self) -> str:
        """The name that goes into a model file: dgtl, rein, vltseg, eomt or mask2former."""
        if self.adapter.method != 'none':
            return self.adapter.method
        if isinstance(self.head, LightHeadConfig):
            return 'eomt'
        return 'vltseg' if self.neck == 'beit' else 'mask2former'

    @property
    def num_classes(self) -> int:
        """How many classes, without "no object"."""
        return len(self.classes)


def _dinov2(method: Literal['dgtl', 'rein'], size: str) -> SegmenterConfig:
    large = size == 'l'
    # The released text link needs texts as wide as the tokens: CLIP RN50's 1024 fits ViT-L only.
    link: Literal['off', 'present', 'all'] = 'off'
    if method == 'dgtl':
        link = 'present' if large else 'all'
    return SegmenterConfig(
        name=f'{method}-dinov2-{size}',
        backbone=BackboneConfig(
            name=f'dinov2-{size}', out_indices=(7, 11, 15, 23) if large else (3, 5, 7, 11)),
        adapter=AdapterConfig(method=method, text_link=link, mask_link=method == 'dgtl'))


def _vltseg() -> SegmenterConfig:
    return SegmenterConfig(
        name='vltseg-eva02-l',
        backbone=BackboneConfig(
            name='eva02-l', patch_size=14, out_indices=(9, 14, 19, 23), positions='fixed',
            attn_norm=False, drop_path=0.2, trainable=True),
        adapter=AdapterConfig(method='none', text_link='off', mask_link=False),
        neck='beit', head=HeadConfig(queries='learned'), window_stride=(426, 426))


def _vltseg_clip() -> SegmenterConfig:
    released = _vltseg()
    return replace(  # whole patches only: 504 = 36 * 14
        released, name='vltseg-eva02-l-clip', input_size=(504, 504), window_stride=(420, 420),
        backbone=replace(
            released.backbone, attn_norm=True, positions='size', img_size=(504, 504)))


def _eva02() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-eva02-l', backbone=BackboneConfig(name='eva02-l', positions='size'),
        adapter=AdapterConfig(text_link='all'), text=TextConfig(width=768))


def _dinov3() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-dinov3-l', backbone=BackboneConfig(name='dinov3-l'),
        adapter=AdapterConfig(text_link='all'))


def _mini() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-mini',
        backbone=BackboneConfig(
            name='mini', img_size=(256, 512), out_indices=(1, 3, 5, 7), positions='size',
            trainable=True),
        adapter=AdapterConfig(num_tokens=50, text_link='all'),
        text=TextConfig(width=512),
        head=HeadConfig(
            hidden_dim=128, num_heads=4, num_queries=50, encoder_layers=3,
            encoder_feedforward=256, decoder_layers=3, decoder_feedforward=512),
        input_size=(256, 512), window_stride=(256, 512))


def _real_time(size: str, patch: int) -> SegmenterConfig:
    large = size == 'l'
    backbone = BackboneConfig(
        name=f'dinov2-{size}', patch_size=patch, img_size=(512, 1024), positions='size',
        out_indices=(7, 11, 15, 23) if large else (3, 5, 7, 11))
    width = backbone.sizes[0]
    # At full width the steps to 1/4 cost a third of what a backbone on patches of 32 does.
    upscale = (width // 2, width // 4) if patch == 16 else (width // 2, width // 4, width // 4)
    return SegmenterConfig(
        name=f'dgtl-rt-{size}' + ('' if patch == 16 else f'-p{patch}'),
        backbone=backbone,
        adapter=AdapterConfig(text_link='all', mask_link=False),
        head=LightHeadConfig(num_blocks=4 if large else 3, queries='texts', upscale=upscale),
        input_size=(512, 1024), window_stride=(512, 1024))


def _rt_mini() -> SegmenterConfig:
    return SegmenterConfig(
        name='dgtl-rt-mini',
        backbone=BackboneConfig(
            name='vit', embed_dim=256, depth=5, num_heads=4, patch_size=32, stem='conv',
            img_size=(384, 768), out_indices=(1, 2, 3, 4), positions='size', trainable=True),
        adapter=AdapterConfig(num_tokens=32, text_link='all', mask_link=False),
        text=TextConfig(width=512),
        head=LightHeadConfig(num_blocks=3, queries='texts', upscale=(128, 96, 64)),
        input_size=(384, 768), window_stride=(384, 768))


PRESETS: dict[str, SegmenterConfig] = {
    config.name: config for config in (
        *(_dinov2('dgtl', size) for size in 'sbl'), *(_dinov2('rein', size) for size in 'sbl'),
        _vltseg(), _vltseg_clip(), _eva02(), _dinov3(), _mini(), _rt_mini(),
        *(_real_time(size, patch) for size in 'sbl' for patch in (16, 32)))}


def preset(name: str) -> SegmenterConfig:
    """
    Return the segmenter configuration of that name.

    :raises ValueError: there is no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise ValueError(f'unknown preset {name!r}{suggestion(name, PRESETS)}')
    return PRESETS[name]


def _sized(family: str) -> list[str]:
    start = family.split('-')[0]
    sized = [name for name, sizes in BACKBONES.items() if sizes]
    return [name for name in sized if name.split('-')[0] == start] or sized
