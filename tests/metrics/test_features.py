"""Rows 28-30: features of a data set, nearest neighbours against scikit-learn, a linear probe."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from dlreview.metrics.features import embed
from dlreview.metrics.linear_probe import LinearProbe
from dlreview.metrics.nearest_neighbours import accuracy, classify, neighbours, vote
from dlreview.nn.vit import ViT
from tests.parity import scramble
from tests.plots.small_cnn import SmallCNN, images


@pytest.fixture(scope="module")
def data():
    """Four overlapping classes of features: (train, labels, queries, answers)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (157,), generator=generator)
    noise = torch.randn(157, 9, generator=generator, dtype=torch.float64)
    x = centres[labels] + 1.2 * noise
    return x[:120], labels[:120], x[120:], labels[120:]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equal_weights_are_scikit_learns(data, k):
    train, labels, queries, _ = data
    theirs = KNeighborsClassifier(k, metric="cosine").fit(train.numpy(), labels.numpy())
    cosines, rows = neighbours(train, queries, k)
    distances, their_rows = theirs.kneighbors(queries.numpy())
    assert torch.equal(rows, torch.from_numpy(their_rows))
    torch.testing.assert_close(1 - cosines, torch.from_numpy(distances))
    shares = vote(cosines, labels[rows], math.inf)
    torch.testing.assert_close(shares, torch.from_numpy(theirs.predict_proba(queries.numpy())))
    ours = classify(train, labels, queries, k, math.inf)
    assert torch.equal(ours, torch.from_numpy(theirs.predict(queries.numpy())))


def test_dinos_weights_by_brute_force(data):
    train, labels, queries, answers = data
    guessed = []
    for query in queries:
        cosines = [float(query @ row / (query.norm() * row.norm())) for row in train]
        best = sorted(range(len(train)), key=lambda i: -cosines[i])[:20]
        votes = [0.0] * 4
        for i in best:
            votes[int(labels[i])] += math.exp(cosines[i] / 0.07)
        guessed.append(votes.index(max(votes)))
    assert classify(train, labels, queries).tolist() == guessed
    share = sum(g == a for g, a in zip(guessed, answers.tolist(), strict=True)) / len(guessed)
    assert accuracy(train, labels, queries, answers) == pytest.approx(share)
    assert not torch.equal(classify(train, labels, queries, 20, math.inf), torch.tensor(guessed))


def test_lengths_of_features_do_not_matter(data):
    train, labels, queries, _ = data
    scales = torch.linspace(0.1, 30, len(train), dtype=torch.float64)[:, None]
    expected = classify(train, labels, queries)
    assert torch.equal(classify(train * scales, labels, 7 * queries), expected)


def test_the_probe_is_logistic_regression(data):
    train, labels, queries, answers = data
    probe = LinearProbe(train, labels, C=0.5)
    scale = (train - train.mean(0)) / train.std(0, unbiased=False)
    scaled = (queries - train.mean(0)) / train.std(0, unbiased=False)
    theirs = LogisticRegression(C=0.5, max_iter=1000).fit(scale.numpy(), labels.numpy())
    assert probe(queries, answers) == theirs.score(scaled.numpy(), answers.numpy()) > 0.5


@pytest.mark.parametrize("net", [ViT(8, 4, 12, 2, 3, 5, image_channels=1), SmallCNN()])
def test_features_do_not_depend_on_batches_or_mode(net):
    net = scramble(net).float().train()
    x, labels = images(7, height=8, width=8).float(), torch.arange(7)
    parts = zip(x.split(4), labels.split(4), strict=True)
    found = embed(net, ({"image": image, "label": label} for image, label in parts))
    assert net.training and torch.equal(found.labels, labels)
    assert not found.vectors.requires_grad and not found.vectors.is_inference()
    torch.testing.assert_close(found.vectors, net.eval().features(x).detach())
    assert embed(net, [{"image": x}]).labels is None


def test_a_network_without_features_gives_the_mean_of_its_map():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 4, 1)

        def feature_map(self, images):
            return self.layer(images)

    net, x = Map().double(), images()
    expected = net.feature_map(x).mean(dim=(2, 3)).float()
    torch.testing.assert_close(embed(net, [{"image": x}]).vectors, expected.detach())


def test_refuses(data):
    train, labels, queries, _ = data
    x = images(4)
    x[3, 0, 0, 0] = -torch.inf
    too_large = SmallCNN()
    nn.init.constant_(next(too_large.parameters()), torch.inf)
    for call, message in {
        lambda: neighbours(train, queries, 0): "k must be at least 1, got 0",
        lambda: neighbours(train, queries, 121): "k must be at most the 120 rows of train, got 121",
        lambda: classify(train, labels, queries, 5, 0.0): "temperature must be positive, got 0",
        lambda: classify(train, labels[:3], queries): "labels must be 120 numbers, got 3",
        lambda: embed(SmallCNN(), [{"image": x[:2]}, {"image": x[2:]}]): "row 3: a pixel",
        lambda: embed(SmallCNN(), []): "batches must have at least 1 batch, got 0",
        lambda: embed(too_large, [{"image": images(2)}]): "row 0: a feature is infinite",
        lambda: embed(
            SmallCNN(), [{"image": images(2), "label": labels[:2]}, {"image": images(2)}]
        ): ("label must be in all 2 batches, got 1"),
        lambda: classify(train, labels - 1, queries): r"classes must be in 0\.\..*, got -1\.\.",
        lambda: classify(train, labels, queries[:0]): "queries must be at least 1, got 0",
        lambda: vote(train[:2, :3], torch.full((2, 3), 7), num_classes=5): r"in 0\.\.4, got 7\.\.7",
        lambda: embed(nn.Linear(9, 2), [{"image": x[:2]}]): "Linear has neither feature_map",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
