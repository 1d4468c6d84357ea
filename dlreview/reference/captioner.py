"""transformers' VisionEncoderDecoderModel of a ViT, or DINOv2, and a GPT-2.

Not supported: other encoders and decoders, and a `cross_attention_hidden_size` that is not the
width of GPT-2, whose cross-attention reads that width only.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlreview.data.tokenizer import Encoder
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.pooling import ClassToken, Pooler
from dlreview.reference import gpt, vit_transformers
from dlreview.reference.folders import write_transformers
from dlreview.reference.maps import Example, Map
from dlreview.reference.text_files import TextFiles, read_encoder, search
from dlreview.reference.weights import Rule
from dlreview.usage import image_shape

ENCODERS = ("ViTModel", "Dinov2Model", "Dinov2WithRegistersModel")
DECODER = "GPT2LMHeadModel"
# Tokens that the network does not use, but theirs' `generate` does.
TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


def build_ours(theirs: Any) -> VisionEncoderDecoder:
    """Build ours.

    Raises:
        ValueError: a part of theirs is not supported, or a field of its configuration.
    """
    for field, supported in (("encoder", ENCODERS), ("decoder", (DECODER,))):
        name = type(getattr(theirs, field)).__name__
        if name not in supported:
            raise ValueError(f"{field}={name} is not supported; supported: {', '.join(supported)}")
    width = theirs.decoder.config.hidden_size
    field = "cross_attention_hidden_size"
    context_width = getattr(theirs.decoder.config, field, None)
    if context_width not in (None, width):
        raise ValueError(f"{field}={context_width} is not supported; supported: {width}")
    if not theirs.decoder.config.add_cross_attention:
        raise ValueError("add_cross_attention=False is not supported; supported: True")
    encoder = vit_transformers.build_ours(theirs.encoder)
    ours = VisionEncoderDecoder(encoder, gpt.build_ours(theirs.decoder))
    tokens = {name: getattr(theirs.config, name, None) for name in TOKENS}
    ours.their_tokens = tokens  # type: ignore[assignment]
    return ours


def encoder_kind(ours: VisionEncoderDecoder) -> str:
    """Return the class of transformers that is like the encoder.

    Raises:
        ValueError: there is none.
    """
    for kind in ENCODERS:
        if vit_transformers.fits(ours.encoder, kind):
            return kind
    raise ValueError("transformers has no class for this encoder")


def build_theirs(ours: VisionEncoderDecoder) -> Any:
    """Build theirs with the sizes and parts of ours."""
    from transformers import VisionEncoderDecoderModel

    theirs = VisionEncoderDecoderModel(
        encoder=vit_transformers.build_theirs(ours.encoder, encoder_kind(ours)),
        decoder=gpt.build_theirs(ours.decoder, DECODER),
    )
    tokens: Any = getattr(ours, "their_tokens", {})
    for name, token in tokens.items():
        setattr(theirs.config, name, token)
    return theirs


def fits(ours: VisionEncoderDecoder) -> bool:
    """Return whether theirs can express `ours`."""
    try:
        encoder_kind(ours)
        gpt.arguments(ours.decoder, DECODER)
    except ValueError:
        return False
    return True


def with_prefix(prefix: str, rules: list[Rule]) -> list[Rule]:
    """Put `prefix` before the keys of both sides."""

    def prefixed(keys: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return prefix + keys if isinstance(keys, str) else tuple(prefix + key for key in keys)

    return [(prefixed(ours), prefixed(theirs), *op) for ours, theirs, *op in rules]  # type: ignore[misc]


def table(ours: VisionEncoderDecoder) -> list[Rule]:
    """Pair the names of the weights."""
    return [
        *with_prefix("encoder.", vit_transformers.table(ours.encoder, encoder_kind(ours))),
        *with_prefix("decoder.", gpt.table(ours.decoder, DECODER)),
        ("projection.{leaf}", "enc_to_dec_proj.{leaf}"),
    ]


MAPS = [
    Map(
        ours="dlreview.nn.captioner.VisionEncoderDecoder",
        theirs="transformers.VisionEncoderDecoderModel",
        library="transformers",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
    )
]


def write_captioner(ours: Any, usage: Mapping[str, Any], folder: Path) -> str:
    """Write a folder, where a ViT needs a pooler: `from_pretrained` always builds one.

    No caption depends on the pooler; one of ours without it gets one of zeros.
    """
    if isinstance(ours.encoder.pooling, ClassToken) and encoder_kind(ours) == "ViTModel":
        ours = copy.deepcopy(ours)
        pooler = Pooler(ours.encoder.width).to(next(ours.parameters()))
        for parameter in pooler.parameters():
            torch.nn.init.zeros_(parameter)
        ours.encoder.pooling = pooler
    encoder = read_encoder(ours, usage)
    if encoder is None:
        return write_transformers(ours, usage, folder)
    return write_transformers(ours, usage, folder, text_files(ours, usage, encoder))


def text_files(ours: Any, usage: Mapping[str, Any], encoder: Encoder) -> TextFiles:
    """Say how transformers writes captions, which stand between <bos> and <eos>."""
    channels, height, width = image_shape(usage)
    mode = "L" if channels == 1 else "RGB"
    return TextFiles(
        encoder,
        "<bos> $A <eos>",
        ours.max_length,
        settings=search(ours, encoder),
        before=("from PIL import Image",),
        code=(
            "",
            "# transformers 5 has no pipeline that captions",
            f'image = Image.new("{mode}", ({width}, {height}))'
            f'  # yours: Image.open("FILE").convert("{mode}")',
            'pixels = processor(image, return_tensors="pt").pixel_values',
            "print(tokenizer.decode(net.generate(pixels)[0], skip_special_tokens=True))",
        ),
    )


FOLDERS = {"transformers": ("dlreview.nn.captioner.VisionEncoderDecoder", write_captioner)}


def _example() -> Any:
    import transformers

    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 72, "num_attention_heads": 6}
    image = transformers.ViTConfig(**sizes, num_hidden_layers=3, intermediate_size=288)
    tokens: dict[str, Any] = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": None}
    sizes = {"n_positions": 32, "n_embd": 96, "n_layer": 2, "n_head": 4}
    text = transformers.GPT2Config(**tokens, **sizes, add_cross_attention=True)
    for config in (image, text):
        config._attn_implementation = "sdpa"
    return transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(image), decoder=transformers.GPT2LMHeadModel(text)
    )


def _inputs() -> tuple[Any, ...]:
    return torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.randint(300, (8, 20))


EXAMPLES = [
    Example(
        _example,
        _inputs,
        call_theirs=lambda net, images, ids: (
            net(pixel_values=images, decoder_input_ids=ids, use_cache=False).logits
        ),
    )
]
