"""The error that bad input raises, and what may be shown of a URL: no password and no token.

Every message says the value, the place where it stands, and the cure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote


class ActSearchError(ValueError):
    """Raised for bad input. The command line prints its message as one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(hide_password(message))


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


def is_utf8(text: str) -> bool:
    """Whether a text of the system, such as a file's name, can stand in a database, a page or a URL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _secrets(character: str) -> re.Pattern[str]:
    """A pattern for what is secret in URLs. character: a pattern of the characters that a URL may go on with.

    Whatever stands between a user's name and the last @ is the password, whether it is written as URLs want it or not;
    and of http all before the @, because servers take a token in either place.
    """
    start, port = r"[^\s:/?#@\"'<>\[]", r"\d*(?:[/?#]|$)"
    key = r"[\w.-]*(?:passwo?r?d|pwd|token|secret|api_?key|access_?key|credential|signature|odbc_connect)\w*="
    value = rf"(?:(?!&){character})+"
    in_query = rf"{character}*[?&;]{key}{value}@{value}"  # an @ as it is, which is not the one before the host
    no_host = r"(?!\d*(?:\W|$))[^\s/?#\"'<>]+"  # what stands where a port should
    return re.compile(
        rf"(?P<http>\bhttps?://)(?P<login>(?:(?:(?![\s/?#]){character})+|{start}*:(?!{port}){character}+)(?=@))"
        rf"|(?P<user>\b(?!https?://{start}*:{port})[a-z][\w+.-]*://{start}*:)"
        rf"(?P<password>{in_query}|{character}+(?=@)|{no_host})"
        rf"|(?P<key>(?:[?&;]|(?<![^\s\"'(])(?=passw)){key})(?P<value>{value})",
        re.IGNORECASE | re.DOTALL,
    )


IN_TEXT, IN_ONE_URL = _secrets(r"[^\s\"'<>]"), _secrets(".")
SHORTEST = 6  # characters of a password that is looked for by itself: "test" stands in texts for other reasons
_passwords: set[str] = set()


def hide_password(text: str, whole: bool = False) -> str:
    """The text with *** for the passwords and tokens of URLs. whole: the text is one URL, or KEY=URL."""
    pattern = IN_ONE_URL if whole else IN_TEXT
    return pattern.sub(lambda found: f"{found['http'] or found['user'] or found['key']}***", text)


def hide_passwords(value: Any) -> Any:
    """A plain value with *** for the passwords and tokens of all URLs in it. Keys stay."""
    if isinstance(value, Mapping):
        return {key: hide_passwords(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_passwords(item) for item in value]
    return hide_password(value, whole=True) if isinstance(value, str) else value


def check_url(key: str, url: str) -> None:
    """Raises ActSearchError for a URL of which others would take a part of the password for something else.

    From then on `one_line` hides this URL's passwords also where they stand alone. key: its name in the config.
    """
    for found in IN_ONE_URL.finditer(url):
        written = found["login"] or found["password"] or found["value"]
        marks = r"[@\s/?#]" if found["login"] else r"[@\s]"
        if re.search(marks, written):
            raise ActSearchError(
                f"{key}={hide_password(url, whole=True)}: in a password write @ as %40, / as %2F, ? as %3F, # as %23 "
                "and a space as %20."
            )
        if written == "***":
            raise ActSearchError(f"{key}={url}: *** stands for a password that was hidden. Write the password.")
        for part in (written, *written.split(":")):
            plain = unquote(part)
            forms = (part, plain, quote(plain, ""), quote_plus(plain))
            _passwords.update(form for form in forms if len(form) >= SHORTEST)


def one_line(error: BaseException) -> str:
    """The type and the message of another library's exception on one line, for use inside our own messages."""
    text = " ".join(hide_password(str(error)).split())
    for password in sorted(_passwords, key=len, reverse=True):
        text = text.replace(password, "***")
    if len(text) > 300:
        text = text[:300] + " …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
