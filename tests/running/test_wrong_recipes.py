"""Mistakes in recipes: each ends with status 2 and at most three lines that name the key.

The mistakes are made from the structure of one recipe for each learner, so that a new learner and a
new key are covered when they appear.
"""

import copy
import functools
import os
from pathlib import Path

import pytest
import yaml

from dlreview.fit import main
from dlreview.running import builder, session
from dlreview.running.recipe import override
from tests.running.recipes import EMBEDDED, ONE_EACH, PATHS, TREES

GOOD = TREES["quickstart"]
# Integers that must be at least 1; every other integer may be 0 or negative somewhere.
COUNTS = {"widths.0", "widths.1", "blocks_per_level", "timesteps", "sample_steps", "batch_size",
          "check_val_every_n_epoch", "groups", "vocabulary_size", "min_count", "length",
          "word_width", "letter_width", "patch_size", "depth", "heads",
          "tokens_per_batch"}  # fmt: skip


def walk(tree, path=()):
    """Yield (path, value) of every section, list and leaf."""
    yield path, tree
    if not isinstance(tree, dict | list):
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield from walk(value, (*path, key))


def with_value(path, value, good=GOOD):
    """Return a recipe, the quickstart, with one value replaced."""
    tree = copy.deepcopy(good)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def from_structure(good):
    """Yield (name, recipe, what the message must name) of mistakes in a recipe's own keys."""
    for path, value in walk(good):
        dotted = ".".join(map(str, path))
        if isinstance(value, dict):
            for key in value:
                tree = copy.deepcopy(good)
                node = tree
                for step in path:
                    node = node[step]
                node[f"{key}x"] = node.pop(key)
                yield f"misspelt {dotted}.{key}", tree, str(key)
        elif not isinstance(value, list) and path:
            leaf = str(path[-1]) if isinstance(path[-1], str) else f"{path[-2]}|{path[-1]}"
            lists = [str(path[i - 1]) for i, key in enumerate(path) if isinstance(key, int)]
            wrong = {"a": "mapping"} if path[-1] != "class_path" else "os.system"
            yield (
                f"{dotted} of another type",
                with_value(path, wrong, good),
                "|".join([leaf, *lists]),
            )
            if ".".join(map(str, path[-2:])) in COUNTS or leaf in COUNTS:
                yield f"{dotted} negative", with_value(path, -2, good), leaf
                yield f"{dotted} zero", with_value(path, 0, good), leaf


def language_mistakes():
    """Yield (recipe, key, value, what the message must name) of the language chapter."""
    bert, gpt = "masked_lm_bert_python", "language_model_gpt_python"
    numbers, digits = "translation_transformer_numbers", "captioner_vit_digits"
    for recipe, length in ((bert, 128), (gpt, 128), (numbers, 32)):
        told = f"max_length: is {length - 1}, the data has {length}"
        yield recipe, "model.net.max_length", length - 1, told
        yield recipe, "model.net.heads", 3, "width 128 must be divisible by heads 3"
        yield recipe, "model.net.vocabulary_size", 9, "vocabulary_size: is 9, the data has"
    for recipe in (bert, numbers):
        yield recipe, "data.tokens_per_batch", 20, "tokens_per_batch must be at least"
    yield from (
        (bert, "model.net.head.width", 64, "width of head must be width 128, got 64"),
        (bert, "model.share", 0, "share"),
        (bert, "data.length", 2, "length must be at least 3, got 2"),
        (bert, "data.tokenizer.vocabulary_size", 261, "vocabulary_size must be at least 262"),
        (gpt, "data.vocabulary_size", 100, "set the tokenizer's vocabulary_size"),
        (gpt, "data.length", 10**6, "tokens are too few for 8 lanes"),
        (gpt, "model.net.block", "{class_path: dlreview.nn.transformer.Block,"
         " init_args: {width: 64, heads: 4}}", "width of block must be width 128, got 64"),
        (gpt, "trainer.strategy", "fsdp", "FSDPStrategy is not supported"),
        (gpt, "trainer.strategy", "lightning.pytorch.strategies.ModelParallelStrategy",
         "data_parallel_size: must be 1, got auto"),
        (gpt, "trainer.strategy",
         "{class_path: lightning.pytorch.strategies.ModelParallelStrategy, init_args:"
         " {data_parallel_size: 1, tensor_parallel_size: 1}}",
         "save_distributed_checkpoint: must be false, got true"),
        ("language_model_lstm_python", "trainer.strategy",
         "lightning.pytorch.strategies.ModelParallelStrategy", "cannot share the weights of"),
        (numbers, "data.source", "digit", "column of 'numbers' 'digit' is unknown; did you mean"),
        (numbers, "data.target", "nosuch", "column of 'numbers' 'nosuch' is unknown"),
        (numbers, "data.target", "digits", "source and target are the same column"),
        (numbers, "data.length", 4, "have more than 4 tokens (length)"),
        (numbers, "model.label_smoothing", 1.5, "label_smoothing must be in [0, 1), got 1.5"),
        (digits, "data.text_column", "caption", "has no column 'caption'"),
        (digits, "data.template", "a photo", "has no {} for the name of the class"),
        (digits, "data.length", 2, "length must be at least 3, got 2"),
        (digits, "model.net.decoder.max_length", 63, "max_length: is 63, the data has 64"),
        (digits, "model.net.decoder.block.heads", 3, "width 64 must be divisible by heads 3"),
        (digits, "model.net.decoder.block", "null", "block of decoder must be a DecoderBlock"),
        (digits, "model.net.decoder.block.context_width", 48, "context_width of decoder must be"),
    )  # fmt: skip


def mistakes():
    """Yield the mistakes of all learners' recipes, and some that need a value of their own."""
    for recipe in ONE_EACH:
        for name, tree, told in from_structure(TREES[recipe]):
            yield f"{recipe}: {name}", tree, told
    for recipe, path, value, told in (
        ("word2vec_skipgram_python", "model.net.vocabulary_size", 7, "is 7, the data has 1500"),
        ("word2vec_skipgram_python", "model.method", "skip-gram", "method"),
        ("word2vec_skipgram_python", "model.objective", "full_softmax", "update"),
        ("word2vec_skipgram_python", "model.update", "autogard", "did you mean autograd|update"),
        ("word2vec_skipgram_python", "data.min_count", 10**9, "no word occurs 1000000000 times"),
        ("word2vec_skipgram_python", "data.path", "./nowhere", "no such folder"),
        ("word2vec_skipgram_python", "trainer.devices", 2, "runs in one process"),
        ("tagger_bilstm_python", "data.path", __file__, "is a file"),
        ("language_model_lstm_python", "model.net.vocabulary_size", 7, "is 7, the data has 2000"),
        ("language_model_lstm_python", "model.net.core.width", 0, "width"),
        ("language_model_lstm_python", "data.length", 10**6, "too few for 32 lanes"),
        ("language_model_lstm_python", "data.vocabulary_size", 2, "at least 3, got 2"),
        ("tagger_bilstm_python", "model.net.num_tags", 3, "num_tags: is 3, the data has 13"),
        (
            "tagger_bilstm_python",
            "model.net.spelling.letters",
            3,
            "spelling.letters: is 3, the data has",
        ),
        ("tagger_bilstm_python", "model.net.core.input_width", 95, "96"),
        ("tagger_bilstm_python", "model.shown", "nosuchword", "has no such word"),
        ("tagger_bilstm_python", "data.batch_size", 10**6, "batch_size 1000000 is more than"),
        ("classifier_vit_digits", "model.net.image_channels", 3, "is 3, the data has 1"),
        ("classifier_vit_digits", "model.net.image_size", 16, "is 16, the data has 8"),
        (
            "classifier_vit_digits",
            "model.net.embedding",
            "{class_path: dlreview.nn.patch_embedding.PatchEmbedding,"
            " init_args: {patch_size: 2, width: 32}}",
            "32",
        ),
        ("classifier_vit_digits", "model.net", "torch.nn.Flatten", "patch_size: unknown key"),
        ("classifier_vit_digits", "model.num_classes", 7, "num_classes: is 7, the data has 10"),
        ("quickstart", "model.net.image_channels", 3, "is 3, the data has 1"),
        ("quickstart", "model.net.label.num_classes", 11, "is 11, the data has 10"),
        ("quickstart", "model.net.widths", "[32, 64, 64, 64, 64]", "must have 5 levels"),
        ("quickstart", "model.net.label", "null", "needs a network"),
        (
            "quickstart",
            "model.lr_schedule",
            "{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {total_steps: 7}}",
            "total_steps: is 7, the training has 1408 steps",
        ),
        (
            "quickstart",
            "model.lr_schedule",
            "{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {max_lr: 0.5}}",
            "max_lr: is 0.5, optimizer.lr is 0.002",
        ),
        ("classifier_vit_digits", "model.net.num_classes", 7, "num_classes: is 7, the data has 10"),
        *language_mistakes(),
    ):
        tree = copy.deepcopy(TREES[recipe])
        override(tree, path, str(value))
        yield f"{recipe}: {path} = {value!r}", tree, told
    net = ("model", "init_args", "net")
    for path, value, told in (
        (("model",), None, "model"),
        (("model",), "dlreview.learners.ddpm.DDPM", "net"),
        (("data",), "dlreview.data.images.Imagess", "did you mean Images?"),
        (("data", "class_path"), "dlreview.learners.ddpm.DDPM", "LightningDataModule"),
        ((*net, "class_path"), "dlreview.nn.diffusion_unet.DiffusionUnet", "did you mean Diffu"),
        ((*net, "class_path"), "torch.optim.AdamW", "is no network"),
        ((*net, "class_path"), "torch.os.system", "outside the allowed packages"),
        ((*net, "class_path"), "sklearn.svm.SVC", "outside the allowed packages"),
        (net, "antigravity.Easter", "outside the allowed packages"),
        ((*net, "init_args", "widths"), [10**9, 10**9], "GiB|overflow"),
        ((*net, "init_args", "blocks_per_level"), 10**12, "blocks_per_level|tensors|GiB"),
        (("trainer", "callbacks", 0), "this.Zen", "outside the allowed packages"),
        (("trainer", "profiler"), "this.Zen", "profiler"),
        (("trainer", "strategy"), "this.zen", "strategy"),
        (("trainer", "precision"), "bf16-mixd", "did you mean bf16-mixed"),
        (("trainer", "accelerator"), "gpuu", "gpuu"),
        (("trainer", "max_epochs"), "ten", "max_epochs"),
        (("trainer", "max_epochs"), -3, "at least -1"),
        (("trainer", "max_epochs"), 0, "nothing to train"),
        (("trainer", "devices"), 0, "device|0"),
        (("model", "init_args", "optimizer", "init_args", "lr"), -1.0, "earning rate"),
        (("model", "init_args", "lr_schedule", "init_args", "pct_start"), -1.0, "pct_start"),
        (("data", "init_args", "path"), "./nowhere", "no such folder"),
        (("data", "init_args", "batch_size"), 100_000, "batch_size"),
        (("seed_everything",), -1, "seed_everything"),
        (("extra",), {"a": 1}, "did you mean|valid"),
    ):
        yield f"{'.'.join(map(str, path))} = {value!r}", with_value(path, value), told


CASES = list(mistakes())


@functools.cache
def opened(text):
    return build(builder.Section("data", yaml.safe_load(text)))


build = builder.build_data


@pytest.fixture
def judge(tmp_path, monkeypatch, capsys):
    """Return a function that runs `fit` on a text, without training, and checks how it refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session.Fit, "train", lambda self: 0)
    # Each data set is read once, whatever recipe it is in.
    monkeypatch.setattr(builder, "build_data", lambda s: copy.copy(opened(yaml.safe_dump(s.tree))))

    def run(text, *flags, told):
        Path("r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        before = set(os.listdir())
        status = main(["r.yaml", "--wandb", "off", *flags])
        error = capsys.readouterr().err
        assert status == 2, f"status {status}: {error}"
        assert len(error.splitlines()) <= 3, error
        assert any(word in error for word in told.split("|")), error
        assert "Traceback" not in error
        assert set(os.listdir()) == before, "a refused recipe leaves nothing behind"

    return run


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_recipes_themselves_pass(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session.Fit, "train", lambda self: 0)
    assert main([str(PATHS[name]), "--wandb", "off"]) == 0


@pytest.mark.parametrize("name", sorted(set(PATHS) - set(EMBEDDED)))
def test_recipes_whose_data_are_not_here_have_sound_keys_and_types(name):
    session.check_recipe(TREES[name])


@pytest.mark.parametrize(("tree", "told"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_mistake_is_refused(judge, tree, told):
    judge(yaml.safe_dump(tree, sort_keys=False), told=told)


def test_there_are_hundreds():
    assert len(CASES) >= 300


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "mapping"),
        ("- 1\n- 2", "mapping"),
        ("{", "not YAML"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "UTF-8"),
        ("model: !!python/object/apply:os.system ['touch pwned']", "tags"),
        ("model: 1\nmodel: 2", "twice"),
        ("model: {}\n---\nmodel: {}", "document"),
    ],
)
def test_each_file_that_is_no_recipe_is_refused(judge, text, told):
    judge(text, told=told)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model.net.widht", "3"], "widht"),
        (["--model.net", "{init_args: {widths: [8]}}"], "class_path: the class is missing|net"),
        (
            ["--data", "{class_path: dlreview.data.stream.Stream}"],
            "data.class_path: DDPM reads image",
        ),
        (["--model.net=os.system"], "outside the allowed packages"),
        (["--model.net.class_path", "subprocess.Popen"], "outside the allowed packages"),
        (["--trainer.max_epochs", "ten"], "max_epochs"),
        (["--trainer.max_epochs"], "needs a value"),
        (["--trianer.max_epochs", "3"], "unknown flag"),
        (["--model.net.widths", "[1, 2"], "not YAML"),
        (["--checkpoint_every", "0"], "checkpoint_every"),
        (["--wandb", "ofline"], "wandb"),
        (["--trust", "../evil"], "trust"),
        (["--resume"], "no run"),
        (["--resume", "--out", "nowhere"], "no run"),
        (["--out", "r.yaml"], "not a folder"),
        (["another.yaml"], "too many words"),
    ],
)
def test_each_wrong_command_is_refused(judge, flags, told):
    judge(PATHS["quickstart"].read_text(), *flags, told=told)


def test_a_used_folder_needs_resume(judge):
    Path("used").mkdir()
    Path("used/file").write_text("mine")
    judge(PATHS["quickstart"].read_text(), "--out", "used", told="not empty")
    assert Path("used/file").read_text() == "mine"


def test_a_missing_recipe_is_refused(capsys):
    assert main(["recipes/quickstrat.yaml"]) == 2
    assert "quickstrat.yaml: cannot be read" in capsys.readouterr().err
