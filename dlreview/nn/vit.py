"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), eqs. 1-4, rows 37 and 42.

An image is read as a sentence of patches. With register tokens (Darcet et al. 2024,
arXiv:2309.16588), layer scale and SwiGLU networks it is the ViT of DINOv2 (Oquab et al. 2024,
arXiv:2304.07193).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.inputs import check_images, check_size
from dlreview.nn.norm import LayerNorm
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import AverageOfHeads, ClassToken, Mean
from dlreview.nn.positions import LearnedPositions
from dlreview.nn.transformer import Block, Encoder

Images = Float[Tensor, "batch channels rows columns"]


def drop_tokens(
    x: Float[Tensor, "batch tokens width"], rate: float, prefix: int
) -> Float[Tensor, "batch kept width"]:
    """Keep a random share 1 - `rate` of the patches of every image, and all special tokens.

    Li et al. 2023, arXiv:2212.00794.
    """
    patches = x.shape[1] - prefix
    keep = max(1, int(patches * (1 - rate)))
    order = torch.rand(x.shape[0], patches, device=x.device).argsort(dim=1)[:, :keep] + prefix
    chosen = x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
    return torch.cat([x[:, :prefix], chosen], dim=1)


class ViT(nn.Module):
    """Classify images; pixels in any affine scale, sizes in pixels: one number or (height, width).

    `image_size` is the size to train on; calls may have other sizes. The tokens are the class
    token, `registers` extra tokens without output, then the patches row by row. `mask_token` learns
    a vector that replaces hidden patches. Without `num_classes` (None or 0) the network returns the
    pooled feature. By default the parts are the paper's: `embedding` of patches, learned
    `positions`, a pre-norm `block`, which is copied `depth` times, a `norm` of all tokens,
    `pooling` of the class token (without one, the mean). `input_norm` acts before the blocks,
    `head_norm` after the pooling. In training `drop_path` acts as in `Encoder`, `drop_tokens` drops
    patches, `head_dropout` features.

    Raises:
        ValueError: `image_size` is not divisible by `patch_size`, `width` not by `heads`, a size
            is below 1, a rate is not in [0, 1), or `block` has other sizes.
    """

    def __init__(  # 20 arguments: sizes, and each part in which timm's and transformers' ViTs vary
        self,
        image_size: int | list[int],
        patch_size: int | list[int],
        width: int,
        depth: int,
        heads: int,
        num_classes: int | None = None,
        image_channels: int = 3,
        class_token: bool = True,
        registers: int = 0,
        mask_token: bool = False,
        embedding: PatchEmbedding | None = None,
        positions: nn.Module | None = None,
        input_norm: nn.Module | None = None,
        block: Block | None = None,
        norm: nn.Module | None = None,
        pooling: nn.Module | None = None,
        head_norm: nn.Module | None = None,
        drop_path: float | list[float] = 0.0,
        drop_tokens: float = 0.0,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.image_channels, self.num_classes = image_channels, num_classes
        self.width, self.depth, self.heads = width, depth, heads
        self.class_token, self.registers, self.mask_token = class_token, registers, mask_token
        self.drop_path, self.drop_tokens, self.head_dropout = drop_path, drop_tokens, head_dropout
        self.__dict__["block"] = block  # a template, as in Encoder
        self.check_arguments()
        self.embedding = embedding or PatchEmbedding(patch_size, width, image_channels)
        self.make_tokens(positions)
        self.input_norm = input_norm
        self.encoder = Encoder(block or Block(width, heads), depth, drop_path)
        self.norm = norm or LayerNorm(width)
        self.pooling = pooling or (ClassToken() if class_token else Mean())
        self.head_norm = head_norm
        self.head = self.make_head()
        self.initialise()

    def check_arguments(self) -> None:
        """Refuse sizes and rates outside their ranges, and a block of other sizes."""
        check_at_least(1, width=self.width, depth=self.depth, heads=self.heads)
        check_at_least(1, image_channels=self.image_channels)
        check_at_least(0, num_classes=self.num_classes, registers=self.registers)
        check_share(drop_tokens=self.drop_tokens, head_dropout=self.head_dropout)
        for name in () if self.block is None else ("width", "heads"):
            size, of_block = getattr(self, name), getattr(self.block, name)
            if of_block != size:
                raise ValueError(f"{name} of block must be {name} {size}, got {of_block}")

    def make_tokens(self, positions: nn.Module | None) -> None:
        """Create the learned vectors of the special tokens and, if not given, the positions."""
        grid = self.embedding.grid(*as_pair(self.image_size, "image_size"))
        width, registers = self.width, self.registers
        self.prefix = int(self.class_token) + registers
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width)) if self.class_token else None
        self.register_embeddings = (
            nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        )
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, width)) if self.mask_token else None
        self.positions = positions or LearnedPositions(list(grid), width, self.prefix)

    def make_head(self) -> nn.Module:
        """Create the linear classifier, or several; without `num_classes` the identity."""
        features = getattr(self.pooling, "output_width", self.width)
        heads = getattr(self.pooling, "heads_of_tokens", None)
        if heads is not None:
            return AverageOfHeads(features, self.num_classes or 0, heads)
        return nn.Linear(features, self.num_classes) if self.num_classes else nn.Identity()

    def initialise(self) -> None:
        """Draw small weights, as the paper's authors do."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for special in (self.class_embedding, self.register_embeddings):
            if special is not None:
                nn.init.normal_(special, std=0.02)

    def embed(
        self, images: Images, hidden: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Project patches, prepend the special tokens, add positions (eq. 1).

        The mask token replaces the patches that are `hidden`.

        Raises:
            ValueError: The images have other channels, or a size that `remainder` refuses.
        """
        check_images(images, self.embedding.image_channels)
        patches = self.embedding(images)
        if hidden is not None:
            check_size("patches of hidden", hidden, 1, patches.shape[1])
            if self.mask_embedding is None:
                raise ValueError("mask_token must be True for hidden patches, got False")
            patches = torch.where(hidden[..., None], self.mask_embedding, patches)
        specials = (self.class_embedding, self.register_embeddings)
        prefix: list[Tensor] = [special for special in specials if special is not None]
        joined = torch.cat(prefix, dim=1) if prefix else patches.new_empty(1, 0, self.width)
        x = self.positions(joined, patches, self.embedding.grid(*images.shape[-2:]))
        if self.drop_tokens and self.training:
            x = drop_tokens(x, self.drop_tokens, self.prefix)
        return x if self.input_norm is None else self.input_norm(x)

    def tokens(
        self, images: Images, hidden: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Encode an image and return all tokens, after the last norm (eqs. 1-3)."""
        return self.norm(self.encoder(self.embed(images, hidden)))

    def features(
        self, images: Images, hidden: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch *features"]:
        """Return the pooled feature, which is the input of the head.

        If the pooling reads only the class token, the last block computes no other.
        """
        first = getattr(self.pooling, "reads", None)
        x = self.norm(self.encoder(self.embed(images, hidden), first=first))
        pooled = self.pooling(x, self.prefix)
        return pooled if self.head_norm is None else self.head_norm(pooled)

    def forward(
        self, images: Images, hidden: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch *classes"]:
        """Return the logits (eq. 4), without `num_classes` the features."""
        x = self.features(images, hidden)
        return self.head(F.dropout(x, self.head_dropout, self.training) if self.head_dropout else x)

    def attention_maps(self, images: Images) -> Float[Tensor, "depth batch heads tokens tokens"]:
        """Return the attention weights of all tokens in every layer (row 42)."""
        return torch.stack(self.encoder.attention_weights(self.embed(images)))
