"""From a config to a Job."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from actsearch.errors import ActSearchError, one_line, unknown

if TYPE_CHECKING:  # imported where needed: torch, which they import, takes seconds
    from actsearch.command.config import Config
    from actsearch.job import Job

NOT_IN_RESULT = ("root", "download")  # of data: where it lies, not what it is


def make_job(config: Config, folder: Path, config_yaml: str) -> Job:
    """A Job of the API from the config's values."""
    from actsearch.data.source import make_data
    from actsearch.job import Job
    from actsearch.models.model import Model
    from actsearch.space.space import SearchSpace
    from actsearch.study.samplers import SamplerFactory, make_pruner

    data_function, data_keywords = _target("data", config.data)
    label = _label("data", data_keywords.pop("name", None), data_function)
    data = make_data(data_function, label, **data_keywords)
    model_function, model_keywords = _target("model", config.model)
    model_label = _label("model", model_keywords.get("name"), model_function)
    if "name" not in inspect.signature(model_function).parameters:
        model_keywords.pop("name", None)
    model = Model(model_function, model_label, data.in_shape, data.goal.out_shape, model_keywords, data.n_tokens)
    space = SearchSpace(
        config.search_space.activations, config.search_space.recipe, config.search_space.scope,
        n_slots=model.n_slots, base=config.recipe,
    )  # fmt: skip
    uri = config.tracking.uri
    return Job(
        model=model, data=data, space=space, recipe=config.recipe,
        study=config.study.settled(data.goal.metric), confirm=config.confirm.settled(data.goal.metric),
        sampler=SamplerFactory(*_target("sampler", config.sampler), config.study.seed),
        pruner=make_pruner(*_target("pruner", config.pruner)), identity=_identity(OmegaConf.structured(config)),
        folder=folder, config_yaml=config_yaml, storage_url=config.storage.url, tracking_uri=uri,
        experiment=config.tracking.experiment,
        device=config.device, engine=config.engine, worker=config.worker, params=_shown_params(config), tags=_tags(),
    )  # fmt: skip


def _label(group: str, name: Any, function: Callable[..., Any]) -> str:
    """What a data set or model is called, in names of studies and so of folders."""
    from actsearch.question.identity import check_name

    if name is None:
        return getattr(function, "__name__", group)
    check_name(f"{group}.name", str(name))
    return str(name)


def _target(group: str, values: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that `_target_` names and its keywords, checked against its signature."""
    from actsearch.activations.imported import own_folder_first

    keywords = dict(values)
    path = keywords.pop("_target_", None)
    if not path:
        raise ActSearchError(f"{group}._target_ is missing: the import path of a function, e.g. actsearch.models.mlp.")
    try:
        module, _, name = path.rpartition(".")
        with own_folder_first():
            function = pkgutil.resolve_name(f"{module}:{name}" if module else path)
    except Exception as error:  # whatever a user's module raises when it is imported
        raise ActSearchError(f"{group}._target_={path} does not import: {one_line(error)}") from error
    if not callable(function):
        raise ActSearchError(f"{group}._target_={path} is {type(function).__name__}, not a function or class.")
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise ActSearchError(f"{group}._target_={path} is a builtin, whose keywords cannot be seen.") from None
    common = {"data": {"name", "n_validation", "subset", "resample"}, "model": {"name"}}.get(group, set())
    if group == "data":
        keywords = {"n_validation": None, "subset": None, "resample": False, **keywords}
        if keywords["n_validation"] is None:
            raise ActSearchError("data.n_validation is missing: how many training examples validate, e.g. 1000.")
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in keywords:
            if key not in parameters and key not in common:
                if group == "data" and key in NOT_IN_RESULT:
                    continue
                raise unknown(f"key '{group}.{key}' for {path}:", key, [*parameters, *common])
        if group == "data":
            keywords = {k: v for k, v in keywords.items() if k in parameters or k in common}
    return function, keywords


def _identity(cfg: Any) -> dict[str, Any]:
    """What a result depends on, and so the fingerprint: not how long, where or with what it is shown."""
    parts = ("data", "model", "recipe", "search_space", "sampler", "pruner")
    plain: Any = {part: OmegaConf.to_container(cfg[part], resolve=True) for part in (*parts, "study")}
    identity: dict[str, Any] = {part: plain[part] for part in parts} | {"engine": str(cfg.engine)}
    identity["data"] = {k: v for k, v in identity["data"].items() if k not in NOT_IN_RESULT}
    identity["study"] = {k: plain["study"][k] for k in ("seeds", "seed", "generation", "objectives")}
    return identity


def study_name_of(*, _root_: DictConfig) -> str:
    """${study_name:} in the config: the name of the search; of costs, and what is asked of them."""
    from actsearch.question.identity import fingerprint

    if OmegaConf.select(_root_, "task.name") != "cost":
        return _search_name(_root_)
    asked: Any = OmegaConf.to_container(_root_.task, resolve=True)
    return f"{_search_name(_root_)}-cost-{fingerprint(asked)}"


def _search_name(cfg: DictConfig) -> str:
    """The study's name, or data, model and fingerprint."""
    from actsearch.question.identity import check_name, study_name

    name = OmegaConf.select(cfg, "study.name")
    if name is not None:
        check_name("study.name", str(name))  # before a folder of that name is made
        return str(name)
    identity = _identity(OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"]))
    data, model = [
        str(identity[part].get("name") or str(identity[part].get("_target_")).rpartition(".")[2])
        for part in ("data", "model")
    ]
    return study_name(data, model, identity)


def _shown_params(config: Config) -> dict[str, Any]:
    from actsearch.question.identity import flatten

    parts = {"data": config.data, "model": config.model, "recipe": vars(config.recipe), "study": vars(config.study)}
    flat = flatten({**parts, "confirm": vars(config.confirm), "search_space": vars(config.search_space)})
    return {key: value for key, value in flat.items() if value is not None}


def _tags() -> dict[str, str]:
    """The commit of the code in the current folder, if it is a git checkout; the command."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = {"mlflow.source.git.commit": git.stdout.strip()} if git.returncode == 0 else {}
    except OSError:  # no git on this machine
        commit = {}
    command = " ".join(["actsearch", *sys.argv[1:]])[:4000]
    return {"command": command, "mlflow.source.name": command, "mlflow.source.type": "LOCAL", **commit}
