"""The house: imports go one way, README names what exists, every recipe builds."""

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
# What each folder may import of the others.
ARROWS = {
    "nn": {"nn", "messages"},
    "samplers": {"samplers", "nn", "messages"},
    "metrics": {"metrics", "messages"},
    "plots": {"plots", "nn", "messages"},
    "data": {"data", "randomness", "messages"},
    "learners": {
        "learners",
        "samplers",
        "nn",
        "metrics",
        "plots",
        "data",
        "randomness",
        "messages",
    },
    "saved": {"saved", "limits", "messages", "running"},
    "usage": {"usage", "saved", "samplers", "plots", "metrics", "data", "running", "messages"},
    "reference": {"reference", "nn", "saved", "limits", "samplers", "usage", "messages"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Yield (module, whether it stands inside a function) of each import of a file."""
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in inside
            if node.module == "dlreview":
                yield from ((f"dlreview.{a.name}", id(node) in inside) for a in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    for module, inside in imports(path):
        parts = module.split(".")
        if parts[0] == "dlreview" and len(parts) > 1 and folder in ARROWS:
            assert parts[1] in ARROWS[folder], f"{folder} imports {module}"
        if parts[0] in LIBRARIES:
            assert folder in ("reference", "metrics") or path.parent == PACKAGE, module
            assert inside, f"{path.name} imports {module} when it is itself imported"
        if parts[0] == "lightning":
            assert folder not in ("nn", "samplers", "plots", "metrics"), f"{folder}: {module}"
        if parts[:2] == ["dlreview", "reference"] and folder != "reference":
            assert path.parent == PACKAGE or folder == "running", f"{path.name} imports {module}"
            assert inside, f"{path.name} imports {module} when it is itself imported"


def test_networks_are_light_to_import():
    names = ["lightning", "pytorch_lightning", *sorted(LIBRARIES)]
    modules = [
        f"dlreview.nn.{p.stem}" for p in (PACKAGE / "nn").glob("*.py") if p.stem != "__init__"
    ]
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


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`((?:dlreview|recipes|tests|benchmarks)/[\w/.]+\.\w+)`", text))
    assert len(names) >= 5
    missing = [name for name in sorted(names) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid(path):
    from dlreview.running.recipe import read
    from dlreview.running.schema import Schema, trusted_packages

    tree = read(path)
    schema = Schema(trusted_packages(()))
    schema.check(tree)
    schema.dry_run(tree)
    learner = tree["model"]["class_path"].split(".")[-2]
    assert path.stem == "quickstart" or path.stem.startswith((learner, learner.replace("_", "")))
    assert yaml.safe_load(path.read_text()), "plain YAML reads it too"
    assert f"python -m dlreview.fit recipes/{path.name}" in path.read_text()


def test_no_file_is_named_after_nothing():
    vague = {"utils", "base", "common", "helpers"}
    assert not [p for p in MODULES if p.stem in vague]
