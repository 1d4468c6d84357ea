"""Export a trained network and upload it to a repository on the hub, in one commit.

    python -m dlreview.push RUN_OR_DIR_OR_REPO OWNER/NAME [--format FORMAT] [--private] [--dry-run]
                            [--update] [--network NAME] [--class NAME] [--license ID]

  --format FORMAT    as in dlreview.export (default: dlreview)
  --private          make the repository private
  --dry-run          list the files and their sizes; nothing is sent
  --update           commit over the files of a repository that holds others
  --network, --class, --license as in dlreview.export

The token is that of `hf auth login` or HF_TOKEN; the hub's address is HF_ENDPOINT.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlreview import export
from dlreview.messages import UserError, one_line
from dlreview.running.command import Flag, parse, run

FLAGS = export.FLAGS | {"--private": Flag(), "--dry-run": Flag(), "--update": Flag()}
USAGE = "usage: python -m dlreview.push RUN_OR_DIR_OR_REPO OWNER/NAME [--format FORMAT]"


def check_name(name: str) -> None:
    """Refuse what cannot be a repository.

    Raises:
        UserError: `name` is not owner/name, or has characters that the hub does not take.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    owner, slash, rest = name.partition("/")
    if not (owner and slash and rest) or "/" in rest:
        raise UserError(name, "is no name of a repository", "valid: OWNER/NAME")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(name, f"is no name of a repository: {error}") from None


def check_token(api: Any, name: str) -> None:
    """Refuse a token that is missing, wrong, or not for the owner.

    Raises:
        UserError: what is wrong with the token.
        OSError: the hub cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        me = api.whoami()
    except LocalTokenNotFoundError:
        raise UserError(name, "there is no token", "run `hf auth login` or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise UserError(name, f"{api.endpoint} does not accept the token") from None
        raise OSError(f"{api.endpoint} does not answer: {one_line(str(error))}") from error
    except Exception as error:  # of several HTTP libraries, by version
        raise OSError(f"{api.endpoint} cannot be reached: {one_line(str(error))}") from error
    owners = [str(me.get("name"))] + [str(org.get("name")) for org in me.get("orgs") or []]
    if name.partition("/")[0] not in owners:
        raise UserError(name, f"the token is {owners[0]}'s", f"valid: {', '.join(owners)}")
    role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise UserError(name, "the token can only read; it needs the right to write")


def make_repository(
    api: Any, name: str, files: list[Path], options: dict[str, Any]
) -> list[str] | None:
    """Create the repository, or see that it may be committed to.

    Returns:
        The files to delete from it; None where it holds all `files` and there is nothing to do.

    Raises:
        UserError: it holds other files, or is public where it should be private.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(name, private=bool(options["private"]))
        return []
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            if error.response.status_code in (401, 403):
                raise UserError(name, f"may not be created: {one_line(str(error))}") from None
            raise
    info = api.model_info(name, files_metadata=True)
    if options["private"] and not info.private:
        raise UserError(name, "exists and is public", "leave out --private")
    theirs = {s.rfilename: s for s in info.siblings or [] if s.rfilename != ".gitattributes"}
    old = replaced(files, theirs)
    if files and not old and all(is_there(file, root_of(files), theirs) for file in files):
        return None
    if theirs and not options["update"]:
        raise UserError(name, "exists and holds other files", "--update commits over them")
    return old


def replaced(files: list[Path], theirs: dict[str, Any]) -> list[str]:
    """List the repository's files that would be read in place of the new ones, or with them."""
    from dlreview import saved

    new = {file.relative_to(root_of(files)).as_posix() for file in files}
    names = (saved.CONFIG, saved.WEIGHTS, saved.INDEX, saved.USAGE)
    return [name for name in names if name in theirs and name not in new]


def root_of(files: list[Path]) -> Path:
    """Return the folder that all files are in."""
    return next(file.parent for file in files if file.name == "README.md")


def is_there(file: Path, root: Path, theirs: dict[str, Any]) -> bool:
    """Tell whether the repository holds this very file."""
    found = theirs.get(file.relative_to(root).as_posix())
    if found is None:
        return False
    content = file.read_bytes()
    if found.lfs is not None:
        return bool(found.lfs.sha256 == hashlib.sha256(content).hexdigest())
    blob = b"blob %d\0" % len(content) + content  # as git names it
    return bool(found.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest())


def upload(api: Any, name: str, root: Path, files: list[Path], old: list[str]) -> str:
    """Send all files and delete the old ones in one commit; return its address.

    Raises:
        OSError: it broke off, and nothing is published.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from dlreview.saved.hub import calm_client

    operations: list[Any] = [CommitOperationDelete(file) for file in old]
    operations += [CommitOperationAdd(file.relative_to(root).as_posix(), file) for file in files]
    try:
        with calm_client():
            commit = api.create_commit(name, operations, commit_message="Upload with dlreview")
    except Exception as error:  # of several HTTP libraries, by version
        reason = one_line(f"{error} {error.__cause__ or ''}", 200)
        raise OSError(
            f"{name}: the upload broke off and no file is published; the same command again "
            f"finishes it: {reason}"
        ) from error
    return str(commit.commit_url)


def body(argv: list[str]) -> int:
    """Push.

    Raises:
        UserError: a mistake in the command.
        OSError: the hub cannot be reached, or the upload broke off.
    """
    (source, name), options = parse(argv, FLAGS, USAGE, (2, 2))
    check_name(name)
    from huggingface_hub import HfApi

    api = HfApi(library_name="dlreview")
    if not options["dry-run"]:
        check_token(api, name)
    trained = export.read(source, options)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "model"
        export.write(trained, root, options, name)
        files = sorted(p for p in root.rglob("*") if p.is_file())
        for file in files:
            print(f"  {file.stat().st_size:>12,}  {file.relative_to(root)}")
        total = sum(file.stat().st_size for file in files)
        print(f"  {total:>12,}  in {len(files)} files for {name}")
        if options["dry-run"]:
            print("dry run: nothing was sent")
        elif (old := make_repository(api, name, files, options)) is None:
            print(f"{name} holds these files already; nothing to do")
        else:
            print(upload(api, name, root, files, old))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return run("push", __doc__ or "", body, argv)


if __name__ == "__main__":
    sys.exit(main())
