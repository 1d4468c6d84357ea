"""What transformers needs beside the weights of a network of text.

The tokenizer puts special tokens where the network saw them in training; the configuration names
them, and says how texts are written, so that the library writes the same texts as `sample`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dlreview.data.tokenizer import BOS, EOS, MASK, PAD, SPECIALS, UNK, Encoder
from dlreview.usage import SEARCH, encoder_of, unwritten


@dataclass(frozen=True)
class TextFiles:
    """The tokenizer of a network, how it is called, and the code that calls it.

    Args:
        encoder: the tokenizer.
        template: special tokens around a text, which is $A.
        length: largest number of tokens that the network reads.
        begin: the token that texts begin with.
        settings: those of `generate`, in the words of transformers.
        imports: names of transformers that `code` uses.
        before: lines of the model card that import from elsewhere.
        code: lines of the model card that call the network, which is `net`, with `tokenizer`.
    """

    encoder: Encoder
    template: str
    length: int
    begin: int = BOS
    settings: Mapping[str, Any] = field(default_factory=dict)
    imports: frozenset[str] = frozenset()
    before: tuple[str, ...] = ()
    code: tuple[str, ...] = ()

    @property
    def ids(self) -> dict[str, int]:
        """The special tokens, in the words of transformers."""
        return {"bos_token_id": self.begin, "eos_token_id": EOS, "pad_token_id": PAD}

    def tokenizer(self) -> Any:
        """Make the tokenizer of transformers."""
        from tokenizers import Tokenizer, decoders, processors
        from transformers import PreTrainedTokenizerFast

        parsed = self.encoder.json
        # In byte-level tokens the blank before a word is a part of it; a mask stands for both.
        joined = isinstance(self.encoder.tokenizer.decoder, decoders.ByteLevel)
        for token in parsed["added_tokens"]:
            token["lstrip"] = token["id"] == MASK and joined
        made = Tokenizer.from_str(json.dumps(parsed))
        made.post_processor = processors.TemplateProcessing(
            single=self.template, special_tokens=[(token, n) for n, token in enumerate(SPECIALS)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=made,
            pad_token=SPECIALS[PAD],
            unk_token=SPECIALS[UNK],
            bos_token=SPECIALS[self.begin],
            eos_token=SPECIALS[EOS],
            mask_token=SPECIALS[MASK],
            model_max_length=self.length,
            model_input_names=["input_ids", "attention_mask"],
            clean_up_tokenization_spaces=False,
        )

    def prepare(self, theirs: Any, folder: Path) -> set[str]:
        """Write the tokenizer, and set the special tokens and the settings of theirs.

        Returns:
            Names of transformers that the model card uses.
        """
        from transformers import GenerationConfig

        self.tokenizer().save_pretrained(folder)
        for config in (theirs.config, getattr(theirs.config, "decoder", None)):
            for name, token in self.ids.items() if config is not None else ():
                setattr(config, name, token)
        if "decoder_start_token_id" in self.settings:
            theirs.config.decoder_start_token_id = self.settings["decoder_start_token_id"]
        if self.settings:
            theirs.generation_config = GenerationConfig(**self.ids, **self.settings)
        return {"AutoTokenizer", *self.imports}

    def card(self, lines: list[str]) -> list[str]:
        """Complete the lines of the model card that load the network."""
        tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("{where}")'
        return [*self.before, *lines, tokenizer, *self.code]


def read_encoder(ours: nn.Module, usage: Mapping[str, Any]) -> Encoder | None:
    """Return the tokenizer of a network, or None where its usage has none.

    Raises:
        ValueError: it does not fit the network.
    """
    return encoder_of(usage, ours) if "tokenizer" in usage else None


def search(ours: Any, encoder: Encoder) -> dict[str, Any]:
    """Return the settings of `generate` for texts that a decoder writes for something."""
    return {
        "decoder_start_token_id": BOS,
        "num_beams": SEARCH["--beams"].default,
        "length_penalty": SEARCH["--length_penalty"].default,
        "early_stopping": False,
        "max_new_tokens": ours.max_length,
        "suppress_tokens": unwritten(encoder, ours),
    }
