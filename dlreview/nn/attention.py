"""Attention (Vaswani et al. 2017, arXiv:1706.03762), rows 25-27 of the review.

MultiHead(X) = W_O Concat(head_1 ... head_h), head_i = Attention(W_Q^i X, W_K^i X, W_V^i X), in the
review's steps: project, `split_heads`, `compute_attention`, `combine_heads`, project.

Masks: in a boolean or integer mask 1 keeps a key and 0 hides it; a float mask is added to scores.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_divisible, check_share
from dlreview.nn.cache import LayerCache, Projection
from dlreview.nn.inputs import check_size

ScoreMask = Shaped[Tensor, "*#batch #heads #queries #keys"]
TokenMask = (
    Shaped[Tensor, "#batch #keys"]
    | Shaped[Tensor, "#batch #queries #keys"]
    | Shaped[Tensor, "#batch #heads #queries #keys"]
)


def split_heads(
    x: Float[Tensor, "batch tokens width"], heads: int
) -> Float[Tensor, "batch {heads} tokens head_width"]:
    """Split the width of every token into heads (row 27)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def combine_heads(
    x: Float[Tensor, "batch heads tokens head_width"],
) -> Float[Tensor, "batch tokens width"]:
    """Concatenate the heads of every token (row 27)."""
    return x.transpose(1, 2).flatten(2)


def causal_mask(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "queries keys"]:
    """Let each query see the keys up to its own position; the last query is at the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def join_masks(
    mask: ScoreMask | None, causal: bool, q: Float[Tensor, "*b n d"], k: Float[Tensor, "*b m d"]
) -> ScoreMask | Bool[Tensor, "n m"] | None:
    """Combine `mask` and the causal mask into one, boolean or additive."""
    if mask is not None:
        mask = mask.to(q.dtype) if mask.is_floating_point() else mask.bool()
    if not causal or q.shape[-2] == 1:  # the last token sees all
        return mask
    triangle = causal_mask(q.shape[-2], k.shape[-2], q.device)
    if mask is None:
        return triangle
    return mask & triangle if mask.dtype == torch.bool else mask.masked_fill(~triangle, -torch.inf)


def attention_weights(
    q: Float[Tensor, "*b h n d"],
    k: Float[Tensor, "*b h m d"],
    mask: ScoreMask | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "*b h n m"]:
    """Compute softmax(Q K^T / sqrt(d_k)) of row 25; a query that may see no key gets zeros."""
    # Scale the queries, not the scores: there are fewer of them.
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = q @ k.mT
    mask = join_masks(mask, causal, q, k)
    if mask is None:
        return scores.softmax(dim=-1)
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(dim=-1)
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).masked_fill(~mask, 0)


def compute_attention(
    q: Float[Tensor, "*b h n d"],
    k: Float[Tensor, "*b h m d"],
    v: Float[Tensor, "*b h m e"],
    mask: ScoreMask | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Float[Tensor, "*b h n e"]:
    """Compute Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V (row 25) by the fused kernel.

    `scale` replaces 1/sqrt(d_k); `dropout` is the share of weights set to zero.

    Raises:
        ValueError: there are more or fewer values than keys.
    """
    check_size("tokens of v", v, -2, k.shape[-2])  # the kernel would read beyond its memory
    # The kernel aligns its causal mask with the first key, ours with the last: if the numbers of
    # queries and keys are equal, both masks are.
    if causal and mask is None and q.shape[-2] == k.shape[-2]:
        masks: dict[str, Any] = {
            "is_causal": True
        }  # not the comparison: a compiler may not know its value
    else:
        masks = {"attn_mask": join_masks(mask, causal, q, k)}
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, **masks)


def broadcast_mask(mask: TokenMask | None) -> ScoreMask | None:
    """Add the missing axes to a mask over keys, or over queries and keys."""
    if mask is None or mask.ndim == 4:
        return mask
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


class MultiHeadAttention(nn.Module):
    """Let every token of `query` attend to the tokens of `key` and `value` (row 27).

    `key_width` and `value_width` are the widths of the key and value tokens (row 100), by default
    `width` and `key_width`. `head_width` is d_k, by default width / heads. `query_norm` and
    `key_norm` act on each head, `output_norm` on the combined heads, `dropout` on the weights while
    training.

    Raises:
        ValueError: A size is below 1, `dropout` is not in [0, 1), or `width` is not divisible by
            `heads` and no `head_width` is given.
    """

    def __init__(  # 12 arguments: the options of all three libraries' attention layers
        self,
        width: int,
        heads: int,
        key_width: int | None = None,
        value_width: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        output_bias: bool = True,
        dropout: float = 0.0,
        scale: float | None = None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        output_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, width=width, heads=heads, key_width=key_width)
        check_at_least(1, value_width=value_width, head_width=head_width)
        if head_width is None:
            check_divisible("width", width, "heads", heads)
        check_share(dropout=dropout)
        self.width, self.heads, self.head_width = width, heads, head_width
        self.key_width, self.value_width = key_width, value_width
        self.bias, self.output_bias = bias, output_bias
        self.dropout, self.scale = dropout, scale
        inner = heads * (head_width or width // heads)
        self.W_q = nn.Linear(width, inner, bias=bias)
        self.W_k = nn.Linear(key_width or width, inner, bias=bias)
        self.W_v = nn.Linear(value_width or key_width or width, inner, bias=bias)
        self.W_o = nn.Linear(inner, width, bias=output_bias)
        self.query_norm, self.key_norm, self.output_norm = query_norm, key_norm, output_norm

    def queries(self, query: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch h n d"]:
        """Compute Q, split into heads (row 26, step 1)."""
        q = split_heads(self.W_q(query), self.heads)
        return q if self.query_norm is None else self.query_norm(q)

    def keys(self, key: Float[Tensor, "batch m key_width"]) -> Float[Tensor, "batch h m d"]:
        """Compute K, split into heads."""
        k = split_heads(self.W_k(key), self.heads)
        return k if self.key_norm is None else self.key_norm(k)

    def values(self, value: Float[Tensor, "batch m value_width"]) -> Float[Tensor, "batch h m d"]:
        """Compute V, split into heads."""
        return split_heads(self.W_v(value), self.heads)

    def join_weights(self) -> Projection:
        """Copy the weights and biases of W_q, W_k and W_v below each other."""
        weight = torch.cat([self.W_q.weight, self.W_k.weight, self.W_v.weight])
        bias = torch.cat([self.W_q.bias, self.W_k.bias, self.W_v.bias]) if self.bias else None
        return weight, bias

    def project(
        self,
        query: Float[Tensor, "batch n width"],
        key: Float[Tensor, "batch m key_width"] | None = None,
        value: Float[Tensor, "batch m value_width"] | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[
        Float[Tensor, "batch h n d"], Float[Tensor, "batch h m d"], Float[Tensor, "batch h m d"]
    ]:
        """Compute queries, keys and values, split into heads.

        Raises:
            ValueError: tokens have another width, or keys are more or fewer than values.
        """
        check_size("width of query", query, -1, self.width)
        if key is not None:
            value = key if value is None else value
            check_size("width of key", key, -1, self.W_k.in_features)
            check_size("width of value", value, -1, self.W_v.in_features)
            check_size("tokens of value", value, 1, key.shape[1])
        # An exported program serves any number of tokens, and must not ask for it.
        few = not torch.compiler.is_exporting() and query.shape[0] * query.shape[1] < self.width
        if key is not None or (few and cache is None):
            key = query if key is None else key
            return self.queries(query), self.keys(key), self.values(key if value is None else value)
        # One product for all three reads the tokens only once, which is worth a copy of the
        # weights, unless the tokens are few. A cache keeps the copy for the next tokens.
        weight, bias = self.join_weights() if cache is None else cache.project(self.join_weights)
        joined = F.linear(query, weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = (x.transpose(1, 2) for x in joined.unbind(2))
        q = q if self.query_norm is None else self.query_norm(q)
        k = k if self.key_norm is None else self.key_norm(k)
        return q, k, v

    def attend(
        self,
        q: Float[Tensor, "batch h n d"],
        k: Float[Tensor, "batch h m d"],
        v: Float[Tensor, "batch h m d"],
        mask: TokenMask | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch n width"]:
        """Compute the heads from Q, K and V, and combine them."""
        dropout = self.dropout if self.training else 0.0
        heads = compute_attention(q, k, v, broadcast_mask(mask), causal, dropout, self.scale)
        combined = combine_heads(heads)
        return self.W_o(combined if self.output_norm is None else self.output_norm(combined))

    def weights(
        self,
        query: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch keys key_width"] | None = None,
        mask: TokenMask | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch heads queries keys"]:
        """Return the weight of every key for every query, as `forward` uses them."""
        q, k = self.queries(query), self.keys(query if key is None else key)
        return attention_weights(q, k, broadcast_mask(mask), causal, self.scale)

    def forward(
        self,
        query: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch keys key_width"] | None = None,
        value: Float[Tensor, "batch keys value_width"] | None = None,
        mask: TokenMask | None = None,
        causal: bool = False,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Attend; `key` is by default `query`, and `value` is by default `key`.

        With a `cache` the queries meet the keys of earlier calls too; `mask` covers all keys.
        """
        q, k, v = self.project(query, key, value, cache)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.attend(q, k, v, mask, causal)
