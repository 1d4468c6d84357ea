"""The captioner: captions that it writes by itself, their scores, an encoder from elsewhere."""

from functools import partial

import pytest
import torch

from dlreview.data.pairs import ImageText
from dlreview.learners import captioner
from dlreview.learners.captioner import Captioner
from dlreview.learners.written import write_texts
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
from dlreview.nn.norm import LayerNorm
from dlreview.nn.vit import ViT
from tests.learners import bare_trainer

trainer = partial(bare_trainer.trainer, limit_train_batches=3, limit_val_batches=2)
IMAGE = {"image_size": 8, "image_channels": 1, "patch_size": 4}


@pytest.fixture(scope="module")
def digits():
    data = ImageText(batch_size=32, length=9)
    data.setup()
    return data


def net(data, width=16, **encoder):
    sizes = {name: data.sizes[name] for name in ("vocabulary_size", "max_length")}
    return VisionEncoderDecoder(
        ViT(**IMAGE | {"width": 12, "depth": 1, "heads": 3} | encoder),
        GPT(**sizes, width=width, depth=1, heads=2, block=DecoderBlock(width, 2)),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_each_token_is_a_closed_form(digits, smoothing):
    learner = Captioner(net(digits).double(), label_smoothing=smoothing)
    batch = digits.train_set[[3, 4, 5]]
    batch["image"] = digits.on_after_batch_transfer(batch, 0)["image"].double()
    batch["ids"][1, 4:], batch["mask"][1, 4:] = 0, False  # one caption is shorter
    losses, weights = learner.loss(batch, learner.random(batch))
    loss, expected = losses[weights > 0], []
    for row in range(3):
        ids = batch["ids"][row][batch["mask"][row]]
        log_p = learner.net(batch["image"][row : row + 1], ids[None, :-1])[0].log_softmax(1)
        picked = log_p.gather(1, ids[1:, None])[:, 0]
        expected.append(-(1 - smoothing) * picked - smoothing * log_p.mean(1))
    torch.testing.assert_close(loss, torch.cat(expected), rtol=1e-10, atol=1e-10)


def test_it_learns_captions_by_heart(digits):
    torch.manual_seed(0)
    learner = Captioner(net(digits, 32), partial(torch.optim.AdamW, lr=4e-3))
    batch = digits.on_after_batch_transfer(digits.train_set[list(range(10))], 0)
    optimizer = learner.configure_optimizers()
    for _ in range(150):
        losses, weights = learner.loss(batch, learner.random(batch))
        loss = losses[weights > 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model = learner.net.eval()
    written = write_texts(model, model.start(batch["image"], 9), 10, 9)
    wanted = digits.encoder.decode_all(batch["ids"].tolist())
    assert len(set(wanted)) > 5
    assert digits.encoder.decode_all(written.tolist()) == wanted


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_trains_measures_and_draws(tmp_path, digits, precision):
    learner = Captioner(net(digits), captioned=40)
    run = trainer(tmp_path, precision=precision)
    run.fit(learner, datamodule=digits)
    metrics = run.callback_metrics
    assert 0 < metrics["train/loss"] < 10 and 0 <= metrics["val/exact"] <= 1
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["looked_000003.png"]
    rows = [line.split("\t") for line in (tmp_path / "captions.tsv").read_text().splitlines()]
    assert rows[0] == ["read", "written", "wanted"]
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(20)]
    assert all(row[2].startswith("a photo of a ") for row in rows[1:])


def test_the_scores_of_written_captions(tmp_path, digits, monkeypatch):
    """Of 40 captions every fourth is right, the others have the right words but the last."""
    wanted = []

    def write(net, cache, rows, length):
        first = len(wanted)
        ids = digits.test_set[list(range(first, first + rows))]["ids"]
        wanted.extend(digits.encoder.decode_all(ids.tolist()))
        change = torch.tensor([(first + n) % 4 > 0 for n in range(rows)])
        ids[change, 5] = ids[change, 1]  # "a photo of a a"
        return ids

    monkeypatch.setattr(captioner, "write_texts", write)
    run = trainer(tmp_path)
    run.validate(Captioner(net(digits), captioned=40), datamodule=digits, verbose=False)
    assert len(wanted) == 40
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    most = max(wanted.count(text) for text in wanted)
    assert metrics["val/exact"] == pytest.approx(10 / 40)
    assert metrics["val/overlap"] == pytest.approx((10 + 30 * 4 / 5) / 40)
    assert metrics["val/exact_frequent"] == pytest.approx(most / 40)
    assert metrics["val/overlap_frequent"] == pytest.approx((most + (40 - most) * 4 / 5) / 40)


def test_the_most_frequent_caption_has_no_unknown_word(tmp_path, digits):
    learner, run = Captioner(net(digits), captioned=40), trainer(tmp_path)
    wanted = ["a <unk>"] * 3 + ["a two"] * 2 + ["a one"]
    learner.caption = lambda batch: learner.written.update(list(range(6)), *[wanted] * 3)
    run.limit_val_batches = 1
    run.validate(learner, datamodule=digits, verbose=False)
    assert run.callback_metrics["val/exact_frequent"] == pytest.approx(2 / 6)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # it is meant so
def test_a_frozen_encoder_stays_as_it_is(tmp_path, digits):
    learner = Captioner(net(digits, head_dropout=0.3), freeze_encoder=True)
    before = {name: value.clone() for name, value in learner.net.state_dict().items()}
    trained = [p for group in learner.configure_optimizers().param_groups for p in group["params"]]
    assert not {id(p) for p in learner.net.encoder.parameters()} & {id(p) for p in trained}
    trainer(tmp_path).fit(learner, datamodule=digits)
    for name, value in learner.net.state_dict().items():
        assert torch.equal(before[name], value) == name.startswith("encoder."), name
    assert not learner.net.encoder.training and learner.net.decoder.training


@pytest.mark.parametrize(
    "encoder",
    [{}, {"num_classes": 10, "mask_token": True, "registers": 2, "head_norm": LayerNorm(12)}],
    ids=["features", "classifier"],
)
def test_every_trained_parameter_gets_a_gradient(digits, encoder):
    """What a caption does not depend on is not trained, so that DDP does not wait for it."""
    learner = Captioner(net(digits, **encoder))
    batch = digits.on_after_batch_transfer(digits.train_set[[0, 1]], 0)
    learner.loss(batch, learner.random(batch)).losses.mean().backward()
    unused = {name for name, p in learner.net.named_parameters() if not p.requires_grad}
    none = {name for name, p in learner.net.named_parameters() if p.grad is None}
    classifier = {"head.weight", "head.bias", "head_norm.weight", "head_norm.bias"}
    classifier |= {"mask_embedding"}
    assert unused == none == ({f"encoder.{name}" for name in classifier} if encoder else set())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), got -0.1"),
        ({"captioned": 0}, "captioned must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(digits, options, told):
    with pytest.raises(ValueError, match=told):
        Captioner(net(digits), **options)
