"""From Python, in a notebook too: `search`, `compare` and `Study`. Each makes the study that the command makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any

import numpy as np
import optuna
import torch
from omegaconf import OmegaConf
from torch import nn

from actsearch.activations.given import text_of
from actsearch.activations.spec import Spec
from actsearch.config.build import Given, build, build_own
from actsearch.config.compose import compose, options, settle, spelt_out
from actsearch.config.explain import ERRORS, explain
from actsearch.config.shape import WITH_TARGET, Config
from actsearch.data.source import Data, Source
from actsearch.errors import ActSearchError, unknown
from actsearch.outcome import show
from actsearch.own.asked import Asked, Elsewhere
from actsearch.own.local import run_own
from actsearch.pipeline import run
from actsearch.question.recipe import Recipe
from actsearch.report.result import Result
from actsearch.report.terminal import Terminal
from actsearch.study.storage import sqlite_url

SHORT = {
    "n_trials": "study.n_trials", "seeds": "study.seeds", "name": "study.name", "fresh": "study.fresh",
    "finalists": "confirm.finalists", "finalist_seeds": "confirm.seeds", "baseline": "confirm.baseline",
    "n_validation": "data.n_validation", "standardise": "data.standardise", "device": "device", "engine": "engine",
}  # fmt: skip
URL = {"storage": "url", "tracking": "uri"}
NOTHING: Mapping[str, Any] = MappingProxyType({})
Group = str | Mapping[str, Any] | None
DataSet = str | Data | Source | tuple[Any, ...]


def search(
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    data: DataSet | None = None,
    activations: Sequence[Any] | None = None,
    *,
    n_trials: int | None = None,
    seeds: int | None = None,
    finalists: int | str | None = None,
    finalist_seeds: int | None = None,
    baseline: str | None = None,
    only: Any = None,
    n_validation: int | None = None,
    standardise: bool | str | None = None,
    search_space: Group = None,
    recipe: Group | Recipe = None,
    sampler: Group | type = None,
    pruner: Group | type = None,
    study: Group = None,
    confirm: Group = None,
    storage: Group = None,
    tracking: Group = None,
    name: str | None = None,
    fresh: bool | None = None,
    device: str | None = None,
    engine: str | None = None,
    overrides: Sequence[str] = (),
    folder: str | Path = "runs",
    quiet: bool = False,
    train: Callable[..., Any] | None = None,
    settings: Mapping[str, Any] = NOTHING,
    threads: int | None = None,
    per_device: int | None = None,
    timeout_s: float | None = None,
    metrics: Mapping[str, Mapping[str, Any]] = NOTHING,
    check_repeat: bool = False,
) -> Result:
    """Which activation for this model and data? What is left out is as the command `actsearch` has it.

    model: an option of the command (mlp, cnn1d, …); a model function or its import path (see actsearch.models); or an
    nn.Module, whose activations are swapped in copies with fresh weights. data: an option (mnist1d, digits, …) or an
    import path; (x, y, x_test, y_test), arrays, frames or tensors, with classes of any kind in y, where x may also be a
    tuple or a dictionary of several inputs; a pair (train, test) of torch's data sets; a function that returns such
    data; a Data; or a Source, whose goal says with which loss nets are trained on it and by which metric they are
    judged. standardise: data.standardise, for such data. activations: as in a search space's YAML; or functions, and
    classes or instances of nn.Module, that can be imported from a file.

    search_space, recipe, sampler, pruner, study, confirm, storage, tracking: an option of that group, "random"; or its
    keys, {"scope": "per_layer"}. In `recipe`, a range or a list is searched: {"lr": {"low": 1e-3, "high": 3e-2,
    "log": True}}. sampler, pruner: also a class. storage, tracking: also a URL; tracking="none" switches MLflow off.
    overrides: words as the command takes them, ["experiment=leaky_slope", "study.generation=8"].
    only: of a net without the keyword `activation`, which activations are replaced, as in `swap_activations`.
    fresh: whether a study that is found is deleted and trained again. folder: where folders of results and MLflow's
    database lie.

    train: instead of model, data and recipe a training of one's own: a function (activation, seed, …) that yields or
    returns its numbers (docs/own_training.md). settings: its further keywords, which search_space={"recipe": {"lr":
    [0.01, 0.1]}} searches. threads, per_device, timeout_s, metrics, check_repeat: as in conf/train/own.yaml.
    Raises ActSearchError for what a user can put right.
    """
    return _answer(dict(locals()), searches=True)


def _answer(asked: Mapping[str, Any], searches: bool) -> Result:
    terminal, folder = Terminal(asked["quiet"]), asked["folder"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config, given = _config(asked, searches)
    place = lambda study_name: Path(folder) / study_name  # noqa: E731
    if given.train is not None:
        own = build_own(config, place, "", given)
        result = run_own(own, terminal)
        show(result, own.tracking_uri, terminal)
        return result
    with torch.inference_mode(False), torch.enable_grad():  # the caller may be in another mode
        job = build(config, place, "", given)
        try:
            result = run(job, terminal)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted. What was finished is saved: the same call goes on.") from None
    show(result, job.tracking_uri, terminal)
    return result


def compare(
    model: Any = None,
    data: Any = None,
    activations: Sequence[str] | None = None,
    *,
    seeds: int | None = None,
    **keywords: Any,
) -> Result:
    """All of `activations` against the baseline on the same fresh seeds, no search. keywords: as in `search`."""
    return search(model, data, activations, sampler="grid", finalist_seeds=seeds, **keywords)


class Study(Asked):
    """A study whose runs you train yourself, one after another or in many processes on one storage:

        study = actsearch.Study("robot", ["relu", "gelu"], seeds=20)
        while (run := study.ask()) is not None:
            activation, seed, settings = run
            study.tell(run, {"test_reward": train_my_robot(activation, seed)})
        print(study.result())

    name: of the training; with the settings it names the study. searches: whether there is a search, as in `search`;
    otherwise all activations are compared, as in `compare`, on `seeds` seeds. keywords: as there.
    """

    def __init__(
        self,
        name: str,
        activations: Sequence[Any],
        *,
        seeds: int | None = None,
        searches: bool = False,
        **keywords: Any,
    ) -> None:
        defaults = {key: p.default for key, p in inspect.signature(search).parameters.items()}
        for key in keywords:
            if key not in defaults or key in ("train", "check_repeat"):
                raise unknown("keyword of Study", key, [key for key in defaults if key != "train"])
        many = {"seeds": seeds} if searches else {"finalist_seeds": seeds, "sampler": "grid"}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        asked = {**defaults, "activations": activations, **many, **keywords, "train": Elsewhere(name)}
        config, given = _config(asked, searches)
        super().__init__(build_own(config, lambda found: Path(asked["folder"]) / found, "", given))


def _config(asked: Mapping[str, Any], searches: bool = False) -> tuple[Config, Given]:
    """The command's config with what was asked for, and the objects that no config can hold."""
    words, values, given = list(asked["overrides"]), {}, Given()
    if asked["train"] is not None:
        values["train"], given.train = _own_values(asked), asked["train"]
    for word in words:
        if word.startswith(("-", "task", "hydra")):
            raise ActSearchError(f"overrides: '{word}' is for the command alone. From Python results go to folder=….")
    targets: dict[str, dict[str, Any]] = {}
    for group in ("model", "data", "search_space", "recipe", "sampler", "pruner", "study", "confirm", *URL):
        value = asked[group]
        if isinstance(value, str):
            _add_option(group, value, words, values)
        elif isinstance(value, Recipe):
            values[group] = dict(vars(value))
        elif isinstance(value, type) and group in ("sampler", "pruner"):
            targets[group] = {"_target_": f"{value.__module__}.{value.__qualname__}"}
        elif isinstance(value, Mapping) and not (group == "data" and _holds_arrays(value)):
            (targets if group in WITH_TARGET else values)[group] = _plain(value)
        elif group in ("model", "data"):
            setattr(given, group, value)
        elif value is not None:
            raise ActSearchError(f"{group}={value!r}: write one of {', '.join(options(group))}, or keys as a mapping.")
    _searched_recipe(values)
    if asked["activations"] is not None:
        values.setdefault("search_space", {})["activations"] = asked["activations"]
    if "activations" in values.get("search_space", {}):
        values["search_space"]["activations"] = _texts(values["search_space"]["activations"], "activations")
    flat = {key: asked[short] for short, key in SHORT.items() if asked[short] is not None}
    if "confirm.baseline" in flat:
        flat["confirm.baseline"] = _texts(flat["confirm.baseline"], "baseline")
    try:
        cfg = compose(spelt_out(words))
        if cfg.tracking.uri == "sqlite:///runs/mlflow.db":
            cfg.tracking.uri = sqlite_url(Path(asked["folder"]) / "mlflow.db")
        cfg.merge_with(values)
        for key, value in flat.items():
            OmegaConf.update(cfg, key, _plain(value))
        config = settle(cfg, words, searches)
    except ERRORS as error:
        raise explain(error, words) from None
    for group, target in targets.items():
        setattr(config, group, target if "_target_" in target else {**getattr(config, group), **target})
    for key in ("n_validation", "standardise"):
        if isinstance(given.data, Data) and asked[key] is not None:
            raise ActSearchError(f"{key}: a Data has its own split. Give it there: Data(source, name, {key}=…).")
    if given.data is not None:
        config.data, given.data = _given_data(given.data, asked["n_validation"], asked["standardise"])
    if given.model is not None:
        config.model = {"name": getattr(given.model, "__name__", type(given.model).__name__)}
    if _is_plain(asked["only"]):
        config.model["only"] = _plain(asked["only"])
    else:
        given.only = asked["only"]
    return config, given


def _own_values(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the group train for a training that is given as a function."""
    for key in ("model", "data", "recipe", "n_validation", "standardise", "only", "engine"):
        if asked[key] is not None:
            raise ActSearchError(f"{key}: a training of your own has its own model, data and recipe. Leave it out.")
    train, keys = asked["train"], ("threads", "per_device", "timeout_s", "metrics", "check_repeat")
    name = f"{getattr(train, '__module__', '')}.{getattr(train, '__qualname__', type(train).__name__)}".lstrip(".")
    known = {key: _plain(asked[key]) for key in keys if asked[key] is not None}
    return {"_target_": name, **{str(key): _kept(key, value) for key, value in asked["settings"].items()}, **known}


def _kept(key: str, value: Any) -> Any:
    """A setting, if it can be written down: in a config, and as the key under which runs are found again."""
    plain = _plain(value)
    if plain != value or type(plain) is not type(value):
        raise ActSearchError(f"settings: {key}={value!r:.60}: write numbers, text, lists or mappings of these.")
    return plain


def _is_plain(only: Any) -> bool:
    """Whether it is made of text, and so can stand in a config."""
    return isinstance(only, str) or (isinstance(only, list | tuple) and all(isinstance(part, str) for part in only))


def _add_option(group: str, text: str, words: list[str], values: dict[str, Any]) -> None:
    """An option of a group, a URL or an import path, as a word or a value."""
    if text in options(group):
        words.append(f"{group}={text}")
    elif group in URL and ":" in text:
        values[group] = {URL[group]: text}
    elif group == "data" and Path(text).is_file():
        raise ActSearchError(f"data={text}: read the file first, e.g. by pandas, and give (x, y, x_test, y_test).")
    elif group in WITH_TARGET and "." in text:
        words.append(f"{group}._target_={text}")
    else:
        raise unknown({"data": "data set"}.get(group, group), text, options(group))


def _holds_arrays(value: Mapping[str, Any]) -> bool:
    """Whether these are data, as sklearn's bunches are, and not keys of the config."""
    return any(hasattr(item, "shape") for item in value.values())


def _searched_recipe(values: dict[str, Any]) -> None:
    """Moves ranges and lists of a recipe to the search space."""
    recipe = values.get("recipe", {})
    searched = {key: value for key, value in recipe.items() if isinstance(value, Mapping | list)}
    if searched:
        values["recipe"] = {key: value for key, value in recipe.items() if key not in searched}
        values.setdefault("search_space", {}).setdefault("recipe", {}).update(searched)


def _plain(value: Any) -> Any:
    """The value as YAML could hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Spec | Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _texts(value: Any, where: str) -> Any:
    """As `_plain`, with functions and modules as the texts of their specs. where: its place, for errors."""
    if isinstance(value, Mapping):
        return _plain({key if isinstance(key, str) else _texts(key, where): item for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [_texts(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    try:
        return text_of(value)
    except ActSearchError as error:
        raise ActSearchError(f"{where}: {error}") from None


def _given_data(data: Any, n_validation: int | None, standardise: bool | str | None) -> tuple[dict[str, Any], Any]:
    """The keys of the config for data that are given as an object, and the object as `Given` takes it."""
    if isinstance(data, Data):
        keys = {"name": data.name, "n_train": data.n_train, "n_validation": data.n_validation,
                "resample": data.resample, "standardise": data.standardise}  # fmt: skip
    else:
        chosen = "auto" if standardise is None else standardise
        name = getattr(data, "__name__", "data")
        keys = {"name": name if name.isidentifier() else "data", "n_validation": n_validation, "standardise": chosen}
    return keys, data if isinstance(data, Data | FunctionType) else lambda: data
