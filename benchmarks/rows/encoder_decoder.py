"""EncoderDecoder and transformers' MarianMTModel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pair import Pair, Row


def marian(device: str, batch: int, length: int, **sizes: Any) -> Pair:
    """Build a translator and sentences of random tokens, of which the last few are padding."""
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        **sizes, scale_embedding=True, dropout=0.0, use_cache=False, attn_implementation="sdpa",
        pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    theirs = MarianMTModel(config).to(device)
    source, target, label = torch.randint(sizes["vocab_size"], (3, batch, length), device=device)
    mask = torch.ones_like(source)
    mask[::2, -length // 4 :] = 0
    return Pair(
        theirs,
        (source, mask, target),
        own_inputs=(source, target, mask),
        output=lambda output: output.logits,
        loss=lambda logits: F.cross_entropy(logits.float().flatten(0, 1), label.flatten()),
    )


def of(width: int, depth: int, heads: int, vocabulary_size: int, length: int) -> dict[str, Any]:
    """Return the sizes of a configuration whose encoder and decoder are alike."""
    sizes: dict[str, Any] = {"vocab_size": vocabulary_size, "d_model": width}
    sizes["max_position_embeddings"] = length
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": depth, f"{side}_attention_heads": heads}
        sizes[f"{side}_ffn_dim"] = 4 * width
    return sizes


SMALL = of(width=128, depth=2, heads=4, vocabulary_size=1000, length=64)
OPUS = of(width=512, depth=6, heads=8, vocabulary_size=58101, length=512)  # opus-mt-en-de
ROWS = [
    Row("EncoderDecoder opus-mt batch 64x64", cuda=lambda: marian("cuda", 64, 64, **OPUS)),
    Row("EncoderDecoder 128x2 batch 16x32", cpu=lambda: marian("cpu", 16, 32, **SMALL)),
]
