"""A text file as a data set for language models of characters."""

from __future__ import annotations

from pathlib import Path

import torch

from actsearch.data.goal import next_token
from actsearch.data.source import Pair, Source
from actsearch.errors import ActSearchError, one_line, whole

UNKNOWN = 0  # the token of all characters that do not occur in the training part


def text(path: str | None = None, context: int = 64, n_test: int = 500) -> Source:
    """A text for a language model of characters, judged by perplexity.

    x: (n, context) tokens. y: (n, context), for each token of x the next one. A token is the number of a character of
    the training part; all characters that do not occur there are one token, UNKNOWN.
    path: a UTF-8 file. If None, the text is Python's built-in help (pydoc_data.topics: English and code, about 460,000
    characters), which differs between versions of Python. context: the length of an example.
    The first third of the text is for training, the second for validation, the last for the test, each cut into
    windows that do not overlap. n_test: the number of test windows, evenly spaced.
    Raises ActSearchError if the file cannot be read or is too short.
    """
    whole("data.context", context)
    whole("data.n_test", n_test)
    written = _read_text(path)
    third = len(written) // 3
    most = third // (context + 1)
    if most < max(2, n_test):
        raise ActSearchError(
            f"data.path={path}: a third of it is {third:,} characters, {most} windows of {context + 1}, but "
            f"data.n_test={n_test}. Choose a longer text, or smaller data.context and data.n_test."
        )

    def windows(part: int, n: int) -> list[str]:
        starts = (part * third + i * third // n for i in range(n))
        return [written[start : start + context + 1] for start in starts]

    train = windows(0, most)
    number_of = {c: i for i, c in enumerate(sorted(set("".join(train))), start=UNKNOWN + 1)}

    if len(number_of) < 2:
        raise ActSearchError(f"data.path={path}: it has one character, over and over. Choose a text with several.")

    def numbered(parts: list[str]) -> Pair:
        tokens = torch.tensor([[number_of.get(c, UNKNOWN) for c in w] for w in parts])
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    x, y = numbered(train)
    return Source(
        x, y, lambda: numbered(windows(2, n_test)), goal=next_token(y, len(number_of) + 1),
        validation=numbered(windows(1, most)), n_tokens=len(number_of) + 1,
    )  # fmt: skip


def _read_text(path: str | None) -> str:
    """The text of a file; if path is None, the topics of Python's help, ordered by name."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ActSearchError(f"data.path={path} cannot be read ({one_line(error)}). Write a UTF-8 text file.") from None
