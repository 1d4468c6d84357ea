"""What `speed.py` times: each module of this folder ends with `ROWS`, and is found by itself."""
