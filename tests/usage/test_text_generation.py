"""`sample` goes on with a text: token by token as the network says, until the text ends."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel, Fuse

from dlreview import sample, saved
from dlreview.messages import UserError
from dlreview.nn.gpt import GPT
from dlreview.nn.lstm import LSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.usage import text_generation
from tests.parity import scramble

WORDS = ["<unk>", "<eos>", "the", "cat", "sat", "down", "twice"]
USAGE = {"task": "text_generation", "words": WORDS}


def model(folder, usage=USAGE):
    net = scramble(RecurrentLanguageModel(len(WORDS), LSTM(5, 8)), spread=1.0).float()
    saved.save({"net": net}, folder, "card", usage)
    return net


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return model(tmp_path / "model")


def written(capsys, *argv):
    assert sample.main(["model", *map(str, argv)]) == 0
    return capsys.readouterr().out.splitlines()[1:]  # the first names the network


def likeliest(net, begin, length):
    """Go on greedily, reading the whole text anew for each word."""
    ids = [1, *(WORDS.index(word) for word in begin)]
    for _ in range(length):
        logits = net(torch.tensor([ids]))[0][0, -1].clone()
        logits[0] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == 1:
            break
    return " ".join(WORDS[n] for n in ids[1:] if n != 1)


@pytest.mark.parametrize("begin", [[], ["the"], ["the", "cat"]])
def test_temperature_zero_is_the_likeliest_text(net, capsys, begin):
    lines = written(capsys, *begin, "--temperature", 0, "--count", 2, "--length", 9)
    assert lines == [likeliest(net, begin, 9)] * 2


def test_words_may_come_as_one_text_and_with_capitals(net, capsys):
    greedy = ("--temperature", 0, "--count", 1, "--length", 5)
    assert written(capsys, "The cat", *greedy) == written(capsys, "the", "cat", *greedy)


def test_the_seed_decides_and_unknown_words_are_never_written(net, capsys):
    one = written(capsys, "--seed", 3, "--count", 30, "--length", 20)
    assert one == written(capsys, "--seed", 3, "--count", 30, "--length", 20)
    assert one != written(capsys, "--seed", 4, "--count", 30, "--length", 20)
    assert len(one) == 30 and len(set(one)) > 5
    assert not any("<" in line or len(line.split()) > 20 for line in one)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["catt"], "did you mean cat"),
        (["--temperature", "-1"], "--temperature"),
        (["--top_p", "1.5"], "--top_p"),
        (["--top_k", "0"], "--top_k"),
        (["--length", "0"], "--length"),
        (["--min_p", "2"], "--min_p"),
        (["--beams", "0"], "--beams"),
        (["--beams", "2", "--count", "3"], "--count: count must be at most beams 2, got 3"),
        (["--beams", "2", "--top_k", "3"], "--top_k"),
        (["--length_penalty", "2"], "--beams"),
    ],
)
def test_mistakes_are_told(net, capsys, argv, told):
    assert sample.main(["model", *argv]) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) <= 3


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_after_the_words_are_never_written(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = scramble(RecurrentLanguageModel(len(WORDS) + rows, LSTM(5, 8)), spread=1.0).float()
    saved.save({"net": net}, tmp_path / "model", "card", USAGE)
    lines = written(capsys, "--count", 40, "--length", 20)
    assert set(" ".join(lines).split()) <= set(WORDS[2:])


def test_more_words_than_rows_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in ([*WORDS, "more"], []):
        model(tmp_path / "model", USAGE | {"words": words})
        assert sample.main(["model"]) == 1
        assert f"{len(words)} words for this RecurrentLanguageModel" in capsys.readouterr().err


@torch.no_grad()
def score(net, text):
    """Return the log-probability of a text, and of its end if it has fewer than 4 words."""
    ids = [1, *(WORDS.index(word) for word in text.split())]
    ids += [1] * (len(ids) < 5)
    log_p = net(torch.tensor([ids]))[0][0].log_softmax(-1)
    return sum(float(log_p[i, ids[i + 1]]) for i in range(len(ids) - 1))


def test_a_search_finds_likelier_texts_and_takes_no_chance(net, capsys):
    options = ("--length", 4, "--length_penalty", 0)
    lines = written(capsys, "--beams", 6, "--count", 6, *options)
    assert len(set(lines)) == 6
    scores = [score(net, line) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] >= score(net, likeliest(net, [], 4)) - 1e-4
    assert written(capsys, "--beams", 6, "--seed", 9, *options) == lines[:1]


SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>", "<mask>"]
TEXT = "the cat sat down.\nthe cat sat twice."


def characters():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = Fuse()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return json.loads(tokenizer.to_str())


def pairs_of_bytes():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return json.loads(tokenizer.to_str())


def sampled(capsys, net, parsed, words, **options):
    defaults = {name[2:]: flag.default for name, flag in text_generation.FLAGS.items()}
    text_generation.sample(net, {"tokenizer": parsed}, words, defaults | options)
    return capsys.readouterr().out


def gpt(parsed, max_length=24):
    size = Tokenizer.from_str(json.dumps(parsed)).get_vocab_size() + 2
    return scramble(GPT(size, 8, 2, 2, max_length), spread=0.4).float()


@pytest.mark.parametrize("tokenizer", [characters, pairs_of_bytes])
@pytest.mark.parametrize("begin", [[], ["the"], ["the cat", "sat"]])
def test_a_network_with_a_cache_writes_through_its_tokenizer(tokenizer, begin, capsys):
    parsed = tokenizer()
    net, library = gpt(parsed), Tokenizer.from_str(json.dumps(parsed))
    prompt = library.encode(" ".join(begin)).ids
    ids, end = [library.token_to_id("<eos>"), *prompt], library.token_to_id("<eos>")
    never = [n for n in range(net.vocabulary_size) if n < 5 and n != end]
    for _ in range(8):
        logits = net.read(torch.tensor([ids]), net.start(24))[0].clone()
        logits[never] = logits[-2:] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == end:
            break
    expected = library.decode(ids)
    out = sampled(capsys, net, parsed, begin, temperature=0.0, count=1, length=8)
    assert out == expected + "\n" and out.startswith(" ".join(begin))
    searched = sampled(capsys, net, parsed, begin, beams=4, count=2, length=8)
    assert searched.startswith(" ".join(begin)) and searched.count(" ".join(begin)) >= 2


def test_a_saved_gpt_is_sampled_by_what_lies_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parsed = characters()
    usage = {"task": "text_generation", "tokenizer": parsed}
    net = gpt(parsed)
    saved.save({"net": net}, tmp_path / "model", "card", usage)
    lines = written(capsys, "the", "--beams", 3, "--count", 3, "--length", 7)
    expected = sampled(capsys, net, parsed, ["the"], beams=3, count=3, length=7)
    assert "\n".join(lines) + "\n" == expected


def test_texts_with_line_breaks_are_set_apart_and_special_tokens_never_written(capsys):
    parsed = characters()
    out = sampled(capsys, gpt(parsed), parsed, ["the"], count=30, length=9, temperature=2.0)
    assert out.count("the") >= 30 and "\n\nthe" in out and "<" not in out
    assert "\n" in out.replace("\n\nthe", "").rstrip(), "the network writes line breaks too"


def test_what_the_tokenizer_lacks_is_told(capsys):
    parsed = characters()
    with pytest.raises(UserError, match="é: is not among the 19 tokens of this network"):
        sampled(capsys, gpt(parsed), parsed, ["thé"])
    with pytest.raises(ValueError, match=r"usage.json: tokenizer: "):
        sampled(capsys, gpt(parsed), {"model": 3}, [])
    with pytest.raises(ValueError, match="19 tokens for this GPT"):
        sampled(capsys, GPT(18, 4, 1, 1, 9), parsed, [])
    bare = Tokenizer(models.WordLevel({"the": 0}, unk_token="the"))
    with pytest.raises(ValueError, match=r"usage.json: tokenizer: the first tokens must be <pad>"):
        sampled(capsys, GPT(3, 4, 1, 1, 9), json.loads(bare.to_str()), [])


def test_a_text_that_leaves_too_few_positions_is_told(capsys):
    parsed = characters()
    net = gpt(parsed, max_length=12)
    with pytest.raises(
        UserError, match="9 after 4 tokens are more than max_length 12\nvalid: at most 8"
    ):
        sampled(capsys, net, parsed, ["the"], length=9)
    sampled(capsys, net, parsed, ["the"], length=8)
    assert len(sampled(capsys, net, parsed, ["the"], count=1)) <= 12
    with pytest.raises(UserError, match="the text has 12 tokens; this network goes on from 11"):
        sampled(capsys, net, parsed, ["the cat sat"])
