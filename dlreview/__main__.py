"""The console command: `dlreview <verb>` is `python -m dlreview.<verb>`."""

from __future__ import annotations

import importlib
import sys

from dlreview.messages import nearest

VERBS = {
    "fit": "train what a recipe describes",
    "sample": "draw from a trained network, or ask it about files",
    "export": "write a trained network as the folder of another library",
    "push": "export to a repository on the hub",
    "parity": "compare with the reference libraries, live",
    "contrast": "compare what the lecture compares: a number, a verdict and a picture",
}


def main() -> int:
    """Run the verb that the command line names."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h"):
        print("dlreview <verb> [--help]\n")
        for verb, what in VERBS.items():
            print(f"  {verb:10} {what}")
        return 0 if words else 2
    if words[0] not in VERBS:
        print(f"dlreview: {words[0]}: unknown verb\n{nearest(words[0], VERBS)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"dlreview.{words[0]}").main(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
