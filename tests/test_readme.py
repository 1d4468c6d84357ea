"""README.md: its commands and its Python run as they stand, with small networks and two steps."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import lightning.pytorch
import pytest
import yaml

from dlreview import contrast, export, fit, push, sample, saved
from dlreview.data.digits import digits
from dlreview.nn.vit import ViT
from tests.running.recipes import ROOT, TREES, small

README = (ROOT / "README.md").read_text()
PAGES = {
    name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
LIMITS = {"limit_train_batches": 2, "limit_val_batches": 1, "check_val_every_n_epoch": 1}
SHORT = [word for key, value in LIMITS.items() for word in (f"--trainer.{key}", str(value))]
VERBS = {"fit": fit, "sample": sample, "export": export, "push": push, "contrast": contrast}
# Recipes whose data need a download, and a recipe of the same learner and task that needs none.
STAND_INS = {"tagger_bilstm_brown": "tagger_bilstm_python"}
MY_PACKAGE = """
from torch import nn


class Linear(nn.Sequential):
    def __init__(self, image_channels, image_size, num_classes):
        layers = nn.Flatten(), nn.Linear(image_channels * image_size**2, num_classes)
        super().__init__(*layers)
        self.num_classes = num_classes
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    """Return the words of every command of the README, without comments."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shortened(recipe, flags):
    """Return the command line of a small run of one epoch, or two where it goes on."""
    stem, flags, epochs = Path(recipe).stem, list(flags), "--trainer.max_epochs"
    if epochs in flags:
        flags[flags.index(epochs) + 1] = "2" if "--resume" in flags else "1"
    own = small(stem) if stem in TREES else []
    first = [epochs, "1", "--wandb", "off"]
    return [recipe, *own, *SHORT, *first, *flags]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Work in a folder with what the commands name: recipes, the reader's package, a GAN."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "my_package.py").write_text(MY_PACKAGE)
    tree = yaml.safe_load((ROOT / "recipes" / "classifier_vit_digits.yaml").read_text())
    tree["model"]["init_args"]["net"] = {"class_path": "my_package.Linear"}
    (folder / "my.yaml").write_text(yaml.safe_dump(tree))
    digits("test")[0][0].save(folder / "photo.png")
    pair = {name: ViT(8, 4, 12, 1, 3) for name in ("generator", "discriminator")}
    saved.save(pair, folder / "runs" / "gan" / "0", "card")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr(sys, "path", list(sys.path))  # fit adds the folder for --trust
    yield folder
    patch.undo()
    sys.modules.pop("my_package", None)


def train_stand_in(run):
    """Train the recipe of a run that a command names, on data that need no download."""
    stem = run.parent.name
    if run.parts[0] == "runs" and stem != "gan" and not run.exists():
        argv = shortened(f"recipes/{STAND_INS.get(stem, stem)}.yaml", ["--out", str(run)])
        assert fit.main(argv) == 0


def test_every_command_runs(workplace, capsys):
    """In the README's order, because later commands read the runs of earlier ones."""
    done = []
    for words in commands():
        if words[0] == "make":
            continue  # see below
        assert words[:2] == ["python", "-m"], f"a command that no test knows: {words}"
        package, _, verb = words[2].partition(".")
        assert package == "dlreview" and verb in VERBS, f"a command that no test knows: {words}"
        argv = words[3:]
        if verb == "fit":
            argv = shortened(argv[0], argv[1:])
        else:
            train_stand_in(Path(argv[0]))
        if verb == "push":
            assert "--dry-run" in argv, "a test sends nothing"
        assert VERBS[verb].main(argv) == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
        done.append(verb)
    assert set(done) == set(VERBS)
    out = capsys.readouterr().out
    assert "resuming with trainer.max_epochs 2, it was 1" in out and "dry run" in out
    assert saved.names(workplace / "DISCRIMINATOR") == ["net"]
    assert (workplace / "DIR" / "model_index.json").is_file()
    assert (workplace / "runs" / "my" / "0" / "model" / "config.json").is_file()


def test_the_flags_of_a_small_network_are_its_headers():
    """The README says that its fifth command has the flags of the recipe's header."""
    *_, recipe = [words for words in commands() if words[2:3] == ["dlreview.fit"]][:5]
    assert recipe[4:] == small(Path(recipe[3]).stem)


# Lightning's advice about loggers, checkpoints and workers, which the README's reader gets too.
@pytest.mark.filterwarnings("ignore")
def test_the_first_python_trains_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = lightning.pytorch.Trainer

    def short(**options):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return whole(**options | LIMITS | quiet | {"max_epochs": 1})

    monkeypatch.setattr(lightning.pytorch, "Trainer", short)
    code = blocks("python")[0]
    assert len(code.split("\n")) <= 12, "ten lines of code"
    exec(code, {})
    assert re.search(r"samples_(\d+)\.png", README)[1] == f"{30 * 11:06d}", "30 epochs of 11 steps"
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["samples_000002.png"]


def test_the_other_python_runs(workplace):
    quickstart = workplace / "runs" / "quickstart" / "0"
    if not quickstart.exists():
        assert fit.main(shortened("recipes/quickstart.yaml", ["--out", str(quickstart)])) == 0
    for code in blocks("python")[1:]:
        names = {}
        exec(code, names)
    state, again = names["theirs"].state_dict(), names["again"].state_dict()
    assert all(tensor.equal(again[key]) for key, tensor in state.items()), "bit-equal"


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|^)make ([\w-]+)", PAGES[page], re.M))
    assert named <= targets
    assert page != "README.md" or {"fit", "test"} <= named


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_their_flags_exist(page):
    for verb, rest in re.findall(r"python -m dlreview\.(\w+)([^`\n#]*)", PAGES[page]):
        module = importlib.import_module(f"dlreview.{verb}")
        valid = getattr(module, "FLAGS", {}) | getattr(module, "COMMON", {})
        if verb == "sample":  # flags of its tasks are tried above
            continue
        for flag in re.findall(r"--[\w-]+", rest):
            assert flag in valid or flag in {"--model", "--data", "--trainer"}, (verb, flag)


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_exist(page):
    """The changelog writes earlier names without the package, so they are not looked up."""
    for name in set(re.findall(r"\bdlreview(?:\.\w+)+", PAGES[page])):
        module, _, last = name.rpartition(".")
        if "convmixer" in name or "denoiser" in name:
            continue  # the example of CONTRIBUTING.md, see test_contributing.py
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), last), name
