"""From a typed Config to a Job: the functions that it names are imported, called and checked."""

from __future__ import annotations

import contextlib
import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from actsearch.activations.imported import own_folder_first
from actsearch.activations.spec import parse_net
from actsearch.config.compose import NOT_IN_RESULT, identity, label, own_identity, search_name, training_name
from actsearch.config.shape import OWN_KEYS, Config
from actsearch.contents import Contents
from actsearch.data.source import Data, make_data
from actsearch.errors import ActSearchError, hide_passwords, one_line, unknown
from actsearch.job import Job
from actsearch.measure.environment import source_commit
from actsearch.models.model import Model
from actsearch.module_values import packed
from actsearch.own import command
from actsearch.own.study import OwnJob
from actsearch.own.training import OwnTraining
from actsearch.question.identity import flatten
from actsearch.space.space import SearchSpace
from actsearch.study.samplers import SamplerFactory, make_pruner
from actsearch.study.storage import sqlite_url
from actsearch.study.tuning import axes_of


@dataclass
class Given:
    """What a call from Python gives as an object; a Config then has its name and a digest instead of a `_target_`.

    model: a model function or an nn.Module. data: a Data, or a function without arguments that makes a data set. only:
    which activations of the model are replaced. train: the function of a training of the user's own.
    """

    model: Any = None
    data: Any = None
    only: Any = None
    train: Any = None


def build(config: Config, place: Callable[[str], Path], typed: str, given: Given | None = None) -> Job:
    """The job. place: the folder of results, by the study's name. typed: the command that asked for it.

    Raises ActSearchError for whatever does not import, does not take its keywords, or does not fit together.
    """
    given = given or Given()
    data = _data(config.data, given.data)
    model, data = _model(config.model, given, data)
    space = SearchSpace(
        config.search_space.activations, config.search_space.recipe, config.search_space.scope,
        n_slots=model.n_slots, base=config.recipe,
    )  # fmt: skip
    parts = _contents(config, given, data, model, space)
    contents = {part: found.digest for part, found in parts.items()}
    unknown = [what for found in parts.values() for what in found.unknown]
    folder = place(search_name(config, contents))
    return Job(
        model=model, data=data, space=space, recipe=config.recipe,
        study=config.study.settled(data.goal.metric), confirm=config.confirm.settled(data.goal.metric),
        sampler=SamplerFactory(*target("sampler", config.sampler), config.study.seed),
        pruner=make_pruner(*target("pruner", config.pruner)), identity=identity(config, contents),
        folder=folder, config_yaml=_yaml(config), storage_url=config.storage.url or sqlite_url(folder / "study.db"),
        tracking_uri=config.tracking.uri, experiment=config.tracking.experiment,
        device=config.device, engine=config.engine, params=_shown_params(config),
        tags=_tags(typed), unknown=list(dict.fromkeys(unknown)),
        values=packed({place: value for found in parts.values() for place, value in found.values.items()}),
    )  # fmt: skip


def build_own(config: Config, place: Callable[[str], Path], typed: str, given: Given | None = None) -> OwnJob:
    """The job of a training of the user's own, as `build`."""
    function = None if given is None else given.train
    space = SearchSpace(
        config.search_space.activations, config.search_space.recipe, config.search_space.scope,
        n_slots=None, base=config.train,
    )  # fmt: skip
    tuned = [axis.key for axis in axes_of(space, config.confirm.tune)]
    training = _training(config, function, tuned)
    searches = config.confirm.finalists != "all"
    parts = {"train": training.contents, **_contents_of_specs(config, space)}
    if searches:
        parts |= _contents_of_groups(config)
    contents = {part: found.digest for part, found in parts.items()}
    name = search_name(config, contents)
    folder = place(name)
    return OwnJob(
        training=training, space=space, study=config.study, confirm=config.confirm,
        sampler=SamplerFactory(*target("sampler", config.sampler), config.study.seed),
        pruner=make_pruner(*target("pruner", config.pruner)), searches=searches,
        identity=own_identity(config, contents), name=name, folder=folder,
        storage_url=config.storage.url or sqlite_url(folder / "study.db"), contents=parts["train"],
        tracking_uri=config.tracking.uri, experiment=config.tracking.experiment, device=config.device, typed=typed,
        config_yaml=_yaml(config, OF_OWN), tags=_tags(typed), params=_params_of_own(config),
        unknown=list(dict.fromkeys(what for found in parts.values() for what in found.unknown)),
    )  # fmt: skip


def _training(config: Config, function: Any, searched: Collection[str]) -> OwnTraining:
    values, path = config.train, config.train.get("_target_")
    if function is None and not path:
        raise ActSearchError("train._target_ is missing: the import path of your function, e.g. my_train.train.")
    function = _imported("train", str(path)) if function is None else function
    own = {key: values[key] for key in OWN_KEYS["train"] if values.get(key) is not None}
    settings = {key: value for key, value in values.items() if key not in ("_target_", *OWN_KEYS["train"])}
    if function is command.train and not isinstance(settings.get("command"), str):
        raise ActSearchError(
            "train.command is missing. Write e.g. 'train.command=python train.py --act {activation} --seed {seed}'."
        )
    return OwnTraining(function, training_name(config), settings, searched, **own)


OF_OWN = ("train", "search_space", "sampler", "pruner", "study", "confirm", "storage", "tracking", "device")


def _data(values: Mapping[str, Any], given: Any) -> Data:
    if isinstance(given, Data):
        return given
    function, keywords = (given, {}) if given is not None else target("data", values)
    own = {key: values[key] for key in OWN_KEYS["data"] if key in values and key != "name"}
    return make_data(function, label("data", values), **own, **keywords)


def _model(values: Mapping[str, Any], given: Given, data: Data) -> tuple[Model, Data]:
    """The model, and the data as it takes them: where whole numbers may be tokens or numbers, the model decides.

    Raises ActSearchError if it takes neither, or both; but a Source says that they are tokens if they can be.
    """
    function, keywords = (given.model, {}) if given.model is not None else target("model", values)
    only = values.get("only") if given.only is None else given.only

    def fitted(one: Data) -> tuple[Model, Data]:
        name, out_shape = label("model", values), one.goal.out_shape
        return Model(function, name, one.in_shape, out_shape, dict(keywords), one.n_tokens, one.some(), only), one

    if not data.unclear:
        return fitted(data)
    found: list[tuple[Model, Data]] = []
    refused: list[ActSearchError] = []
    for tokens in (True, False):
        try:
            found.append(fitted(data.settled(tokens)))
        except ActSearchError as error:
            refused.append(error)
    if not refused and not data.from_source:
        raise ActSearchError(
            f"'{data.name}': x has whole numbers, which the model takes as tokens and as numbers. For tokens give an "
            "actsearch.Source with n_tokens=, the size of the vocabulary; for numbers give floats, x.astype('float32')."
        )
    if not found:
        raise ActSearchError(f"x has whole numbers. As tokens: {refused[0]} As numbers: {refused[1]}")
    return found[0]


def _contents(config: Config, given: Given, data: Data, model: Model, space: SearchSpace) -> dict[str, Contents]:
    """The code and the objects that are the user's own, by part of the question."""
    parts: dict[str, Contents] = defaultdict(Contents)
    if given.model is not None or _is_own(config.model):
        tuned = [value for axis in axes_of(space, config.confirm.tune) for value in axis.values]
        _add_model(parts["model"], model, "keep" in [config.recipe.init, *space.searched("init"), *tuned])
    if given.only is not None:
        parts["model"].add(given.only)
    if given.data is not None or _is_own(config.data):
        for part in fields(data.source):
            parts["data"].add(getattr(data.source, part.name))
    parts |= {**_contents_of_specs(config, space), **_contents_of_groups(config)}
    if edited := next((file for contents in parts.values() for file in contents.edited), None):
        raise ActSearchError(
            f"{edited} was edited after it was imported here, and training processes would import it as it is now. "
            "Start Python again, or import it again: importlib.reload(module)."
        )
    return parts


def _contents_of_specs(config: Config, space: SearchSpace) -> dict[str, Contents]:
    specs = [spec for candidate in space.typical() for spec in candidate.specs]
    with contextlib.suppress(ActSearchError):  # `job.check` reports a bad baseline
        specs += parse_net(config.confirm.baseline)
    own, found = [spec for spec in dict.fromkeys(specs) if spec.activation.family == "own"], Contents()
    for spec in own:
        found.add(spec.activation.fn)
    return {"activations": found} if own else {}


def _contents_of_groups(config: Config) -> dict[str, Contents]:
    parts: dict[str, Contents] = defaultdict(Contents)
    for group in ("sampler", "pruner"):
        if _is_own(getattr(config, group)):
            parts[group].add(target(group, getattr(config, group))[0])
    return parts


def _add_model(contents: Contents, model: Model, keep: bool) -> None:
    """Adds a model: its code, and a net that it makes, for what the code reads from elsewhere, such as a file of sizes.

    keep: the net's weights are kept, not drawn for each run, and so are added too.
    """
    if isinstance(model.function, nn.Module):
        contents.add_net(model.function, weights=keep)
    else:
        contents.add(model.function)
        contents.add_net(model.build(parse_net("relu"), 0, "keep"), weights=keep)


def _is_own(values: Mapping[str, Any]) -> bool:
    return not str(values.get("_target_")).startswith(("actsearch.", "optuna."))


def target(group: str, values: Mapping[str, Any], first: int = 0) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that `_target_` names, and its keywords out of the group's values, checked against its signature.

    first: how many of its parameters are not keywords of the group.
    """
    path = values.get("_target_")
    if not path:
        raise ActSearchError(f"{group}._target_ is missing: the import path of a function, e.g. actsearch.models.mlp.")
    function = _imported(group, str(path))
    try:
        parameters = list(inspect.signature(function).parameters.values())[first:]
    except ValueError:
        raise ActSearchError(f"{group}._target_={path} is a builtin, whose keywords cannot be seen.") from None
    takes = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    anything = len(takes) < len(parameters)
    own, keywords = OWN_KEYS.get(group, ()), {}
    for key, value in values.items():
        if key == "_target_" or (key in own and key not in takes):
            continue
        if key in takes or anything:
            keywords[key] = value
        elif not (group == "data" and key in NOT_IN_RESULT):  # a data set that is generated lies nowhere
            known = [f"{group}.{name}" for name in (*takes, *own)]
            raise unknown("config key", f"{group}.{key}", known, see=f"{path} does not take it.")
    return function, keywords


def _imported(group: str, path: str) -> Callable[..., Any]:
    try:
        module, _, name = path.rpartition(".")
        with own_folder_first():
            function = pkgutil.resolve_name(f"{module}:{name}" if module else path)
    except Exception as error:  # whatever a user's module raises when it is imported
        raise ActSearchError(f"{group}._target_={path} does not import: {one_line(error)}") from error
    if not callable(function):
        raise ActSearchError(f"{group}._target_={path} is {type(function).__name__}, not a function or class.")
    return function


def _yaml(config: Config, groups: Collection[str] | None = None) -> str:
    """The config of the search, whatever is done with it now. groups: those that it heeds, if not all."""
    plain: Any = hide_passwords(OmegaConf.to_container(OmegaConf.structured(config), resolve=True))
    plain = {key: value for key, value in plain.items() if groups is None or key in groups}
    plain["study"]["fresh"] = False
    return OmegaConf.to_yaml(OmegaConf.create({**plain, "task": {"_target_": "actsearch.command.tasks.search"}}))


def _tags(command: str) -> dict[str, str]:
    """For MLflow: the command and the commit of the code in the current folder."""
    commit = source_commit()
    return {
        "command": command, "mlflow.source.name": command, "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }  # fmt: skip


def _shown_params(config: Config) -> dict[str, Any]:
    parts = {"data": config.data, "model": config.model, "recipe": vars(config.recipe), "study": vars(config.study)}
    flat = flatten({**parts, "confirm": vars(config.confirm), "search_space": vars(config.search_space)})
    return {key: value for key, value in flat.items() if value is not None}


def _params_of_own(config: Config) -> dict[str, Any]:
    parts = {"train": config.train, "study": vars(config.study), "confirm": vars(config.confirm)}
    flat = flatten({**parts, "search_space": vars(config.search_space)})
    return {key: value for key, value in flat.items() if value is not None}
