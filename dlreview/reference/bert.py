"""transformers' BertModel and BertForMaskedLM; their weights have one set of names since 4.0.

Not supported: decoders (`is_decoder`, `add_cross_attention`), relative positions.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.bert import BERT, MaskedTokenHead
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.norm import LayerNorm
from dlreview.nn.pooling import Pooler
from dlreview.nn.transformer import PostNormBlock
from dlreview.reference.activation import from_transformers, to_transformers
from dlreview.reference.folders import write_transformers
from dlreview.reference.maps import Example, maps_of_classes
from dlreview.reference.text_files import TextFiles, read_encoder
from dlreview.reference.weights import Op, Rule
from dlreview.usage import example_of, fill_mask

# Fields that change what theirs computes, with the only value that ours has.
ONLY = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
# Their tied head holds one bias under two names.
TWICE = Op(lambda bias, same: bias, lambda bias: (bias, bias))


def check_config(config: Any) -> None:
    """Refuse what ours lacks.

    Raises:
        ValueError: names the field.
    """
    for field, only in ONLY.items():
        value = getattr(config, field, only)
        if value != only:
            raise ValueError(f"{field}={value!r} is not supported: use {only!r}")


def norm_of(config: Any) -> LayerNorm:
    """Build our norm."""
    return LayerNorm(config.hidden_size, float(config.layer_norm_eps))


def block_of(config: Any) -> PostNormBlock:
    """Build our block.

    Raises:
        ValueError: the activation is not supported.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    activation = from_transformers(config.hidden_act)
    return PostNormBlock(
        width,
        heads,
        attention=MultiHeadAttention(
            width, heads, dropout=float(config.attention_probs_dropout_prob)
        ),
        feed_forward=FeedForward(width, config.intermediate_size, activation),
        attention_norm=norm_of(config),
        feed_forward_norm=norm_of(config),
        dropout=float(config.hidden_dropout_prob),
    )


def head_of(predictions: Any, config: Any) -> MaskedTokenHead:
    """Build our head; an untied one of theirs has a bias that it does not use."""
    return MaskedTokenHead(
        config.vocab_size,
        config.hidden_size,
        from_transformers(config.hidden_act),
        norm_of(config),
        unused_bias=predictions.bias is not predictions.decoder.bias,
    )


def build_ours(theirs: Any) -> BERT:
    """Build ours from the configuration and the parts of theirs.

    Raises:
        ValueError: a field of the configuration is not supported.
    """
    config = theirs.config
    check_config(config)
    body, head, tied = theirs, None, bool(config.tie_word_embeddings)
    if hasattr(theirs, "cls"):
        body, predictions = theirs.bert, theirs.cls.predictions
        head = head_of(predictions, config)
        tied = predictions.decoder.weight is body.embeddings.word_embeddings.weight
    return BERT(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        types=config.type_vocab_size,
        padding=body.embeddings.word_embeddings.padding_idx,
        dropout=float(config.hidden_dropout_prob),
        block=block_of(config),
        norm=norm_of(config),
        pooling=None if body.pooler is None else Pooler(config.hidden_size),
        head=head,
        tied=tied,
    )


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"transformers' class has no {feature}")


def check_block(block: Any) -> None:
    """Refuse a block that theirs does not have.

    Raises:
        ValueError: names what theirs lacks.
    """
    attention, network = block.attention, block.feed_forward
    _require(type(block) is PostNormBlock, type(block).__name__)
    _require(block.layer_scale is None, "layer scale")
    _require(type(network) is FeedForward, type(network).__name__)
    inner = (attention.query_norm, attention.key_norm, attention.output_norm, network.norm)
    _require(not any(inner) and attention.scale is None, "norm or scale inside a branch")
    widths = {attention.head_width, attention.key_width, attention.value_width}
    _require(widths == {None}, "attention of other widths")
    _require(attention.bias and attention.output_bias and network.bias, "layers without bias")


def check_parts(ours: BERT, kind: str) -> None:
    """Refuse parts outside the blocks that the class `kind` does not have.

    Raises:
        ValueError: names what it lacks.
    """
    block: Any = ours.encoder.blocks[0]
    norms = [ours.norm, block.attention_norm, block.feed_forward_norm]
    masked = kind == "BertForMaskedLM"
    _require((ours.head is not None) == masked, "head" if not masked else "network without head")
    if ours.head is not None:
        norms.append(ours.head.norm)
        same = ours.head.activation == block.feed_forward.activation
        _require(same, "head with another activation than the blocks")
        _require(not (ours.tied and ours.head.unused_bias), "tied head with an unused bias")
    plain = all(type(norm) is LayerNorm and norm.offset and norm.affine for norm in norms)
    _require(plain, "norms other than layer norms with scale and offset")
    _require(len({norm.eps for norm in norms}) == 1, "norms of several eps")
    if ours.pooling is not None:
        pooler: Any = ours.pooling
        _require(type(pooler) is Pooler and not masked, f"{type(pooler).__name__} here")
        own = (pooler.output_width, pooler.activation) == (ours.width, "tanh")
        _require(own, "pooler of another width or activation")


def arguments(ours: BERT, kind: str) -> dict[str, Any]:
    """Return the configuration with which the class `kind` is `ours`.

    Raises:
        ValueError: there is none; names what the class lacks.
    """
    block: Any = ours.encoder.blocks[0]
    check_block(block)
    check_parts(ours, kind)
    return {
        "vocab_size": ours.vocabulary_size,
        "hidden_size": ours.width,
        "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "intermediate_size": block.feed_forward.hidden_width,
        "hidden_act": to_transformers(block.feed_forward.activation),
        # One rate for embeddings and blocks; rates do not change what was learned.
        "hidden_dropout_prob": block.dropout,
        "attention_probs_dropout_prob": block.attention.dropout,
        "max_position_embeddings": ours.max_length,
        "type_vocab_size": ours.types,
        "layer_norm_eps": block.attention_norm.eps,
        "pad_token_id": ours.padding,
        "tie_word_embeddings": ours.tied,
    }


def build_theirs(ours: BERT, kind: str) -> Any:
    """Build the class `kind` of transformers with the sizes and parts of ours."""
    import transformers

    cls = getattr(transformers, kind)
    config = transformers.BertConfig(**arguments(ours, kind))
    if kind == "BertModel":
        return cls(config, add_pooling_layer=ours.pooling is not None)
    return cls(config)


def fits(ours: BERT, kind: str) -> bool:
    """Return whether the class `kind` of transformers can express `ours`."""
    try:
        arguments(ours, kind)
    except ValueError:
        return False
    return True


def bias_rules(ours: BERT) -> list[Rule]:
    """Pair the biases of the head: theirs has two."""
    two = ("cls.predictions.decoder.bias", "cls.predictions.bias")
    if ours.head is not None and ours.head.unused_bias:
        return [("head.scores.bias", two[0]), ("head.second_bias", two[1])]
    return [("head.scores.bias", two, TWICE)]


def table(ours: BERT, kind: str) -> list[Rule]:
    """Pair the names of the weights."""
    body = "bert." if kind == "BertForMaskedLM" else ""
    layer = f"{body}encoder.layer.{{i}}"
    parts = {
        "attention.W_q": "attention.self.query",
        "attention.W_k": "attention.self.key",
        "attention.W_v": "attention.self.value",
        "attention.W_o": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.W_1": "intermediate.dense",
        "feed_forward.W_2": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    return [
        ("embedding.weight", f"{body}embeddings.word_embeddings.weight"),
        ("positions.weight", f"{body}embeddings.position_embeddings.weight"),
        ("segments.weight", f"{body}embeddings.token_type_embeddings.weight"),
        ("norm.{leaf}", f"{body}embeddings.LayerNorm.{{leaf}}"),
        *(
            (f"encoder.blocks.{{i}}.{mine}.{{leaf}}", f"{layer}.{theirs}.{{leaf}}")
            for mine, theirs in parts.items()
        ),
        ("pooling.W.{leaf}", "pooler.dense.{leaf}"),
        ("head.W.{leaf}", "cls.predictions.transform.dense.{leaf}"),
        ("head.norm.{leaf}", "cls.predictions.transform.LayerNorm.{leaf}"),
        ("head.scores.weight", "cls.predictions.decoder.weight"),
        *bias_rules(ours),
    ]


KINDS = ("BertModel", "BertForMaskedLM")
MAPS = maps_of_classes("dlreview.nn.bert.BERT", KINDS, build_ours, build_theirs, table, fits)


def write_bert(ours: Any, usage: Mapping[str, Any], folder: Path) -> str:
    """Write a folder; texts stand between <bos> and <eos>, as in `dlreview.data.passages`."""
    encoder = read_encoder(ours, usage)
    if encoder is None:
        return write_transformers(ours, usage, folder)
    imports, code = frozenset[str](), tuple[str, ...]()
    if ours.head is not None:
        example = fill_mask.WRITTEN.sub("<mask>", (example_of(usage) or [fill_mask.TEXT])[0])
        imports, code = (
            frozenset({"pipeline"}),
            (
                'fill = pipeline("fill-mask", model=net, tokenizer=tokenizer)',
                f"print(fill({json.dumps(example, ensure_ascii=False)}))",
            ),
        )
    template, length = "<bos> $A <eos>", ours.max_length
    text = TextFiles(encoder, template, length, imports=imports, code=code)
    return write_transformers(ours, usage, folder, text)


FOLDERS = {"transformers": ("dlreview.nn.bert.BERT", write_bert)}


def _example(kind: str) -> Any:
    import transformers

    sizes = {"vocab_size": 1000, "hidden_size": 96, "intermediate_size": 384}
    sizes |= {"num_hidden_layers": 4, "num_attention_heads": 6, "max_position_embeddings": 64}
    config = transformers.BertConfig(**sizes)
    config._attn_implementation = "sdpa"  # the softmax of "eager" is in float32
    return getattr(transformers, kind)(config)


def _inputs() -> tuple[Any, ...]:
    length = torch.tensor([60, 41, 60, 33, 52, 60, 28, 60])[:, None]
    return torch.randint(1000, (8, 60)), (torch.arange(60) < length).long()


def _call_ours(net: Any, ids: Any, mask: Any) -> Any:
    hidden = net.hidden(ids, mask)
    if net.head is not None:
        return net.head(hidden)[mask.bool()]
    return hidden[mask.bool()], net.pooling(hidden)


def _call_theirs(net: Any, ids: Any, mask: Any) -> Any:
    output = net(ids, mask)
    if hasattr(output, "logits"):
        return output.logits[mask.bool()]
    return output.last_hidden_state[mask.bool()], output.pooler_output


EXAMPLES = [
    Example(partial(_example, kind), _inputs, _call_ours, _call_theirs)
    for kind in ("BertModel", "BertForMaskedLM")
]
