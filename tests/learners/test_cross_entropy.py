"""The cross-entropy of tokens: equal to torch's, and never all logits at once."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlreview.learners import cross_entropy
from dlreview.learners.cross_entropy import likeliest, token_losses

WORDS, WIDTH, BATCH, TOKENS = 50, 6, 3, 20
LIMITS = [10**9, 7 * WORDS, 1]  # all in one piece, 7 tokens at a time, one at a time


class Largest(TorchDispatchMode):
    """Keep the number of entries of the largest float tensor that is made."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                self.entries = max(self.entries, x.numel())
        return made


def given(seed=0):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, WORDS).double()
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(generator=generator)
    hidden = torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float64, generator=generator)
    targets = torch.randint(WORDS, (BATCH, TOKENS), generator=generator)
    return hidden.requires_grad_(), head, targets


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("smoothing", "ignore"), [(0.0, None), (0.1, None), (0.2, 4), (0.0, -1)])
def test_equals_torch(monkeypatch, limit, smoothing, ignore):
    monkeypatch.setattr(cross_entropy, "AT_ONCE", limit)
    hidden, head, targets = given()
    if ignore is not None:
        targets[:, ::3] = ignore
    losses = token_losses(hidden, head, targets, smoothing, ignore)
    logits = head(hidden).flatten(0, 1)
    how = {"label_smoothing": smoothing, "ignore_index": -100 if ignore is None else ignore}
    expected = F.cross_entropy(logits, targets.flatten(), reduction="none", **how)
    expected = expected.view(BATCH, TOKENS)
    torch.testing.assert_close(losses, expected, atol=1e-10, rtol=1e-10)
    assert ignore is None or not losses[:, ::3].any()
    weights = torch.randn_like(losses)
    inputs = (hidden, *head.parameters())
    ours, theirs = (torch.autograd.grad((x * weights).sum(), inputs) for x in (losses, expected))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


def test_a_loss_is_minus_the_log_of_a_probability():
    hidden, head, targets = given()
    p = head(hidden).softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_losses(hidden, head, targets), -p.log())
    one = token_losses(hidden[0, 0], head, targets[0, 0])
    torch.testing.assert_close(one, -p[0, 0].log())
    assert token_losses(hidden[:0], head, targets[:0]).shape == (0, TOKENS)


def test_the_logits_are_never_all_there(monkeypatch):
    at_once = 4 * WORDS
    monkeypatch.setattr(cross_entropy, "AT_ONCE", at_once)
    hidden, head, targets = given()
    with Largest() as largest:
        token_losses(hidden, head, targets, 0.1).sum().backward()
    assert at_once <= largest.entries <= max(at_once, hidden.numel(), head.weight.numel())
    assert largest.entries < BATCH * TOKENS * WORDS / 4
    with Largest() as largest, torch.no_grad():
        likeliest(hidden, head)
    assert largest.entries < BATCH * TOKENS * WORDS / 4
    monkeypatch.setattr(cross_entropy, "AT_ONCE", 10**9)
    with Largest() as largest:
        token_losses(hidden, head, targets).sum().backward()
    assert largest.entries == BATCH * TOKENS * WORDS, "the measure sees logits that are all there"


@pytest.mark.parametrize("limit", LIMITS)
def test_half_precision_logits_are_summed_in_float32(monkeypatch, limit):
    monkeypatch.setattr(cross_entropy, "AT_ONCE", limit)
    hidden, head, targets = given()
    hidden, head = hidden.detach().float().requires_grad_(), head.float()
    with torch.autocast("cpu", torch.bfloat16):
        losses, logits = token_losses(hidden, head, targets), head(hidden)
    losses.sum().backward()
    assert losses.dtype == hidden.grad.dtype == torch.float32 and logits.dtype == torch.bfloat16
    expected = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(losses.flatten(), expected)


def test_compiles_without_a_graph_break():
    """In another process, since the type hints, which tests check, cannot be traced."""
    code = """
import torch
from functools import partial
from dlreview.learners import cross_entropy
from dlreview.nn.bert import BERT, MaskedTokenHead
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.encoder_decoder import EncoderDecoder
from dlreview.nn.gpt import GPT
from dlreview.nn.vit import ViT
ids, mask = torch.randint(50, (2, 3, 9)).unbind(), torch.ones(3, 9, dtype=torch.long)
mask[1, 7:] = 0
images = torch.randn(3, 1, 8, 8).double()
bert = BERT(50, 12, 1, 3, 9, dropout=0.0, head=MaskedTokenHead(50, 12))
decoder = GPT(50, 12, 1, 3, 9, block=DecoderBlock(12, 3))
captioner = VisionEncoderDecoder(ViT(8, 4, 16, 1, 2, image_channels=1), decoder)
whole, some = 10**9, 7 * 50
cases = [(bert, (ids[0], mask), whole, "eager"), (bert, (ids[0], mask), some, "aot_eager")]
cases += [(GPT(50, 12, 1, 3, 9), (ids[0],), whole, "eager")]
cases += [(EncoderDecoder(50, 12, 1, 3), (ids[0], ids[1], mask), some, "eager")]
cases += [(captioner, (images, ids[0], mask), some, "eager")]
for net, inputs, limit, backend in cases:
    net.double()
    cross_entropy.AT_ONCE = limit
    torch._dynamo.reset()
    fast = torch.compile(net, fullgraph=True, backend=backend)
    gradients = []
    score = partial(cross_entropy.token_losses, targets=ids[1], smoothing=0.1, ignore=3)
    for call in (fast, net):
        net.zero_grad()
        x = call(*inputs, score=score)
        x.sum().backward()
        gradients.append([x, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for one, two in zip(*gradients):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("limit", LIMITS)
def test_the_likeliest_word_has_the_largest_logit(monkeypatch, limit):
    monkeypatch.setattr(cross_entropy, "AT_ONCE", limit)
    hidden, head, _ = given()
    words = likeliest(hidden, head)
    assert words.shape == (BATCH, TOKENS) and not words.is_floating_point()
    assert torch.equal(words, head(hidden).argmax(-1))
