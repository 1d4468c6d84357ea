"""BERT with a masked-token head and transformers' BertForMaskedLM, on texts with padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pair import Pair, Row


def bert(device: str, batch: int, length: int, **sizes: int) -> Pair:
    """Build a network without dropout, whose outputs can be compared, and random texts."""
    from transformers import BertConfig, BertForMaskedLM

    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(attn_implementation="sdpa", **sizes, **rates)
    theirs = BertForMaskedLM(config).to(device).train()
    ids = torch.randint(config.vocab_size, (batch, length), device=device)
    lengths = torch.linspace(length // 2, length, batch, device=device).long()
    mask = (torch.arange(length, device=device) < lengths[:, None]).long()
    targets = ids.masked_fill(mask == 0, -100).flatten()
    return Pair(
        theirs,
        (ids, mask),
        output=lambda output: output.logits,
        loss=lambda logits: F.cross_entropy(logits.flatten(0, 1).float(), targets),
    )


SMALL = {"vocab_size": 4000, "hidden_size": 192, "intermediate_size": 768}
SMALL |= {"num_hidden_layers": 4, "num_attention_heads": 6, "max_position_embeddings": 128}
ROWS = [
    Row("BERT-base 64 x 512", cuda=lambda: bert("cuda", 64, 512)),
    Row("BERT 192x4 16 x 128", cpu=lambda: bert("cpu", 16, 128, **SMALL)),
]
