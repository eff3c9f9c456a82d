"""Errors of Hydra, OmegaConf and YAML in one line: the cause, the key, the cure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import hydra.errors
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException

from actsearch.config.compose import CONF, compose
from actsearch.config.shape import Config
from actsearch.errors import ActSearchError, unknown
from actsearch.question.identity import flatten

ERRORS = (hydra.errors.HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)
"""What `explain` explains."""
QUOTED = (
    "On the command line a list stands in brackets, and a spec with parentheses in quotes inside quotes: "
    "'search_space.activations=[relu,\"leaky_relu(negative_slope=0.02)\"]'."
)


def explain(error: BaseException, words: Sequence[str]) -> ActSearchError:
    """The error as one of ours. words: those of the command."""
    chain = _chain(error)
    found = next((e for e in chain if isinstance(e, ActSearchError)), None)
    if found is not None:  # raised while the config was resolved
        return found
    for e in chain:
        if isinstance(e, hydra.errors.OverrideParseException):
            return ActSearchError(f"cannot read '{e.override}' on the command line. No spaces around '='. {QUOTED}")
        if isinstance(e, hydra.errors.MissingConfigException) and e.missing_cfg_file:
            group, _, option = e.missing_cfg_file.rpartition("/")
            if not e.options:  # named by the defaults of another file
                return ActSearchError(f"{str(e).splitlines()[0]} Mend its defaults list.")
            return unknown(f"{group}={option}:", option, e.options)
        if isinstance(e, UnicodeDecodeError):
            return ActSearchError(f"a config file is not UTF-8 text ({e.reason}). Look in your --config-dir.")
        if isinstance(e, yaml.MarkedYAMLError):
            return _bad_yaml(e)
        if isinstance(e, ConfigTypeError):
            if match := re.match(r"Error merging override [+]*([^=]+)=(.*)", str(error)):
                return _wrong_kind(match[1], match[2])
            return ActSearchError(f"{str(error).partition(':')[0]}: the file must hold keys with values. Mend it.")
    for e in reversed(chain):  # what was raised first knows the key
        if isinstance(e, OmegaConfBaseException) and e.full_key:
            if isinstance(e, ConfigKeyError | ConfigAttributeError):
                return _unknown_key(e.full_key, words)
            return _wrong_kind(e.full_key, e.value)
    text = " ".join(str(error).split())
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return ActSearchError(
            f"cannot read '{match[1]}' on the command line. {QUOTED} To run one search per value, add -m."
        )
    if match := re.search(r"Could not (?:override|delete from config\.) '([^'=]*)", text):
        return _unknown_key(match[1], words)
    return ActSearchError(text)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    return chain


def _bad_yaml(error: yaml.MarkedYAMLError) -> ActSearchError:
    mark = error.problem_mark or error.context_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a config file"
    return ActSearchError(f"{where}: it is not valid YAML ({error.problem or error.context}). Mend the file.")


def _unknown_key(key: str, words: Sequence[str]) -> ActSearchError:
    if key == "worker":
        return ActSearchError("worker: one process leads a study for now, so there is no such key. Leave it out.")
    chosen = [word for word in words if (CONF / f"{word.replace('=', '/', 1)}.yaml").is_file()]  # model=cnn1d
    plain: Any = OmegaConf.to_container(compose(chosen), resolve=False)
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    known = {*groups, *plain} if "." not in key else {*flatten(plain)} - {key}
    return unknown("config key", key, known, see="'actsearch --cfg job' shows all keys.")


def _wrong_kind(key: str, value: Any) -> ActSearchError:
    """A value that cannot become what the key wants: what that is, with the default as an example."""
    default: Any = Config()
    for part in re.findall(r"[^.\[\]]+", key):
        if isinstance(default, list):
            default = default[0]
        else:
            default = default.get(part) if isinstance(default, dict) else getattr(default, part, None)
    default = vars(default) if hasattr(default, "__dataclass_fields__") else default
    value = "null" if value is None else value
    if isinstance(default, dict):
        known = [item for item in default.items() if item[1] is not None]
        name, example = next(iter(known), ("name", "value"))
        return ActSearchError(f"{key}={value}: it holds values by name. Write e.g. {key}.{name}={example}.")
    kinds = {bool: "true or false", int: "a whole number", float: "a number", list: "a list in brackets"}
    example = "mine" if default is None else "[a,b]" if default == [] else str(default).replace(" ", "")
    example = example.lower() if isinstance(default, bool) else example
    return ActSearchError(f"{key}={value}: it must be {kinds.get(type(default), 'one word')}, e.g. {key}={example}.")
