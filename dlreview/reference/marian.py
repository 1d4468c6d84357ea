"""transformers' MarianMTModel.

Not supported: layer drop, and a head that is not tied where source and target share their vectors.
The tables of sinusoids and the bias of the logits are copied; neither is trained in theirs, nor in
a network of ours that was made from it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.decoder import PostNormDecoderBlock
from dlreview.nn.encoder_decoder import EncoderDecoder
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.norm import LayerNorm
from dlreview.nn.transformer import PostNormBlock
from dlreview.reference.activation import from_transformers, to_transformers
from dlreview.reference.folders import write_transformers
from dlreview.reference.maps import Example, Map
from dlreview.reference.patches import FIRST
from dlreview.reference.text_files import TextFiles, read_encoder, search
from dlreview.reference.weights import Op, Rule
from dlreview.usage import example_of

EPS = 1e-5  # of every layer norm of theirs
# Tokens that the network does not use, but theirs' `generate` does.
TOKENS = ("bos_token_id", "eos_token_id", "forced_eos_token_id", "decoder_start_token_id")


def check_config(config: Any) -> None:
    """Refuse a configuration that ours does not support.

    Raises:
        ValueError: names the field.
    """
    for field in ("encoder_layerdrop", "decoder_layerdrop"):
        if getattr(config, field):
            raise ValueError(f"{field}={getattr(config, field)} is not supported; supported: 0.0")
    if config.share_encoder_decoder_embeddings and not config.tie_word_embeddings:
        raise ValueError(
            "tie_word_embeddings=False is not supported; "
            "supported with share_encoder_decoder_embeddings=False"
        )


def attention_of(config: Any, side: str) -> MultiHeadAttention:
    """Build our attention of the "encoder" or "decoder"."""
    heads = getattr(config, f"{side}_attention_heads")
    return MultiHeadAttention(config.d_model, heads, dropout=float(config.attention_dropout))


def feed_forward_of(config: Any, side: str) -> FeedForward:
    """Build our feed-forward network of the "encoder" or "decoder".

    Raises:
        ValueError: the activation is not supported.
    """
    return FeedForward(
        config.d_model,
        getattr(config, f"{side}_ffn_dim"),
        from_transformers(config.activation_function, "activation_function"),
        dropout=float(config.activation_dropout),
    )


def encoder_block_of(config: Any) -> PostNormBlock:
    """Build our encoder block."""
    return PostNormBlock(
        config.d_model,
        config.encoder_attention_heads,
        attention=attention_of(config, "encoder"),
        feed_forward=feed_forward_of(config, "encoder"),
        attention_norm=LayerNorm(config.d_model, EPS),
        feed_forward_norm=LayerNorm(config.d_model, EPS),
        dropout=float(config.dropout),
    )


def decoder_block_of(config: Any) -> PostNormDecoderBlock:
    """Build our decoder block."""
    return PostNormDecoderBlock(
        config.d_model,
        config.decoder_attention_heads,
        attention=attention_of(config, "decoder"),
        cross_attention=attention_of(config, "decoder"),
        feed_forward=feed_forward_of(config, "decoder"),
        attention_norm=LayerNorm(config.d_model, EPS),
        cross_attention_norm=LayerNorm(config.d_model, EPS),
        feed_forward_norm=LayerNorm(config.d_model, EPS),
        dropout=float(config.dropout),
    )


def build_ours(theirs: Any) -> EncoderDecoder:
    """Build ours.

    Raises:
        ValueError: a field of the configuration is not supported.
    """
    config = theirs.config
    check_config(config)
    shared = config.share_encoder_decoder_embeddings
    ours = EncoderDecoder(
        config.vocab_size if shared else config.decoder_vocab_size,
        config.d_model,
        config.encoder_layers,
        config.encoder_attention_heads,
        decoder_depth=config.decoder_layers,
        max_length=config.max_position_embeddings,
        source_vocabulary_size=None if shared else config.vocab_size,
        scale_embedding=config.scale_embedding,
        tied=config.tie_word_embeddings,
        padding_id=config.pad_token_id,
        encoder_block=encoder_block_of(config),
        decoder_block=decoder_block_of(config),
        dropout=float(config.dropout),
    )
    ours.their_tokens = {name: getattr(config, name) for name in TOKENS}  # type: ignore[assignment]
    return ours


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"transformers' MarianMTModel has no {feature}")


def check_block(block: Any, cls: type) -> None:
    """Refuse a block that theirs does not have.

    Raises:
        ValueError: names what theirs lacks.
    """
    _require(type(block) is cls, type(block).__name__)
    attentions, norms = [block.attention], [block.attention_norm, block.feed_forward_norm]
    if cls is PostNormDecoderBlock:
        attentions.append(block.cross_attention)
        norms.append(block.cross_attention_norm)
    for attention in attentions:
        inner = (attention.query_norm, attention.key_norm, attention.output_norm)
        _require(not any(inner) and attention.scale is None, "norm or scale inside attention")
        _require(attention.bias and attention.output_bias, "attention without bias")
        shapes = {tuple(layer.weight.shape) for layer in attention.children() if layer is not None}
        _require(shapes == {(block.width, block.width)}, "attention of several widths")
        _require(attention.heads == block.heads, "cross-attention with other heads")
    network = block.feed_forward
    plain = isinstance(network, FeedForward) and network.norm is None and network.bias
    _require(plain, f"{type(network).__name__} with these parts")
    _require(block.layer_scale is None and not block.drop_path, "layer scale or dropped paths")
    for norm in norms:
        plain = isinstance(norm, LayerNorm) and norm.affine and norm.offset and norm.eps == EPS
        _require(plain, f"norms other than layer norms of eps {EPS}")


def arguments(ours: EncoderDecoder) -> dict[str, Any]:
    """Return the configuration with which theirs is `ours`.

    Dropout rates that it cannot express are omitted: they do not change what was learned.

    Raises:
        ValueError: there is none; names what theirs lacks.
    """
    encoder: Any = ours.encoder.blocks[0]
    decoder: Any = ours.decoder.blocks[0]
    check_block(encoder, PostNormBlock)
    check_block(decoder, PostNormDecoderBlock)
    functions = [block.feed_forward.activation for block in (encoder, decoder)]
    _require(functions[0] == functions[1], f"several activations {functions}")
    _require(ours.max_length is not None, "max_length None")
    _require(ours.logit_bias, "logits without bias")
    shared = ours.source_vocabulary_size is None
    _require(ours.tied or not shared, "head that is not tied to vectors which the source shares")
    start = {"decoder_start_token_id": ours.padding_id or 0}  # theirs must be a number
    return {
        "vocab_size": ours.vocabulary_size if shared else ours.source_vocabulary_size,
        "decoder_vocab_size": ours.vocabulary_size,
        "share_encoder_decoder_embeddings": shared,
        "tie_word_embeddings": ours.tied,
        "d_model": ours.width,
        "max_position_embeddings": ours.max_length,
        "encoder_layers": ours.depth,
        "decoder_layers": ours.decoder.depth,
        "encoder_attention_heads": encoder.attention.heads,
        "decoder_attention_heads": decoder.attention.heads,
        "encoder_ffn_dim": encoder.feed_forward.hidden_width,
        "decoder_ffn_dim": decoder.feed_forward.hidden_width,
        "activation_function": to_transformers(functions[0]),
        "scale_embedding": ours.scale_embedding,
        "dropout": ours.dropout,
        "attention_dropout": encoder.attention.dropout,
        "activation_dropout": encoder.feed_forward.dropout,
        "pad_token_id": ours.padding_id,
        **(getattr(ours, "their_tokens", None) or dict.fromkeys(TOKENS) | start),
    }


def build_theirs(ours: EncoderDecoder) -> Any:
    """Build theirs with the sizes and parts of ours."""
    from transformers import MarianConfig, MarianMTModel

    return MarianMTModel(MarianConfig(**arguments(ours)))


def fits(ours: EncoderDecoder) -> bool:
    """Return whether theirs can express `ours`."""
    try:
        arguments(ours)
    except ValueError:
        return False
    return True


def embedding_rules(ours: EncoderDecoder) -> list[Rule]:
    """Pair the vectors of the words, which theirs lists under the name of every use."""
    source, target = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
    if ours.source_vocabulary_size is None:
        uses = ("model.shared.weight", source, target, "lm_head.weight")
        return [
            (
                ("embedding.weight", "head.weight"),
                uses,
                Op(lambda shared, _, __, head: (shared, head), lambda e, head: (e, e, e, head)),
            )
        ]
    return [
        ("source_embedding.weight", source),
        ("embedding.weight", target),
        ("head.weight", "lm_head.weight"),
    ]


def table(ours: EncoderDecoder) -> list[Rule]:
    """Pair the names of the weights."""
    projections = dict(zip("qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True))
    attentions = {"attention": "self_attn", "cross_attention": "encoder_attn"}
    parts = {
        f"{mine}.W_{x}": f"{theirs}.{name}"
        for mine, theirs in attentions.items()
        for x, name in projections.items()
    }
    parts |= {f"{mine}_norm": f"{theirs}_layer_norm" for mine, theirs in attentions.items()}
    parts |= {"feed_forward.W_1": "fc1", "feed_forward.W_2": "fc2"}
    parts["feed_forward_norm"] = "final_layer_norm"
    return [
        *embedding_rules(ours),
        ("head.bias", "final_logits_bias", FIRST),
        ("source_positions.table", "model.encoder.embed_positions.weight"),
        ("target_positions.table", "model.decoder.embed_positions.weight"),
        *(
            (f"{side}.blocks.{{i}}.{mine}.{{leaf}}", f"model.{side}.layers.{{i}}.{theirs}.{{leaf}}")
            for side in ("encoder", "decoder")
            for mine, theirs in parts.items()
        ),
    ]


MAPS = [
    Map(
        ours="dlreview.nn.encoder_decoder.EncoderDecoder",
        theirs="transformers.MarianMTModel",
        library="transformers",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
    )
]


def write_marian(ours: Any, usage: Mapping[str, Any], folder: Path) -> str:
    """Write a folder; sources end with <eos>, and translations begin after <bos>.

    So do the labels that the tokenizer makes with `text_target`, which theirs shifts.
    """
    encoder = read_encoder(ours, usage)
    if encoder is None:
        return write_transformers(ours, usage, folder)
    sentence = json.dumps((example_of(usage) or ["1,204"])[0], ensure_ascii=False)
    code = (
        "",
        "# transformers 5 has no pipeline that translates",
        f'inputs = tokenizer({sentence}, return_tensors="pt")',
        "ids = net.generate(**inputs)",
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
    )
    settings = search(ours, encoder)
    text = TextFiles(encoder, "$A <eos>", ours.max_length, settings=settings, code=code)
    return write_transformers(ours, usage, folder, text)


FOLDERS = {"transformers": ("dlreview.nn.encoder_decoder.EncoderDecoder", write_marian)}


def _example() -> Any:
    from transformers import MarianConfig, MarianMTModel

    sizes = {"vocab_size": 300, "d_model": 96, "max_position_embeddings": 32, "pad_token_id": 0}
    depths = {"encoder_layers": 3, "decoder_layers": 2, "decoder_start_token_id": 0}
    heads = {"encoder_attention_heads": 6, "decoder_attention_heads": 4}
    hidden = {"encoder_ffn_dim": 384, "decoder_ffn_dim": 256, "scale_embedding": True}
    config = MarianConfig(**sizes, **depths, **heads, **hidden)
    config._attn_implementation = "sdpa"
    return MarianMTModel(config)


def _inputs() -> tuple[Any, ...]:
    mask = torch.ones(8, 24, dtype=torch.long)
    mask[1, 17:] = 0
    return torch.randint(300, (8, 24)), torch.randint(300, (8, 20)), mask


EXAMPLES = [
    Example(
        _example,
        _inputs,
        call_theirs=lambda net, source, target, mask: (
            net(
                input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
            ).logits
        ),
    )
]
