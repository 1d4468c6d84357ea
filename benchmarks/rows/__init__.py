"""The rows of `speed.py`, found automatically: the modules of this folder end with `ROWS`."""
