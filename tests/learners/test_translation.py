"""Translation: the loss of each token, texts that the network writes by itself, their scores."""

from functools import partial

import pytest
import sacrebleu
import torch

from dlreview.data import numbers
from dlreview.data.tokenizer import Words
from dlreview.data.translation import Translation as Pairs
from dlreview.learners import translation
from dlreview.learners.translation import Translation
from dlreview.learners.written import write_texts
from dlreview.nn.encoder_decoder import EncoderDecoder
from tests.learners import bare_trainer

trainer = partial(bare_trainer.trainer, limit_train_batches=4)


@pytest.fixture(scope="module")
def pairs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "COUNT", 300)
        patch.setattr(numbers, "TEST_COUNT", 40)
        data = Pairs(tokens_per_batch=160, length=20, tokenizer=Words())
        data.setup()
    return data


def net(data, width=16, dropout=0.0):
    return EncoderDecoder(**data.sizes, width=width, depth=1, heads=2, dropout=dropout)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_each_token_is_a_closed_form(pairs, smoothing):
    learner = Translation(net(pairs).double(), label_smoothing=smoothing)
    batch = pairs.train_set[[3, 120, 250, 299]]
    losses, weights = learner.loss(batch, learner.random(batch))
    loss, expected = losses[weights > 0], []
    for row in range(4):
        source = batch["source"][row][batch["source_mask"][row]]
        target = batch["target"][row][batch["target_mask"][row]]
        log_p = learner.net(source[None], target[None, :-1])[0].log_softmax(1)
        for place, word in enumerate(target[1:].tolist()):
            q = torch.full((log_p.shape[1],), smoothing / log_p.shape[1], dtype=torch.float64)
            q[word] += 1 - smoothing
            expected.append(-(q * log_p[place]).sum())
    assert len({int(n) for n in batch["target_mask"].sum(1)}) > 1, "some texts are padded"
    assert len(loss) == len(expected)
    torch.testing.assert_close(loss, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_it_learns_translations_by_heart(pairs):
    torch.manual_seed(0)
    learner = Translation(net(pairs, 32), partial(torch.optim.AdamW, lr=5e-3), label_smoothing=0.0)
    batch, optimizer = pairs.train_set[list(range(60, 68))], learner.configure_optimizers()
    for _ in range(120):
        losses, weights = learner.loss(batch, learner.random(batch))
        loss = losses[weights > 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model = learner.net.eval()
    cache = model.start(batch["source"], batch["source_mask"], 12)
    written = pairs.encoder.decode_all(write_texts(model, cache, 8, 12).tolist())
    assert written == pairs.encoder.decode_all(batch["target"].tolist())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_trains_measures_and_draws(tmp_path, pairs, precision):
    learner = Translation(net(pairs, dropout=0.1), translated=7)
    run = trainer(tmp_path, precision=precision)
    run.fit(learner, datamodule=pairs)
    metrics = run.callback_metrics
    assert 0 < metrics["train/loss"] < 10 and 0 <= metrics["val/exact"] <= 1
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["alignment_000004.png"]
    assert len((tmp_path / "translations.tsv").read_text().splitlines()) == 1 + 7
    if precision == "32-true":  # the loss has no smoothing, and is a mean over tokens
        model, losses = learner.net.eval(), []
        for batch in pairs.val_dataloader():
            source, target = batch["source"], batch["target"]
            logits = model(source, target[:, :-1], batch["source_mask"])
            picked = logits.log_softmax(2).gather(2, target[:, 1:, None])[..., 0]
            losses.append(-picked[batch["target_mask"][:, 1:]].detach())
        torch.testing.assert_close(metrics["val/loss"], torch.cat(losses).mean())


def test_the_scores_of_written_texts(tmp_path, pairs, monkeypatch):
    """The network writes what is wanted for every second row, and "one" for the others.

    They are the first 15 rows of the test split, which are spread over the batches.
    """
    test = pairs.test_set[list(range(15))]
    wanted = pairs.encoder.decode_all(test["target"].tolist())
    texts = [text if row % 2 else "one" for row, text in enumerate(wanted)]
    order = [batch["row"][batch["row"] < 15].tolist() for batch in pairs.val_dataloader()]
    left = [rows for rows in order if rows]
    assert len(left) > 2 and left[0] != sorted(left[0])

    def write(net, cache, rows, length):
        written = pairs.encoder.encode([texts[row] for row in left.pop(0)])
        assert len(written) == rows
        return torch.nn.utils.rnn.pad_sequence(map(torch.tensor, written), batch_first=True)

    monkeypatch.setattr(translation, "write_texts", write)
    run = bare_trainer.trainer(tmp_path)
    run.validate(Translation(net(pairs), translated=15), datamodule=pairs, verbose=False)
    assert not left and wanted[0] != "one"
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    assert metrics["val/exact"] == pytest.approx(7 / 15)
    assert metrics["val/bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [wanted]).score)
    assert metrics["val/chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [wanted]).score)
    header, first, second, *_ = (tmp_path / "translations.tsv").read_text().splitlines()
    assert header == "read\twritten\twanted"
    sources = pairs.encoder.decode_all(test["source"][:2].tolist(), keep_unknown=True)
    assert first == f"{sources[0]}\tone\t{wanted[0]}"
    assert second == f"{sources[1]}\t{wanted[1]}\t{wanted[1]}"


def test_a_translation_with_an_unknown_word_is_never_met(tmp_path, monkeypatch):
    """Without <unk> "sieben Zebras" would be "sieben", and exact."""
    (tmp_path / "train.csv").write_text("en,de\n" + "seven,sieben\neight,acht\n" * 20)
    (tmp_path / "test.csv").write_text("en,de\nseven zebras,sieben Zebras\n")
    data = Pairs(str(tmp_path), "en", "de", length=9, tokenizer=Words())
    data.setup()
    seven = torch.tensor(data.encoder.encode(["sieben"]))
    monkeypatch.setattr(translation, "write_texts", lambda *_: seven)
    run = bare_trainer.trainer(tmp_path)
    run.validate(Translation(net(data)), datamodule=data, verbose=False)
    assert run.callback_metrics["val/exact"] == 0
    text = (tmp_path / "translations.tsv").read_text().splitlines()[1]
    assert text == "seven <unk>\tsieben\tsieben <unk>"


@pytest.mark.parametrize("fused", [False, True])
def test_bf16_mixed_clips_the_gradients_of_any_optimizer(tmp_path, pairs, fused):
    """Lightning refuses to clip those of a fused one, which has a reason for float16 only."""
    norms = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.nn.utils.get_total_norm(grads)))

    run = trainer(tmp_path, precision="bf16-mixed", gradient_clip_val=0.25, limit_val_batches=0)
    learner = Translation(net(pairs), partial(Noting, fused=fused))
    run.fit(learner, datamodule=pairs)
    assert norms == pytest.approx([0.25] * 4, rel=1e-3)


def test_every_parameter_gets_a_gradient_and_matrices_decay(pairs):
    learner = Translation(net(pairs))
    decayed, spared = learner.configure_optimizers().param_groups
    assert decayed["weight_decay"] > 0 and spared["weight_decay"] == 0
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    batch = pairs.train_set[[0, 1]]
    learner.loss(batch, learner.random(batch)).losses.mean().backward()
    assert all(p.grad is not None for p in learner.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"translated": 0}, "translated must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(pairs, options, told):
    with pytest.raises(ValueError, match=told):
        Translation(net(pairs), **options)
