"""The error that bad input raises. Every message says the value, the place where it stands, and the cure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class ActSearchError(ValueError):
    """Raised for bad input. The command line prints its message as one line and exits with code 2."""


def unknown(kind: str, value: object, known: Iterable[str], *, see: str = "") -> ActSearchError:
    """The error for a name that is not among `known`. It proposes the nearest name, or lists all if they are few.

    kind: what the name should be, for instance "activation". see: a last sentence that says where all names are.
    """
    known = sorted(known)
    near = nearest(value, known)
    cure = f" Did you mean '{near}'?" if near is not None else ""
    if known and near is None and len(known) <= 12:
        cure = f" Choose one of: {', '.join(known)}."
    return ActSearchError(f"unknown {kind} '{value}'.{cure}{' ' + see if see else ''}")


def nearest(value: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The name that was probably meant, or None if no name is similar enough. cutoff: the least similarity, 0 to 1.

    Case, underscores and other signs do not count: ReLU is relu. Before similar names come those of the same letters:
    gleu is gelu with two letters exchanged, not glu.
    """

    def plain(name: str) -> str:
        return re.sub(r"[\W_]+", "", name).casefold()

    given, names = plain(str(value)), {plain(name): name for name in sorted(known, reverse=True)}
    exchanged = [name for name in names if sorted(name) == sorted(given)] if len(given) > 2 else []
    near = [given] if given in names else exchanged or difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    return names[near[0]] if near else None


def whole(key: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raises ActSearchError unless the value is a whole number from `least` to `most`. key: its name in the config."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return
    bounds = f"at least {least}" if most is None else f"from {least} to {most:,}"
    raise ActSearchError(f"{key}={value}: it must be a whole number, {bounds}.")


def hide_password(url: str) -> str:
    """The URL of a database with its password replaced by ***, so that it may be shown."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def one_line(error: BaseException) -> str:
    """The type and the message of another library's exception on one line, for use inside our own messages."""
    text = " ".join(str(error).split())
    if len(text) > 300:
        text = text[:300] + " …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
