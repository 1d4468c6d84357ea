"""Which packages a recipe may name classes of; the parser asks before it imports anything."""

from __future__ import annotations

from collections.abc import Iterable

ALLOWED = ("dlreview", "torch", "torchvision", "lightning", "torchmetrics", "kornia")
_trusted: set[str] = set()


def allow(trusted: Iterable[str] = ()) -> None:
    """Let recipes name classes of the allowed packages and of those that the user trusts.

    It holds for this process, until the next call.
    """
    from jsonargparse import set_parsing_settings

    earlier = sorted(_trusted)
    _trusted.clear()
    _trusted.update(trusted)
    set_parsing_settings(
        import_path_denylist=["*", *earlier],
        import_path_allowlist=[*ALLOWED, *_trusted],
        validate_subclass_spec_in_any=True,
        instantiate_subclass_spec_in_any=True,
    )


def is_allowed(path: str) -> bool:
    """Whether a recipe may name the class at a dotted path."""
    return path.partition(".")[0] in {*ALLOWED, *_trusted}


def allowed_packages() -> str:
    """List the packages, for messages."""
    return ", ".join(sorted({*ALLOWED, *_trusted}))
