"""Features of a time equal diffusers'; labels become embeddings of the time's width."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import (
    GaussianFourierProjection,
    TimestepEmbedding,
    get_timestep_embedding,
)

from dlreview.nn.time_embedding import (
    ClassLabel,
    FourierTime,
    Label,
    LearnedTime,
    SinusoidalTime,
    TimeEmbedding,
    TimeLabel,
    VectorLabel,
)
from tests.parity import scramble

TIMES = torch.tensor([0, 1, 7, 500, 999])
FEATURES, WIDTH = 6, 10


@pytest.mark.parametrize("cosine_first", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_equal_diffusers(width, shift, cosine_first):
    features = SinusoidalTime(width, cosine_first, shift)(TIMES)
    theirs = get_timestep_embedding(
        TIMES, width, flip_sin_to_cos=cosine_first, downscale_freq_shift=shift
    )
    torch.testing.assert_close(features, theirs, atol=1e-6, rtol=0)
    half = width // 2
    period = 2 * math.pi * 10000 ** (torch.arange(half) / (half - shift))
    angle = 2 * math.pi * TIMES[:, None].double() / period
    waves = [angle.cos(), angle.sin()] if cosine_first else [angle.sin(), angle.cos()]
    expected = F.pad(torch.cat(waves, dim=1), (0, width % 2)).float()
    torch.testing.assert_close(features, expected, atol=2e-4, rtol=0)  # angles in float32


def test_fourier_features_equal_diffusers():
    time = scramble(FourierTime(FEATURES))
    theirs = GaussianFourierProjection(FEATURES // 2, set_W_to_weight=False, log=True)
    theirs.double().weight.data = time.frequencies.data
    level = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    torch.testing.assert_close(time(level), theirs(level), atol=1e-12, rtol=0)
    expected = [[0.0] * (FEATURES // 2) + [1.0] * (FEATURES // 2)]  # log 1 = 0
    assert time(level)[1:2].tolist() == expected


def test_fourier_frequencies_are_drawn_and_not_learned():
    frequencies = FourierTime(4000, scale=3.0).frequencies
    assert not frequencies.requires_grad
    assert frequencies.std().item() == pytest.approx(3.0, rel=0.1)
    assert "frequencies" in FourierTime(4).state_dict()


def test_learned_features_are_rows_of_a_table():
    time = LearnedTime(FEATURES, steps=1000)
    assert torch.equal(time(TIMES), time.table.weight[TIMES])


@pytest.mark.parametrize("label", [None, ClassLabel(5), TimeLabel(), VectorLabel()])
def test_the_embedding_is_diffusers_plus_that_of_the_label(label):
    embedding = scramble(TimeEmbedding(FEATURES, WIDTH, label))
    theirs = TimestepEmbedding(FEATURES, WIDTH).double()
    for ours, other in zip((0, 2), (theirs.linear_1, theirs.linear_2), strict=True):
        other.load_state_dict(embedding.time[ours].state_dict())
    features = torch.randn(3, FEATURES, dtype=torch.float64)
    expected, given = theirs(features), None
    if isinstance(label, ClassLabel):
        given = torch.tensor([4, 0, 4])
        expected = expected + embedding.label.weight[given]
    elif isinstance(label, TimeLabel):
        given = torch.randn(3, FEATURES, dtype=torch.float64)
        first, act, second = embedding.label
        expected = expected + second(act(first(given)))
    elif label is not None:
        given = torch.randn(3, WIDTH, dtype=torch.float64)
        expected = expected + given
    torch.testing.assert_close(embedding(features, given), expected, atol=1e-12, rtol=0)
    if given is not None:  # one time for all labels
        expected = expected - theirs(features) + theirs(features[:1])
        torch.testing.assert_close(embedding(features[:1], given), expected, atol=1e-12, rtol=0)


def test_labels_are_read_before_they_are_embedded():
    number, time = torch.tensor([3, 1]), SinusoidalTime(FEATURES)
    for label in (ClassLabel(5), VectorLabel()):
        assert label.read(number, time) is number
    assert torch.equal(TimeLabel().read(number, time), time(number))


def test_the_null_class_is_the_last_row():
    plain, null = ClassLabel(5), ClassLabel(5, null_class=True)
    assert (plain.rows, null.rows) == (5, 6)
    assert plain.make(FEATURES, WIDTH).weight.shape == (5, WIDTH)
    embedding = TimeEmbedding(FEATURES, WIDTH, null)
    embedding(torch.zeros(1, FEATURES), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"label must be in 0\.\.5, got 6"):
        embedding(torch.zeros(1, FEATURES), torch.tensor([6]))


def test_labels_that_are_missing_or_too_many_are_named():
    features, number = torch.zeros(2, FEATURES), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="label is missing"):
        TimeEmbedding(FEATURES, WIDTH, ClassLabel(5))(features)
    with pytest.raises(ValueError, match="this net takes no label"):
        TimeEmbedding(FEATURES, WIDTH)(features, number)
    with pytest.raises(NotImplementedError):
        Label().make(FEATURES, WIDTH)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SinusoidalTime(1), "width 1 is too small for shift 0"),
        (lambda: SinusoidalTime(4, shift=2), "width 4 is too small for shift 2"),
        (lambda: FourierTime(5), "width must be even and at least 2, got 5"),
        (lambda: FourierTime(0), "width must be even and at least 2, got 0"),
        (lambda: LearnedTime(0), "width must be at least 1, got 0"),
        (lambda: LearnedTime(4, steps=0), "steps must be at least 1, got 0"),
        (lambda: ClassLabel(0), "num_classes must be at least 1, got 0"),
        (lambda: TimeEmbedding(4, 0), "width must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
