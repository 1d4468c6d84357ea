"""The scripts import each other by their plain names, as `python benchmarks/<name>.py` does."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script(request):
    """Return the script that a test file is named after."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module(request.module.__name__.rpartition("test_")[2])
    sys.path.remove(str(FOLDER))
