"""How the threads of a calculation wait for each other, on a machine that does other work too."""

import os

SPINS = 10_000  # of libgomp; its own default is 300,000, and 0 for OMP_WAIT_POLICY=passive


def share_cores() -> None:
    """Let threads that wait give up their core soon; call this before torch is loaded.

    By default the threads of libgomp wait actively for milliseconds. Where other programs use the
    same cores, a thread then waits for one that has no core, and keeps the core that it needs.
    `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY`, if the user has set one, is left as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
