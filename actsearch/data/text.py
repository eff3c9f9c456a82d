"""A text file as a data set for character language models."""

from __future__ import annotations

from pathlib import Path

import torch

from actsearch.data.goal import next_token
from actsearch.data.source import Pair, Source
from actsearch.errors import ActSearchError, one_line, whole

UNKNOWN = 0  # the token of a character that the training part does not have


def text(path: str | None = None, context: int = 64, n_test: int = 500) -> Source:
    """A character language model of a text file, by perplexity. x: (n, context) characters, y: the next of each.

    path: of a UTF-8 file; None: the help on Python's topics that every Python has (its pydoc_data.topics: English and
    code, about 460,000 characters, another text in another version of Python). The first third of it trains, the second
    validates, the last tests, each in windows that do not overlap. n_test: windows that test, evenly spaced. Characters
    are numbered as the training part has them; others are all one unknown.
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
        raise ActSearchError(f"data.path={path}: it has one character, over and over. There is nothing to predict.")

    def numbered(parts: list[str]) -> Pair:
        tokens = torch.tensor([[number_of.get(c, UNKNOWN) for c in w] for w in parts])
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    x, y = numbered(train)
    return Source(
        x, y, lambda: numbered(windows(2, n_test)), goal=next_token(y, len(number_of) + 1),
        validation=numbered(windows(1, most)), n_tokens=len(number_of) + 1,
    )  # fmt: skip


def _read_text(path: str | None) -> str:
    """A text file; None: the topics of Python's help, in order of their names."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ActSearchError(f"data.path={path} cannot be read ({one_line(error)}). Write a UTF-8 text file.") from None
