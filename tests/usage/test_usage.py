"""Each task names its hub's tag, an example, and the command that runs it."""

import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dlreview import usage
from dlreview.data.images import Images
from dlreview.usage import classification

TASKS = {"classification", "diffusion", "tagging", "text_generation", "words"}


@pytest.mark.parametrize("task", usage.tasks())
def test_every_task_keeps_the_contract(task, tmp_path):
    module = usage.task_of({"task": task})
    assert module.FLAGS and module.HELP and isinstance(module.FILES, bool)
    words = module.example(None, tmp_path)
    least, most = module.WORDS
    assert words is None or least <= len(words) <= most
    assert usage.tag_of({"task": task}) == module.tag({})


def test_the_tasks_that_the_learners_name_are_here():
    assert set(usage.tasks()) >= TASKS


@pytest.mark.parametrize("channels", [1, 3])
def test_the_example_of_a_classifier_is_a_test_picture(channels, tmp_path):
    data = Images("digits", channels=channels)
    data.setup()
    called = {"task": "classification"}
    words = usage.example(called, data, tmp_path)
    assert words == [str(tmp_path / "example.png")]
    with Image.open(words[0]) as picture:
        pixels = np.asarray(picture).reshape(8, 8, channels).transpose(2, 0, 1)
    assert (pixels == data.test_set[[0]]["image"][0].numpy()).all()
    assert usage.beside(called, words) == (["example.png"], {"example.png": tmp_path / words[0]})


@pytest.mark.parametrize(
    "test_set",
    [None, [1, 2], {}, torch.ones(3), {0: 1}],
)
def test_data_of_another_form_gives_no_picture(test_set, tmp_path):
    assert classification.example(SimpleNamespace(test_set=test_set), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_next_command_is_one_for_the_shell(tmp_path):
    command = usage.next_command({"task": "tagging"}, "my runs/0", ["It's a dog ."])
    assert shlex.split(command) == [
        "python", "-m", "dlreview.sample", "my runs/0", "It's a dog ."
    ]  # fmt: skip
    assert usage.next_command({"task": "words"}, "x", []) == "python -m dlreview.sample x"
    for called, words in (({}, []), ({"task": "x"}, []), ({"task": "words"}, None)):
        assert usage.next_command(called, "x", words) is None
    assert usage.next_command({"task": "classification"}, "x", []) is None, "it needs a picture"
    assert usage.example({}, None, tmp_path) is None and usage.tag_of({}) is None
    assert usage.beside({"task": "tagging"}, ["a b"]) == (["a b"], {})


def test_a_kept_example():
    assert usage.example_of({"example": ["a"]}) == ["a"]
    assert usage.example_of({}) == [] and usage.example_of({"example": "a"}) is None
