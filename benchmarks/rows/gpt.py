"""GPT and transformers' GPT2LMHeadModel: one pass, a train step, and text word by word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from pair import Call, Pair, Row
from torch import Tensor, nn

Write = Callable[[nn.Module, Tensor], Tensor]
NEW = 64  # generated tokens


@torch.no_grad()
def write_ours(net: nn.Module, ids: Tensor) -> Tensor:
    """Append the likeliest tokens by our cache."""
    cache, new, written = net.start(ids.shape[1] + NEW), ids, [ids]
    for _ in range(NEW):
        new = net.read(new, cache).argmax(dim=1, keepdim=True)
        written.append(new)
    return torch.cat(written, dim=1)


@torch.no_grad()
def write_theirs(net: nn.Module, ids: Tensor) -> Tensor:
    """Append the likeliest tokens by their cache, without the checks of `generate`."""
    from transformers import DynamicCache

    cache, new, written = DynamicCache(config=net.config), ids, [ids]
    for _ in range(NEW):
        output = net(new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        new = output.logits[:, -1].argmax(dim=1, keepdim=True)
        written.append(new)
    return torch.cat(written, dim=1)


def generate_ours(net: nn.Module, ids: Tensor) -> Tensor:
    """Write by the function that `sample` calls."""
    from dlreview.samplers.decoding import generate

    cache = net.start(ids.shape[1] + NEW)
    return generate(net.read, ids, cache, length=NEW, temperature=0.0)


def generate_theirs(net: nn.Module, ids: Tensor) -> Tensor:
    """Write by the function that their users call."""
    how = {"do_sample": False, "use_cache": True, "pad_token_id": 0}
    return net.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, **how)


def gpt(
    device: str, batch: int, length: int, works: tuple[str, ...], draws: bool = False, **sizes: int
) -> Pair:
    """Build a language model and a batch of random tokens; with `draws` it is timed in writing."""
    from transformers import GPT2Config, GPT2LMHeadModel

    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(**sizes, **rates, **ends, attn_implementation="sdpa", use_cache=False)
    theirs = GPT2LMHeadModel(config).to(device).train()
    ids = torch.randint(sizes["vocab_size"], (batch, length), device=device)

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

    def on_ids(write: Write) -> Call:
        return lambda net: write(net, ids)

    samplers = {
        f"loop of {NEW} tokens": (on_ids(write_ours), on_ids(write_theirs)),
        f"generate {NEW} tokens": (on_ids(generate_ours), on_ids(generate_theirs)),
    }
    return Pair(
        theirs,
        (ids,),
        output=lambda output: output.logits,
        loss=loss,
        samplers=samplers if draws else {},
        works=works,
    )


BOTH = ("forward", "train step")
SMALL = {"vocab_size": 2000, "n_positions": 256, "n_embd": 192, "n_layer": 6, "n_head": 6}
GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
ROWS = [
    Row("GPT 192x6 batch 8 x 128", cpu=lambda: gpt("cpu", 8, 128, BOTH, **SMALL)),
    Row("GPT-2 124M batch 16 x 1024", cuda=lambda: gpt("cuda", 16, 1024, BOTH, **GPT2)),
]
for rows in (1, 4):
    ROWS.append(
        Row(
            f"GPT writing batch {rows}",
            cpu=partial(gpt, "cpu", rows, 16, (), True, **SMALL),
            cuda=partial(gpt, "cuda", rows, 16, (), True, **GPT2),
            compiled=False,  # the length of the text changes with every token
        )
    )
