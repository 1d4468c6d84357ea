"""transformers' GPT2LMHeadModel, and its body GPT2Model, which has no head.

A GPT made from a GPT2Model has its tokens' vectors as head; `hidden` returns what theirs returns.
`reorder_and_upcast_attn` changes the order of the operations only, not the function.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dlreview.data.tokenizer import EOS
from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.decoder import DecoderBlock, OptionalDecoderBlock
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.gpt import GPT, gpt_block
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import Block
from dlreview.reference.activation import from_transformers, to_transformers
from dlreview.reference.folders import write_transformers
from dlreview.reference.maps import Example, maps_of_classes
from dlreview.reference.text_files import TextFiles, read_encoder
from dlreview.reference.weights import TRANSPOSE, Op, Rule, split
from dlreview.usage import unwritten

KINDS = ("GPT2LMHeadModel", "GPT2Model")
END = 50256  # the token that GPT-2's configuration names by default
BOTH = Op(lambda theirs: (theirs, theirs), lambda ours, _: ours)  # a tied head is the same tensor


def block_of(config: Any) -> Block:
    """Build our block.

    Raises:
        ValueError: the activation is not supported.
    """
    width, heads, eps = config.n_embd, config.n_head, float(config.layer_norm_epsilon)
    scale = None if config.scale_attn_weights else 1.0
    attention: dict[str, Any] = {"dropout": float(config.attn_pdrop), "scale": scale}
    activation = from_transformers(config.activation_function, "activation_function")
    parts: dict[str, Any] = {
        "attention": MultiHeadAttention(width, heads, **attention),
        "feed_forward": FeedForward(width, config.n_inner or 4 * width, activation),
        "attention_norm": LayerNorm(width, eps),
        "feed_forward_norm": LayerNorm(width, eps),
        "dropout": float(config.resid_pdrop),
    }
    if not config.add_cross_attention:
        return Block(width, heads, **parts)
    parts["cross_attention"] = MultiHeadAttention(width, heads, **attention)
    return OptionalDecoderBlock(width, heads, cross_attention_norm=LayerNorm(width, eps), **parts)


def build_ours(theirs: Any) -> GPT:
    """Build ours from the configuration of theirs.

    Raises:
        ValueError: the activation is not supported.
    """
    config, kind = theirs.config, type(theirs).__name__
    ours = GPT(
        config.vocab_size,
        config.n_embd,
        config.n_layer,
        config.n_head,
        config.n_positions,
        block=block_of(config),
        norm=LayerNorm(config.n_embd, float(config.layer_norm_epsilon)),
        dropout=float(config.embd_pdrop),
        tied=kind == "GPT2Model" or config.tie_word_embeddings,
        scale_by_layer=config.scale_attn_by_inverse_layer_idx,
        initial_std=float(config.initializer_range),
    )
    ours.their_kind = kind  # type: ignore[assignment]
    return ours


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"transformers' GPT-2 has no {feature}")


def check_block(block: Any) -> None:
    """Refuse a block that GPT-2 does not have.

    Raises:
        ValueError: names what it lacks.
    """
    _require(type(block) in (Block, DecoderBlock, OptionalDecoderBlock), type(block).__name__)
    _require(block.layer_scale is None and not block.drop_path, "layer scale, nor drop_path")
    attentions = [block.attention]
    if isinstance(block, DecoderBlock):
        attentions.append(block.cross_attention)
    for attention in attentions:
        inner = (attention.query_norm, attention.key_norm, attention.output_norm)
        _require(not any(inner), "norm inside attention")
        _require(attention.bias and attention.output_bias, "attention without bias")
        sizes = (attention.key_width, attention.value_width, attention.head_width)
        standard = (None, block.width), (None, block.width), (None, block.width // block.heads)
        plain = all(size in known for size, known in zip(sizes, standard, strict=True))
        _require(plain and attention.heads == block.heads, "attention of several widths")
        _require(attention.scale in (None, 1.0), f"scale {attention.scale} of attention")
        same = (attention.scale, attention.dropout) == (attentions[0].scale, attentions[0].dropout)
        _require(same, "attentions of several scales or rates of dropout")
    network = block.feed_forward
    _require(type(network) is FeedForward, type(network).__name__)
    _require(network.bias and network.norm is None, "feed-forward network with norm or no bias")
    _require(not network.dropout, "dropout inside the feed-forward network")


def arguments(ours: GPT, kind: str) -> dict[str, Any]:
    """Return the configuration with which the class `kind` of transformers is `ours`.

    Raises:
        ValueError: there is none; names what the class lacks.
    """
    _require(getattr(ours, "their_kind", KINDS[0]) == kind, f"network of class {kind}")
    block: Any = ours.block or gpt_block(ours.width, ours.heads, ours.dropout)
    check_block(block)
    crossed = isinstance(block, DecoderBlock)
    norms: list[Any] = [block.attention_norm, block.feed_forward_norm, ours.norm]
    norms += [block.cross_attention_norm] if crossed else []
    plain = all(type(norm) is LayerNorm and norm.affine and norm.offset for norm in norms)
    _require(plain, "norms other than layer norms with scale and offset")
    _require(len({norm.eps for norm in norms}) == 1, "norms of several eps")
    end = END if ours.vocabulary_size > END else None
    return {
        "vocab_size": ours.vocabulary_size,
        "n_positions": ours.max_length,
        "n_embd": ours.width,
        "n_layer": ours.depth,
        "n_head": ours.heads,
        "n_inner": block.feed_forward.hidden_width,
        "activation_function": to_transformers(block.feed_forward.activation),
        "resid_pdrop": block.dropout,
        "embd_pdrop": ours.dropout,
        "attn_pdrop": block.attention.dropout,
        "layer_norm_epsilon": norms[0].eps,
        "initializer_range": ours.initial_std,
        "scale_attn_weights": block.attention.scale is None,
        "scale_attn_by_inverse_layer_idx": ours.scale_by_layer,
        "add_cross_attention": crossed,
        "tie_word_embeddings": ours.tied,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def build_theirs(ours: GPT, kind: str) -> Any:
    """Build the class `kind` of transformers with the sizes and parts of ours."""
    import transformers

    return getattr(transformers, kind)(transformers.GPT2Config(**arguments(ours, kind)))


def fits(ours: GPT, kind: str) -> bool:
    """Return whether the class `kind` of transformers can express `ours`."""
    try:
        arguments(ours, kind)
    except ValueError:
        return False
    return True


def table(ours: GPT, kind: str) -> list[Rule]:
    """Pair the names of the weights; theirs are stored (in, out)."""
    body = "" if kind == "GPT2Model" else "transformer."
    mine, layer = "decoder.blocks.{i}", f"{body}h.{{i}}"
    norms = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}
    norms |= {"cross_attention_norm": "ln_cross_attn"}
    linear = {"attention.W_o": "attn.c_proj", "cross_attention.W_o": "crossattention.c_proj"}
    linear |= {"feed_forward.W_1": "mlp.c_fc", "feed_forward.W_2": "mlp.c_proj"}
    linear |= {"cross_attention.W_q": "crossattention.q_attn"}
    rules: list[Rule] = [
        ("positions.weight", f"{body}wpe.weight"),
        ("norm.{leaf}", f"{body}ln_f.{{leaf}}"),
        *((f"{mine}.{a}.{{leaf}}", f"{layer}.{b}.{{leaf}}") for a, b in norms.items()),
        *((f"{mine}.{a}.weight", f"{layer}.{b}.weight", TRANSPOSE) for a, b in linear.items()),
        *((f"{mine}.{a}.bias", f"{layer}.{b}.bias") for a, b in linear.items()),
    ]
    for a, letters, b in (
        ("attention", "qkv", "attn"),
        ("cross_attention", "kv", "crossattention"),
    ):
        for leaf in ("weight", "bias"):
            parts = split(len(letters))
            op = TRANSPOSE.then(parts) if leaf == "weight" else parts
            names = tuple(f"{mine}.{a}.W_{x}.{leaf}" for x in letters)
            rules.append((names, f"{layer}.{b}.c_attn.{leaf}", op))
    if kind == "GPT2Model":
        return [*rules, (("embedding.weight", "head.weight"), "wte.weight", BOTH)]
    tokens: list[Rule] = [("embedding.weight", f"{body}wte.weight")]
    return [*rules, *tokens, ("head.weight", "lm_head.weight")]


MAPS = maps_of_classes("dlreview.nn.gpt.GPT", KINDS, build_ours, build_theirs, table, fits)


def write_gpt(ours: Any, usage: Mapping[str, Any], folder: Path) -> str:
    """Write a folder; a text begins where one has ended, as in `dlreview.data.stream`."""
    encoder = read_encoder(ours, usage)
    if encoder is None:
        return write_transformers(ours, usage, folder)
    text = TextFiles(
        encoder,
        "<eos> $A",
        ours.max_length,
        begin=EOS,
        settings={
            # Draw as the network predicts; the library's own values for these are others.
            "do_sample": True,
            "temperature": 1.0,
            "top_k": 0,
            "max_length": ours.max_length,
            "suppress_tokens": unwritten(encoder, ours),
        },
        imports=frozenset({"pipeline"}),
        code=(
            'write = pipeline("text-generation", model=net, tokenizer=tokenizer)',
            'print(write("")[0]["generated_text"])',
        ),
    )
    return write_transformers(ours, usage, folder, text)


FOLDERS = {"transformers": ("dlreview.nn.gpt.GPT", write_gpt)}


def _example(kind: str) -> Any:
    import transformers

    sizes = {"vocab_size": 500, "n_positions": 64, "n_embd": 96, "n_layer": 4, "n_head": 6}
    ends = {"bos_token_id": None, "eos_token_id": None}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(**sizes, **ends, **rates)
    config._attn_implementation = "sdpa"
    return getattr(transformers, kind)(config)


def _ids() -> tuple[Any]:
    return (torch.randint(500, (8, 60)),)


EXAMPLES = [
    Example(
        partial(_example, "GPT2LMHeadModel"),
        _ids,
        call_theirs=lambda net, ids: net(ids).logits,
    ),
    Example(
        partial(_example, "GPT2Model"),
        _ids,
        lambda net, ids: net.hidden(ids),
        lambda net, ids: net(ids).last_hidden_state,
    ),
]
