"""A tagger reads words and letters; padding and other sentences of the batch change nothing."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.nn.rnn import RNN
from dlreview.nn.tagger import RecurrentTagger, Spelling
from tests.parity import scramble

WORDS, TAGS = 13, 5
SAME = {"rtol": 1e-12, "atol": 1e-12}


def tagger(core=None, **options):
    return RecurrentTagger(WORDS, TAGS, 4, Spelling(7, 3, 2), core or BiLSTM(8, 6), **options)


def batch():
    words = torch.tensor([[1, 2, 3, 4], [5, 2, 0, 0], [6, 0, 0, 0]])
    spellings = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0], [7, 7, 7], [2, 1, 0]])
    form = torch.tensor([[0, 1, 2, 3], [4, 1, 0, 0], [2, 0, 0, 0]])
    return words, spellings, form, torch.tensor([4, 2, 1])


def test_spelling_is_the_last_state_of_both_directions():
    spelling = scramble(Spelling(7, 3, 2))
    with torch.no_grad():
        spelling.embedding.weight[0] = 0
    _, spellings, _, _ = batch()
    found = spelling(spellings)
    assert found.shape == (5, 4)
    for row, letters in enumerate(spellings):
        alone = spelling.embedding(letters[letters > 0])[None]
        outputs, _ = spelling.reader(alone)
        expected = torch.cat([outputs[0, -1, :2], outputs[0, 0, 2:]])
        torch.testing.assert_close(found[row], expected, **SAME)


@pytest.mark.parametrize("core", [BiLSTM(8, 6), LSTM(8, 6, projection=3), RNN(8, 6, directions=2)])
def test_a_sentence_alone_is_tagged_as_in_a_batch(core):
    net = scramble(tagger(core))
    words, spellings, form, lengths = batch()
    logits = net(words, spellings, form, lengths)
    assert logits.shape == (3, 4, TAGS)
    for row, length in enumerate(lengths.tolist()):
        used = form[row, :length]
        alone = net(
            words[row : row + 1, :length],
            spellings[used],
            torch.arange(length)[None],
            torch.tensor([length]),
        )
        torch.testing.assert_close(alone[0], logits[row, :length], **SAME)


def test_core_reads_words_joined_with_their_spellings():
    net = scramble(tagger())
    words, spellings, form, lengths = batch()
    x = torch.cat([net.embedding.weight[words], net.spelling(spellings)[form]], -1)
    h, _ = net.core(pack_padded_sequence(x, lengths, batch_first=True))
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(h, batch_first=True)
    vectors = net.vectors(words, spellings, form, lengths)
    torch.testing.assert_close(vectors, h, **SAME)
    expected = h @ net.M.weight.T + net.M.bias
    torch.testing.assert_close(net(words, spellings, form, lengths), expected, **SAME)


def test_the_same_word_gets_another_vector_elsewhere():
    """A BiLSTM sees the words after a word, an LSTM does not (rows 17 and 18)."""
    words, spellings, form, lengths = batch()
    other = words.clone()
    other[0, 3] = 9
    for core, forward_only in ((LSTM(8, 6), True), (BiLSTM(8, 6), False)):
        net = scramble(tagger(core))
        one, two = (net.vectors(w, spellings, form, lengths)[0, 1] for w in (words, other))
        assert torch.equal(one, two) == forward_only


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tagger(BiLSTM(9, 6)), "input_width of core must be .* = 8, got 9"),
        (lambda: tagger(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: RecurrentTagger(0, TAGS, 4, Spelling(7, 3, 2), BiLSTM(8, 6)), "vocabulary_size"),
        (lambda: RecurrentTagger(WORDS, 0, 4, Spelling(7, 3, 2), BiLSTM(8, 6)), "num_tags"),
        (lambda: Spelling(0, 3, 2), "letters must be at least 1, got 0"),
        (lambda: Spelling(7, 3, -2), "^width must be at least 1, got -2"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
