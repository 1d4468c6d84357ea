"""Wrong sizes are told in one line at the door of each network, also under torch.compile."""

import json
import subprocess
import sys

import pytest
import torch

from dlreview.learners.word2vec_loop import pass_over
from dlreview.nn.inputs import look_up
from dlreview.nn.word2vec import Word2Vec

# Here the tests' checks of jaxtyping's shapes would speak first.
SCRIPT = """
import json, sys, torch
from dlreview.nn.attention import MultiHeadAttention, compute_attention
from dlreview.nn.convolution import BottleneckCNN
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.lstm import BiLSTM, LSTM
from dlreview.nn.multihead_attention import MultiheadAttention
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.nn.resnet import ResNet
from dlreview.nn.rnn import UnsharedRNN
from dlreview.nn.swin import Swin
from dlreview.nn.tagger import RecurrentTagger, Spelling
from dlreview.nn.time_embedding import ClassLabel, LearnedTime, VectorLabel
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
R, L = torch.randn, torch.tensor
resnet, cnn = ResNet([4, 6], [1, 1], 5), BottleneckCNN()
swin = Swin(8, 2, 4, [1, 1], [1, 2], 2, 5)
vit = ViT(8, 4, 12, 1, 3, 5, mask_token=True)
sizes = {"widths": [4, 8], "attention": [False, True], "groups": 2, "blocks_per_level": 1}
unet = DiffusionUNet(3, **sizes, label=ClassLabel(3, null_class=True))
vector, timed = (DiffusionUNet(3, **sizes, **k) for k in (
    {"label": VectorLabel()}, {"time": LearnedTime(6, 10)}))
tagger = RecurrentTagger(7, 4, 6, Spelling(5, 3, 2), BiLSTM(10, 4))
W, S = L([[1, 2, 3], [4, 5, 0]]), L([[1, 2], [3, 0], [5, 1]])
F, N = L([[0, 1, 2], [0, 1, 0]]), L([3, 2])
model, words = RecurrentLanguageModel(7, LSTM(4, 5)), Word2Vec(7, 4)
attention, torch_like = MultiHeadAttention(6, 2, 4, 5), MultiheadAttention(6, 2)
x, two, q = R(2, 3, 8, 8), L([0, 1]), R(2, 3, 6)
yes = lambda *shape: torch.ones(shape, dtype=torch.bool)
told = []
for call in eval(sys.stdin.read()):
    try:
        call()
        told.append("nothing")
    except Exception as error:
        told.append(f"{type(error).__name__}: {error}")
print(json.dumps(told))
"""
CASES = {
    "vit(R(2, 1, 8, 8))": "image_channels of images must be 3, got 1",
    "vit(R(3, 8, 8))": "images must be (batch, channels, height, width), got shape [3, 8, 8]",
    "resnet(R(2, 1, 8, 8))": "image_channels of images must be 3, got 1",
    "swin(R(2, 1, 8, 8))": "image_channels of images must be 3, got 1",
    "swin(R(3, 8, 8))": "images must be (batch, channels, height, width), got shape [3, 8, 8]",
    "cnn(R(2, 1, 8, 8))": "image_channels of images must be 3, got 1",
    "vit.attention_maps(R(2, 4, 8, 8))": "image_channels of images must be 3, got 4",
    "vit.tokens(x, yes(2, 1))": "patches of hidden must be 4, got 1",
    "unet(R(2, 1, 8, 8), 1, two)": "image_channels of images must be 3, got 1",
    "unet(R(3, 8, 8), 1, two)": (
        "images must be (batch, channels, height, width), got shape [3, 8, 8]"
    ),
    "unet(x, 1, L([0, 4]))": "label must be in 0..3, got 0..4",
    "unet(x, 1, L([0, -1]))": "label must be in 0..3, got -1..0",
    "unet(x, 1, L([0, 1, 2]))": "label must have 1 or 2 rows, got 3",
    "unet(x, L([0, 1, 2]), two)": "t must have 1 or 2 rows, got 3",
    "vector(x, 1, R(2, 1))": "width of label must be 16, got 1",
    "timed(x, 10)": "t must be in 0..9, got 10..10",
    "tagger(W + 3, S, F, N)": "words must be in 0..6, got 3..8",
    "tagger(W, S + 1, F, N)": "letters must be in 0..5, got 1..6",
    "tagger(W, S, F + 1, N)": "form must be in 0..2, got 1..3",
    "tagger(W, S, F[:, :2], N)": "words of form must be 3, got 2",
    "tagger(W, S, F, L([3, 2, 1]))": "sentences of lengths must be 2, got 3",
    "model(W + 3)": "ids must be in 0..6, got 3..8",
    "model.read(R(2, 3, 5))": "inputs must have width 4, got 5",
    "attention(R(2, 3, 5), R(2, 7, 4), R(2, 7, 5))": "width of query must be 6, got 5",
    "attention(q, R(2, 7, 6), R(2, 7, 5))": "width of key must be 4, got 6",
    "attention(q, R(2, 7, 4), R(2, 7, 4))": "width of value must be 5, got 4",
    "attention(q, R(2, 7, 4), R(2, 6, 5))": "tokens of value must be 7, got 6",
    "compute_attention(R(2, 3, 5, 4), R(2, 3, 7, 4), R(2, 3, 6, 4))": (
        "tokens of v must be 7, got 6"
    ),
    "torch_like(R(2, 3, 5), q, q)": "width of query must be 6, got 5",
    "torch_like(q, q, R(2, 2, 6))": "tokens of value must be 3, got 2",
    "words(W + 3)": "words must be in 0..6, got 3..8",
    "words(W, yes(2, 1))": "words of mask must be 3, got 1",
    "words.scores(R(2, 3), W)": "width of hidden must be 4, got 3",
    "words.scores(R(2, 4), W + 5)": "words must be in 0..6, got 5..10",
    "UnsharedRNN(4, 5, 3)(R(2, 3, 3))": "width of inputs must be 4, got 3",
}


def test_each_wrong_size_is_told_in_one_line():
    calls = f"[{', '.join(f'lambda: {call}' for call in CASES)}]"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=calls, capture_output=True, text=True, check=True
    )
    told = dict(zip(CASES, json.loads(done.stdout), strict=True))
    assert told == {call: f"ValueError: {message}" for call, message in CASES.items()}


COMPILED = """
import torch
{networks}
def first(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs
for net, inputs in (
    (vit, (x,)), (attention, (q, R(2, 7, 4), R(2, 7, 5))), (words, (W,)), (model, (W,)),
):
    compiled = torch.compile(net.eval(), fullgraph=True, backend="eager")
    exported = torch.export.export(net, inputs).module()
    for other in (compiled, exported):
        torch.testing.assert_close(first(other(*inputs)), first(net(*inputs)))
print("equal")
"""


def test_the_checks_can_be_compiled_and_exported():
    # The U-Net takes longer; test_diffusion_unet compiles it.
    code = COMPILED.format(networks=SCRIPT.partition("told = []")[0])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr


def test_another_index_error_is_not_hidden():
    def broken(ids):
        raise IndexError("of another kind")

    with pytest.raises(IndexError, match="of another kind"):
        look_up("ids", broken, torch.tensor([0, 1]), 2)


def test_the_compiled_loop_writes_into_no_other_memory():
    batch = {"text": torch.tensor([0, 7], dtype=torch.int32), "bounds": torch.tensor([0, 2])}
    with pytest.raises(ValueError, match="vocabulary_size of the network must be at least 8, got"):
        pass_over(Word2Vec(7, 4), batch, torch.ones(8), None)
    with pytest.raises(ValueError, match=r"words must be in 0\.\.6, got 0\.\.7"):
        pass_over(Word2Vec(7, 4), batch, torch.ones(7), None)
