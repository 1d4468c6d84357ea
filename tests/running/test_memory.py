"""What a step frees is kept: the next one has no pages to fetch."""

import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from dlreview.running.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(17):  # at first the heap grows
    if step == 12:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(12_000_000)  # 48 MB, 11,719 pages of 4 kB
    y = x + 1
    del x, y
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """Return the page faults of five steps in a process of their own."""
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is asked")
def test_steps_fetch_no_pages_anew():
    assert faults("keep") < 1000 < faults("as it is")
