"""The house: imports go one way and in no circle, README names what exists, recipes are sound."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dlreview"
LIBRARIES = {"timm", "transformers", "diffusers", "gensim"}
SMALL = {"messages", "limits", "randomness", "threads"}  # files that everything may import
# What each folder may import of the others.
ARROWS = {
    "nn": set(),
    "samplers": {"nn"},
    "metrics": {"nn"},
    "plots": {"nn"},
    "data": set(),
    "learners": {"samplers", "nn", "metrics", "plots", "data"},
    "saved": {"nn", "running"},  # of running only the reader of recipes
    "usage": {"saved", "samplers", "metrics", "plots", "data", "running"},  # and of command lines
    "reference": {"nn", "saved", "samplers", "usage", "data"},  # of data only the tokenizer
    # reference inside functions
    "running": {"learners", "saved", "usage", "reference", "metrics", "plots", "data"},
    "contrasts": {"nn", "samplers", "learners", "metrics", "plots", "data", "running"},
}
OF_DATA = {"reference": {"dlreview.data.tokenizer"}}
OF_RUNNING = {
    "saved": {"dlreview.running.recipe"},
    "usage": {"dlreview.running.command"},
    "contrasts": {"dlreview.running.command"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imports(path):
    """Yield (module, whether it stands inside a function) of each import of a file."""
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if name in NAMES]
            yield from ((name, id(node) in inside) for name in modules)
            if len(modules) < len(inner):
                yield node.module, id(node) in inside


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    for module, inside in imports(path):
        parts = module.split(".")
        if parts[0] == "dlreview" and folder in ARROWS:
            assert parts[1] in ARROWS[folder] | SMALL | {folder}, f"{folder} imports {module}"
            if parts[1] == "data":
                assert module in OF_DATA.get(folder, {module}), f"{folder} imports {module}"
            if parts[1] == "running":
                assert module in OF_RUNNING.get(folder, {module}), f"{folder} imports {module}"
        if parts[0] in LIBRARIES:
            assert folder in ("reference", "metrics") or path.parent == PACKAGE, module
            assert inside, f"{path.name} imports {module} when it is itself imported"
        if parts[0] == "lightning":
            assert folder not in ("nn", "samplers", "plots", "metrics"), f"{folder}: {module}"
        if parts[:2] == ["dlreview", "reference"] and folder != "reference":
            assert path.parent == PACKAGE or folder == "running", f"{path.name} imports {module}"
            assert inside, f"{path.name} imports {module} when it is itself imported"


def test_no_files_import_each_other_in_a_circle():
    graph = {name: {m for m, _ in imports(path) if m in NAMES} for name, path in NAMES.items()}
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        left = {name: needs for name, needs in left.items() if name not in free}
    circles = {name: sorted(needs & left.keys()) for name, needs in left.items()}
    assert not circles


def test_networks_are_light_to_import():
    names = ["lightning", "pytorch_lightning", *sorted(LIBRARIES)]
    modules = [name for name in NAMES if name.startswith("dlreview.nn.")]
    code = f"import sys, {', '.join(modules)}; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_without_the_heavy_imports():
    code = (
        "import sys; from dlreview.fit import main; main(['--help']);"
        "assert 'torch' not in sys.modules, 'help waits for torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--checkpoint_every" in done.stdout


def test_no_file_is_named_after_nothing():
    vague = {"utils", "base", "common", "helpers"}
    assert not [p for p in MODULES if p.stem in vague]


LONGEST, MOST = 40, 10


def code_lines(function):
    """Count the lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short_and_constructors_take_few_arguments(path):
    text = path.read_text().splitlines()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        reason = "#" in text[node.lineno - 1]  # a comment on its line says why
        assert code_lines(node) <= LONGEST or reason, f"{node.name}: {code_lines(node)} lines"
        count = len(node.args.args) + len(node.args.kwonlyargs)
        if node.name == "__init__":
            assert count <= MOST + 1 or reason, f"line {node.lineno}: {count - 1} arguments"


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`((?:dlreview|recipes|tests|benchmarks)/[\w/.]+\.\w+)`", text))
    assert len(names) >= 5
    missing = [name for name in sorted(names) if not (ROOT / name).exists()]
    assert not missing


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SIZES = {"image_channels", "image_size", "num_classes", "vocabulary_size", "num_tags", "letters",
         "total_steps", "T_max", "max_lr"}  # fmt: skip


def keys(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from keys(value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_types_no_number_that_the_data_or_the_trainer_knows(path):
    tree = yaml.safe_load(path.read_text())
    assert not SIZES & set(keys(tree["model"]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_named_after_its_learner_and_tells_its_command(path):
    tree = yaml.safe_load(path.read_text())
    learner = tree["model"]["class_path"].split(".")[-2]
    assert path.stem == "quickstart" or path.stem.startswith((learner, learner.replace("_", "")))
    assert f"python -m dlreview.fit recipes/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_network_that_a_recipe_names_has_its_test_file(path):
    named = set(re.findall(r"dlreview\.nn\.(\w+)\.", path.read_text()))
    assert all((ROOT / "tests" / "nn" / f"test_{stem}.py").exists() for stem in named)
