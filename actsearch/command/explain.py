"""Errors of Hydra and OmegaConf in one line: the cause, the key, the cure."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import hydra
import hydra.errors
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from actsearch.command.config import CONF
from actsearch.errors import ActSearchError, unknown

QUOTED = (
    "On the command line a list stands in brackets, and a spec with parentheses in quotes inside quotes: "
    "'search_space.activations=[relu,\"leaky_relu(negative_slope=0.02)\"]'."
)


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors in one line: the cause, the key, the cure."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    ours = next((e for e in chain if isinstance(e, ActSearchError)), None)
    if ours is not None:  # raised while the config was resolved
        return str(ours)
    text = "\n".join(str(e) for e in chain)
    if isinstance(error, hydra.errors.OverrideParseException):
        return f"cannot read '{error.override}' on the command line. No spaces around '='. {QUOTED}"
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"cannot read '{match[1]}' on the command line. {QUOTED} To run one search per value, add -m."
    if match := re.search(r"In '([^']*)': Could not find '([^']*)'", text):
        group, _, option = match[2].rpartition("/")
        if group:
            known = [p.stem for p in (CONF / group).glob("*.yaml")]
            return str(unknown(f"{group}={option}:", option, known))
    if match := re.search(r"Key '([^']*)' (?:is )?not in '?([\w]*)|Key '([^']*)' is not in struct", text):
        key = next((m[1] for m in [re.search(r"full_key: (\S+)", text)] if m), match[1] or match[3])
        known = [name for name in _known_keys() if name != key]
        return str(unknown("config key", key, known, see="'actsearch --cfg job' shows all keys."))
    if match := re.search(r"Could not override '([^']*)'", text):
        key = match[1]
        group_options = [p.name for p in CONF.iterdir() if p.is_dir()]
        if "No match in the defaults list" in text:
            return str(unknown("config group", key.split("=")[0], [*group_options, *_known_keys()]))
    if match := re.search(r"full_key: (\S+)", text):
        values = [getattr(e, "value", None) for e in chain]
        return _wrong_kind(match[1], next((v for v in values if v is not None), "null"))
    return " ".join(text.split())


def _wrong_kind(key: str, value: Any) -> str:
    """A value that cannot become what the key wants: what that is, with the default as an example."""
    from actsearch.command.config import Config

    default: Any = Config()
    for part in re.findall(r"[^.\[\]]+", key):
        if isinstance(default, list):
            default = default[0]
        else:
            default = default.get(part) if isinstance(default, Mapping) else getattr(default, part, None)
    default = vars(default) if hasattr(default, "__dataclass_fields__") else default
    if isinstance(default, Mapping):
        name, example = next(iter(default.items()), ("name", "value"))
        return f"{key}={value}: it holds values by name. Write e.g. {key}.{name}={example}."
    kinds = {bool: "true or false", int: "a whole number", float: "a number", list: "a list in brackets"}
    example = "mine" if default is None else "[a,b]" if default == [] else str(default).replace(" ", "")
    example = example.lower() if isinstance(default, bool) else example
    return f"{key}={value}: it must be {kinds.get(type(default), 'one word')}, e.g. {key}={example}."


def _known_keys() -> list[str]:
    from actsearch.question.identity import flatten

    GlobalHydra.instance().clear()  # it is still set where the first composition failed
    chosen = [word for word in sys.argv[1:] if (CONF / f"{word.replace('=', '/', 1)}.yaml").is_file()]  # model=cnn1d
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(hydra.compose("config", chosen), resolve=False)
        return [*plain, *flatten(plain)]
