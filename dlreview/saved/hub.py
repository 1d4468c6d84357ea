"""The Hugging Face hub; its failures are told in one line. Its address is `HF_ENDPOINT`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from dlreview.messages import one_line


@contextlib.contextmanager
def calm_client() -> Iterator[None]:
    """Silence the client's warnings, and its progress bars where stderr is no terminal."""
    from huggingface_hub import utils

    level, bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if bars:
            utils.enable_progress_bars()


def download(name: str, files: tuple[str, ...]) -> Path:
    """Fetch `files` (names or patterns) of a repository and return the folder that holds them.

    Raises:
        ValueError: `name` is no name of a repository.
        OSError: there is no such repository or none of the files, or the hub cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    where = f"{name}: there is no such folder here, and"
    try:
        with calm_client():
            folder = Path(snapshot_download(name, allow_patterns=list(files)))
    except HFValidationError:
        raise ValueError(f"{where} it is no name of a repository") from None
    except RepositoryNotFoundError:
        reason = "has no such repository, or your token does not open it"
        raise OSError(f"{where} {constants.ENDPOINT} {reason}") from None
    except Exception as error:  # of several HTTP libraries, by version
        reason = one_line(str(error), 120)
        raise OSError(f"{where} {constants.ENDPOINT} does not give it: {reason}") from error
    if not folder.is_dir():
        raise OSError(f"{name}: the repository has no {' and no '.join(files)}")
    return folder
