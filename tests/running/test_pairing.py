"""A learner with batches that it cannot read is refused, by what both say and by what they do."""

import itertools
from types import SimpleNamespace

import pytest
from torch import nn

from dlreview.data.corpus import Corpus
from dlreview.data.images import Images
from dlreview.data.stream import Stream
from dlreview.data.tagged import Tagged
from dlreview.learners.classifier import Classifier
from dlreview.learners.ddpm import DDPM
from dlreview.learners.language_model import LanguageModel
from dlreview.learners.tagger import Tagger
from dlreview.learners.word2vec import Word2Vec
from dlreview.messages import UserError
from dlreview.running.pairing import check_call, check_pair

DATA = (Corpus, Images, Stream, Tagged)
FOR = {Classifier: Images, DDPM: Images, LanguageModel: Stream, Tagger: Tagged, Word2Vec: Corpus}


@pytest.mark.parametrize(("learner", "data"), [*itertools.product(FOR, DATA)])
def test_pairs(learner, data):
    learner, data = learner.__new__(learner), data.__new__(data)
    if isinstance(data, FOR[type(learner)]):
        check_pair(learner, data)
        return
    with pytest.raises(UserError) as error:
        check_pair(learner, data)
    problem, hint = str(error.value).split("\n")
    assert problem.startswith(f"data.class_path: {type(learner).__name__} reads ")
    right = FOR[type(learner)]
    assert hint == f"valid here: {right.__module__}.{right.__name__}"


def test_of_other_classes_nothing_is_known():
    image = SimpleNamespace(reads=("image",))
    check_pair(image, SimpleNamespace())
    check_pair(SimpleNamespace(), SimpleNamespace(gives=("text",)))
    with pytest.raises(UserError, match=r"gives text$"):
        check_pair(SimpleNamespace(reads=("sound",)), SimpleNamespace(gives=("text",)))


@pytest.mark.parametrize("kind", DATA)
def test_batches_hold_what_is_said(kind):
    path = {Images: "digits", Tagged: "python-source"}.get(kind, "python-reference")
    data = kind(path=path, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == set(kind.gives)


def test_a_network_for_something_else():
    check_call(SimpleNamespace(calls=("images",), net=nn.Linear(2, 2)))
    check_call(SimpleNamespace(net=nn.Linear(2, 2)))
    check_call(SimpleNamespace(calls=("q", "k"), net=nn.Bilinear(2, 2, 2)))
    with pytest.raises(UserError, match=r"calls net\(x_t, t\), Linear takes \(input\)$"):
        check_call(SimpleNamespace(calls=("x_t", "t"), net=nn.Linear(2, 2)))
