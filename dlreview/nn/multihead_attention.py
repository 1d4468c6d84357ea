"""Attention with the arguments of torch.nn.MultiheadAttention, for scripts written for that class.

Vaswani et al. 2017, arXiv:1706.03762. `dlreview.nn.attention` computes it; this file has torch's
names, its masks, in which True or minus infinity hides a key, and its options that add a key to
every sequence.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dlreview.nn.attention import (
    MultiHeadAttention,
    attention_weights,
    combine_heads,
    compute_attention,
    split_heads,
)

PaddingMask = Bool[Tensor, "batch keys"] | Float[Tensor, "batch keys"]
PairMask = (
    Bool[Tensor, "queries keys"]
    | Float[Tensor, "queries keys"]
    | Bool[Tensor, "batch_heads queries keys"]
    | Float[Tensor, "batch_heads queries keys"]
)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask that is True at hidden keys into numbers to add to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)


class MultiheadAttention(nn.Module):
    """Attend as torch.nn.MultiheadAttention(batch_first=True) does.

    `key_bias` adds a learned key and value to every sequence (torch's `add_bias_kv`), `zero_key` a
    key and value of zeros (`add_zero_attn`).

    Raises:
        ValueError: See `MultiHeadAttention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        key_width: int | None = None,
        value_width: int | None = None,
        bias: bool = True,
        key_bias: bool = False,
        zero_key: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            width,
            heads,
            key_width or width,
            value_width or width,
            bias=bias,
            output_bias=bias,
            dropout=dropout,
        )
        self.width, self.heads = width, heads
        self.key_width, self.value_width = key_width, value_width
        self.bias, self.key_bias, self.zero_key = bias, key_bias, zero_key
        self.dropout = dropout
        self.b_k = nn.Parameter(torch.randn(1, 1, width) * width**-0.5) if key_bias else None
        self.b_v = nn.Parameter(torch.randn(1, 1, width) * width**-0.5) if key_bias else None

    def mask(
        self,
        key_padding_mask: PaddingMask | None,
        attn_mask: PairMask | None,
        added: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "#batch #heads #queries keys_and_added"] | None:
        """Sum the two masks; every query sees the `added` keys at the end."""
        masks = []
        if key_padding_mask is not None:
            masks.append(rearrange(additive_mask(key_padding_mask, dtype), "b m -> b 1 1 m"))
        if attn_mask is not None:
            pairs = additive_mask(attn_mask, dtype)
            pairs = pairs if pairs.ndim == 3 else repeat(pairs, "n m -> h n m", h=self.heads)
            masks.append(rearrange(pairs, "(b h) n m -> b h n m", h=self.heads))
        return F.pad(sum(masks[1:], masks[0]), (0, added)) if masks else None

    def forward(
        self,
        query: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch keys key_width"],
        value: Float[Tensor, "batch keys value_width"],
        key_padding_mask: PaddingMask | None = None,
        need_weights: bool = True,
        attn_mask: PairMask | None = None,
        average_attn_weights: bool = True,
    ) -> tuple[Float[Tensor, "batch queries width"], Float[Tensor, "batch *heads_n_m"] | None]:
        """Return the output and the weights, averaged over the heads.

        Without `need_weights` the fused kernel computes the output, and the weights are None.
        """
        same = key is query and value is query
        q, k, v = (
            self.attention.project(query) if same else self.attention.project(query, key, value)
        )
        for b_k, b_v in self.extra_keys(k):
            k, v = torch.cat([k, b_k], dim=2), torch.cat([v, b_v], dim=2)
        added = k.shape[2] - key.shape[1]
        mask = self.mask(key_padding_mask, attn_mask, added, q.dtype)
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            heads = compute_attention(q, k, v, mask, dropout=dropout)
            return self.attention.W_o(combine_heads(heads)), None
        weights = attention_weights(q, k, mask)
        if dropout:  # F.dropout draws and multiplies at rate 0 too
            weights = F.dropout(weights, dropout)
        output = self.attention.W_o(combine_heads(weights @ v))
        if not average_attn_weights:
            return output, weights
        # Not `mean`: its backward pass copies the gradient to every head before it divides.
        return output, weights.sum(dim=1) / self.heads

    def extra_keys(
        self, k: Float[Tensor, "batch heads keys d"]
    ) -> list[tuple[Float[Tensor, "batch heads 1 d"], Float[Tensor, "batch heads 1 d"]]]:
        """List the keys and values that are added to every sequence."""
        batch, pairs = k.shape[0], []
        if self.b_k is not None and self.b_v is not None:
            b_k, b_v = (b.expand(batch, -1, -1) for b in (self.b_k, self.b_v))
            pairs.append((split_heads(b_k, self.heads), split_heads(b_v, self.heads)))
        if self.zero_key:
            zeros = torch.zeros_like(k[:, :, :1])
            pairs.append((zeros, zeros))
        return pairs
