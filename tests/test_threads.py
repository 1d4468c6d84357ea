import os
import subprocess
import sys

import pytest

CODE = """
import sys, os
from dlreview.threads import share_cores
def audit(event, arguments):
    if event == "import" and arguments[0] == "torch":
        print("at torch:", os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)
sys.addaudithook(audit)
from dlreview.__main__ import main
sys.argv = ["dlreview", *{words}]
main()
"""
WORDS = {
    "fit": ["fit", "recipes/quickstart.yaml"],
    "sample": ["sample", "no/where"],
    "export": ["export", "no/where", "out"],
    "push": ["push", "no/where", "some/body", "--dry-run"],
    "parity": ["parity", "--only", "lstm"],
}


def spins(verb, **given):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_WAIT", "GOMP_"))}
    code = CODE.format(words=WORDS[verb])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment | given
    )
    assert "at torch: " in done.stdout, done.stderr
    return done.stdout.split("at torch: ")[1].split()[0]


@pytest.mark.parametrize("verb", WORDS)
def test_threads_wait_shortly_in_every_verb(verb):
    assert spins(verb) == "10000"


def test_what_the_user_set_stays():
    assert spins("fit", GOMP_SPINCOUNT="7") == "7"
    assert spins("fit", OMP_WAIT_POLICY="active") == "None"
