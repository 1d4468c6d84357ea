"""Networks of transformers, in float64, as `read` and a cache that can be reordered."""

import functools

import torch
from transformers import GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from tests.parity import scramble

VOCABULARY, PAD, BEGIN = 23, 1, 2


class Past:
    """The past of one of their networks, the mask of what it read, and the encoder's output."""

    def __init__(self, mask=None, source=None):
        self.past, self.mask, self.source, self.first = None, mask, source, mask

    def reorder(self, rows):
        self.past.reorder_cache(rows)
        self.mask = None if self.mask is None else self.mask[rows]
        if self.source is not None:
            self.source["last_hidden_state"] = self.source["last_hidden_state"][rows]


@functools.cache
def gpt2():
    """Return their GPT-2, whose scores are spread so that texts differ and end."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=40, n_embd=8, n_layer=2, n_head=2,
        attn_implementation="sdpa", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return scramble(GPT2LMHeadModel(config), seed=5, spread=0.5)


def read_gpt2(ids, cache):
    """Read new ids with the mask and the positions of left-padded texts."""
    if cache.past is not None:
        cache.mask = torch.cat([cache.mask, cache.mask.new_ones(len(ids), 1)], dim=1)
    positions = (cache.mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    called = {"attention_mask": cache.mask.long(), "position_ids": positions}
    out = gpt2()(ids, past_key_values=cache.past, use_cache=True, **called)
    cache.past = out.past_key_values
    return out.logits[:, -1]


@functools.cache
def marian():
    """Return their encoder-decoder with sinusoidal positions."""
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=8, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=12,
        decoder_ffn_dim=12, max_position_embeddings=40, attn_implementation="sdpa",
        pad_token_id=PAD, eos_token_id=None, decoder_start_token_id=BEGIN,
        forced_eos_token_id=None,
    )  # fmt: skip
    return scramble(MarianMTModel(config), seed=2, spread=0.8)


def start_marian(source, mask):
    """Encode."""
    return Past(mask, marian().get_encoder()(source, attention_mask=mask))


def read_marian(ids, cache):
    """Read new ids of the target."""
    called = {"attention_mask": cache.mask, "encoder_outputs": cache.source}
    out = marian()(decoder_input_ids=ids, past_key_values=cache.past, use_cache=True, **called)
    cache.past = out.past_key_values
    return out.logits[:, -1]
