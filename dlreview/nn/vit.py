"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), eqs. 1-4, rows 37 and 42.

An image is read as a sentence of patches. With register tokens (Darcet et al. 2024,
arXiv:2309.16588), layer scale and a SwiGLU network in its block it is the ViT of DINOv2 (Oquab et
al. 2024, arXiv:2304.07193).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dlreview.nn.norm import LayerNorm
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import ClassToken, Mean
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

    `image_size` is the size to train on; others may be given later. The tokens are the class token,
    `registers` that nothing reads, then the patches row by row. `mask_token` learns a stand-in for
    patches that are hidden. Without `num_classes` (None, or 0 classes) the network gives the pooled
    feature. Parts that are not given are the paper's: `embedding` of patches, learned `positions`,
    a pre-norm `block` that is copied `depth` times, a `norm` of all tokens, `pooling` of the class
    token (without one, the mean). `input_norm` comes before the blocks, `head_norm` after the
    pooling. While training `drop_path` acts as in `Encoder`, `drop_tokens` leaves out patches,
    `head_dropout` features.

    Raises:
        ValueError: `image_size` is not a multiple of `patch_size`, `width` not of `heads`, a size
            is not positive, a rate not in [0, 1), or `block` has other sizes.
    """

    def __init__(
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
        sizes = {"width": width, "depth": depth, "heads": heads, "image_channels": image_channels}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be positive, not {size}")
        if (num_classes or 0) < 0 or registers < 0:
            raise ValueError(f"num_classes {num_classes}, registers {registers}: below 0")
        for name, rate in {"drop_tokens": drop_tokens, "head_dropout": head_dropout}.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be in [0, 1), not {rate}")
        if block is not None and (block.width, block.heads) != (width, heads):
            raise ValueError(
                f"width {width}, heads {heads}: block has {block.width}, {block.heads}"
            )
        self.image_size, self.patch_size = image_size, patch_size
        self.image_channels, self.num_classes = image_channels, num_classes
        self.width, self.depth, self.heads = width, depth, heads
        self.class_token, self.registers, self.mask_token = class_token, registers, mask_token
        self.drop_path, self.drop_tokens, self.head_dropout = drop_path, drop_tokens, head_dropout
        self.__dict__["block"] = block  # a mould, as in Encoder

        self.embedding = embedding or PatchEmbedding(patch_size, width, image_channels)
        grid = self.embedding.grid(*as_pair(image_size, "image_size"))
        self.prefix = int(class_token) + registers
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.register_embeddings = (
            nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        )
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, width)) if mask_token else None
        self.positions = positions or LearnedPositions(list(grid), width, self.prefix)
        self.input_norm = input_norm
        self.encoder = Encoder(block or Block(width, heads), depth, drop_path)
        self.norm = norm or LayerNorm(width)
        self.pooling = pooling or (ClassToken() if class_token else Mean())
        self.head_norm = head_norm
        features = getattr(self.pooling, "output_width", width)
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self._start()

    def _start(self) -> None:
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
        """Eq. 1: project patches, prepend the special tokens, add positions.

        Patches that are `hidden` are replaced by the mask token.
        """
        patches = self.embedding(images)
        if hidden is not None:
            if self.mask_embedding is None:
                raise ValueError("hidden patches need a network with mask_token=True")
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
        """Eq. 1-3: encode an image to all its tokens, after the last norm."""
        return self.norm(self.encoder(self.embed(images, hidden)))

    def features(self, images: Images) -> Float[Tensor, "batch *features"]:
        """Pool the tokens: what the head sees.

        Where the pooling reads only the class token, the last block computes no other.
        """
        first = getattr(self.pooling, "reads", None)
        x = self.norm(self.encoder(self.embed(images), first=first))
        pooled = self.pooling(x, self.prefix)
        return pooled if self.head_norm is None else self.head_norm(pooled)

    def forward(self, images: Images) -> Float[Tensor, "batch *classes"]:
        """Eq. 4: classify; without `num_classes` give the features."""
        x = self.features(images)
        return self.head(F.dropout(x, self.head_dropout, self.training) if self.head_dropout else x)

    def attention_maps(self, images: Images) -> Float[Tensor, "depth batch heads tokens tokens"]:
        """Show what every token takes from every token, layer by layer (row 42)."""
        return torch.stack(self.encoder.attention_weights(self.embed(images)))
