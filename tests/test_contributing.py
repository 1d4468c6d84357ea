"""CONTRIBUTING.md: its files, written into a copy of the package, are sound, proved and trained."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# A file of the page: its name on a line of its own, then a block.
FILES = dict(
    re.findall(r"^`([\w/]+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)^```", PAGE, re.M | re.S)
)
RECIPE = "recipes/classifier_convmixer_digits.yaml"
SHORT = ["--wandb", "off", "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1",
         "--trainer.limit_val_batches", "1"]  # fmt: skip
DENOISER = """
model:
  class_path: dlreview.learners.denoiser.Denoiser
  init_args:
    net:
      class_path: torch.nn.Conv2d
      init_args: {in_channels: 1, out_channels: 1, kernel_size: 1}
data: {class_path: dlreview.data.images.Images}
"""
IN_THE_COPY = f"""
import os
import pytest

chosen = ["tests/nn/test_convmixer.py", "tests/test_structure.py", "-k", "convmixer or denoiser"]
assert pytest.main(["-q", "-p", "no:cacheprovider", *chosen]) == 0, "the new files fail"

import dlreview
from dlreview import fit
from tests.running.recipes import small

assert os.path.dirname(os.path.dirname(dlreview.__file__)) == os.getcwd()
flags = small("classifier_convmixer_digits")
assert fit.main(["{RECIPE}", "--out", "run", *flags, *{SHORT}]) == 0
assert type(dlreview.load("run")).__name__ == "ConvMixer" and dlreview.load("run").width == 8
assert fit.main(["denoiser.yaml", "--out", "denoised", *{SHORT}]) == 0
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Copy the package, and write the page's files into the copy."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("dlreview", "tests", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name}: a new architecture edits no old file"
        (folder / name).write_text(text)
    (folder / "denoiser.yaml").write_text(DENOISER)
    return folder


def in_copy(folder, *words):
    """Run Python in the copy; what it prints is shown where it fails."""
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_page_has_the_four_files_and_a_learner():
    assert {name.rpartition("/")[0] for name in FILES} == {
        "dlreview/nn", "dlreview/reference", "tests/nn", "recipes", "dlreview/learners"
    }  # fmt: skip
    assert len(FILES) == 5


def test_the_files_are_formatted_and_linted(copy):
    python = [name for name in FILES if name.endswith(".py")]
    in_copy(copy, "-m", "ruff", "format", "--check", "--no-cache", *python)
    in_copy(copy, "-m", "ruff", "check", "--no-cache", *python)


def test_the_files_are_proved_and_trained(copy):
    out = in_copy(copy, "-c", IN_THE_COPY)
    passed = int(re.search(r"(\d+) passed", out)[1])
    assert passed >= 15, out
    assert "next: python -m dlreview.sample run" in out
    metrics = (copy / "denoised" / "metrics.csv").read_text()
    assert "val/loss" in metrics, "the learner was validated"


def test_every_file_that_the_page_names_exists():
    names = set(re.findall(r"`((?:[a-z]+/)?[\w/]+/\w+\.(?:py|yaml))`", PAGE)) - set(FILES)
    assert len(names) >= 5
    missing = [
        name for name in names if not any((ROOT / top / name).is_file() for top in ("", "dlreview"))
    ]
    assert not missing
