"""From Python, in a notebook too: `search` and `compare`. The same as the command, without files of config."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

from actsearch.activations.spec import Spec
from actsearch.data.source import Data, Source, as_source
from actsearch.errors import ActSearchError, unknown
from actsearch.job import Job
from actsearch.models import cnn1d, cnn2d, mlp, resnet, transformer
from actsearch.models.model import Model
from actsearch.pipeline import run
from actsearch.question.identity import study_name
from actsearch.question.options import ConfirmOptions, StudyOptions
from actsearch.question.recipe import Recipe
from actsearch.report.result import Result
from actsearch.report.terminal import Terminal
from actsearch.space.space import SearchSpace
from actsearch.study.samplers import SamplerFactory

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn1d": cnn1d,
    "cnn2d": cnn2d,
    "resnet": resnet,
    "transformer": transformer,
}


def search(
    model: str | Callable[..., nn.Module] | nn.Module,
    data: str | Data | Source | tuple[Any, Any, Any, Any],
    activations: Sequence[Any] = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh"),
    *,
    n_trials: int | None = 40,
    seeds: int = 3,
    recipe: Recipe | Mapping[str, Any] | None = None,
    finalists: int | str = 3,
    finalist_seeds: int = 20,
    baseline: str = "relu",
    confirm: Mapping[str, Any] | None = None,
    n_validation: int | None = None,
    name: str | None = None,
    folder: str | Path = "runs",
    tracking_uri: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    quiet: bool = False,
) -> Result:
    """Which activation for this model and data? The same as the command `actsearch`.

    model: mlp, cnn1d, cnn2d, resnet or transformer; a model function (see actsearch.models); or an nn.Module, whose
    activations are swapped in copies with fresh weights. data: mnist1d, digits, text, image …; arrays
    (x, y, x_test, y_test) with classes in y; a Data; or a Source, whose goal says with which loss nets are trained on
    it and by which metric they are judged (see actsearch.goal). activations: as in a search space's YAML. confirm:
    what else the command has under that name, e.g. {"metric": "test_loss", "margin": {"test_loss": 0.02},
    "until_decided": True}. tracking_uri: MLflow's, None for none.
    Raises ActSearchError for what a user can put right.
    """
    if not isinstance(recipe, Recipe):
        for key in recipe or {}:
            if key not in Recipe.__dataclass_fields__:
                raise unknown("recipe value", key, Recipe.__dataclass_fields__)
        recipe = Recipe(**dict(recipe or {}))
    known = ConfirmOptions.__dataclass_fields__.keys() - {"finalists", "seeds", "baseline"}
    for key in confirm or {}:
        if key not in known:
            raise unknown("value in confirm:", key, sorted(known))
    contents = _digest(data)
    data = _data(data, n_validation)
    label = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
    if isinstance(model, str):
        if model not in MODELS:
            raise ActSearchError(f"unknown model '{model}'. Choose one of: {', '.join(MODELS)}, or give a function.")
        model = MODELS[model]
    goal = data.goal
    confirmed = ConfirmOptions(finalists, finalist_seeds, baseline, **(confirm or {})).settled(goal.metric)
    made = Model(model, label, data.in_shape, goal.out_shape, n_tokens=data.n_tokens)  # pyright: ignore[reportArgumentType]
    options = StudyOptions(name=name, n_trials=n_trials, seeds=seeds).settled(goal.metric)
    identity = {
        "data": {"name": data.name, "contents": contents, "n_train": data.n_train,
                 "n_validation": data.n_validation, "resample": data.resample, "metric": goal.metric.name,
                 "loss": getattr(goal.loss, "__name__", "")},
        "model": {"name": label, "layers": repr(made.build([Spec.of("relu")], 0, "torch"))},
        "recipe": vars(recipe),
        "activations": list(activations),
        "study": {"seeds": seeds},
        "engine": engine,
    }  # fmt: skip
    title = name or study_name(data.name, label, identity)
    target = Path(folder) / title
    job = Job(
        model=made, data=data, space=SearchSpace(list(activations), n_slots=made.n_slots, base=recipe), recipe=recipe,
        study=options, confirm=confirmed,
        sampler=SamplerFactory(optuna.samplers.TPESampler, {}, 0), pruner=optuna.pruners.NopPruner(), identity=identity,
        folder=target, storage_url=f"sqlite:///{target / 'study.db'}", tracking_uri=tracking_uri, device=device,
        engine=engine, params={"model": label, "data": data.name},
    )  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result = run(job, Terminal(quiet))
    if not quiet:
        result.report()
    return result


def compare(model: Any, data: Any, activations: Sequence[str], *, seeds: int = 20, **keywords: Any) -> Result:
    """All of `activations` against the baseline on the same fresh seeds, no search. keywords: as in `search`."""
    return search(model, data, activations, n_trials=None, finalists="all", finalist_seeds=seeds, **keywords)


def _digest(data: Any) -> str:
    """Sixteen hex digits of the numbers themselves, where a name does not say which they are. The test set of a
    Data is not read for it.
    """
    if isinstance(data, str):
        return data
    source = data.source if isinstance(data, Data) else data
    parts = (source.x, source.y) if isinstance(source, Source) else source if isinstance(source, tuple) else ()
    digest = hashlib.sha256()
    for part in parts:
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # what is no array is refused after this
            digest.update(torch.as_tensor(part).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _data(data: Any, n_validation: int | None) -> Data:
    from actsearch.data import source as sets

    if isinstance(data, Data):
        return data
    if isinstance(data, str):
        known = {
            "mnist1d": (sets.mnist1d, 800),
            "digits": (sets.digits, 288),
            "fashion_mnist": (sets.fashion_mnist, 6000),
            "cifar10": (sets.cifar10, 5000),
            "text": (sets.text, 200),
            "image": (sets.image, 2000),
        }
        if data not in known:
            raise ActSearchError(f"unknown data set '{data}'. Choose one of: {', '.join(known)}, or give arrays.")
        function, n = known[data]
        return Data(function(), data, n_validation or n)
    source = as_source(data, "data")
    most = len(source.x) // 5 if source.validation is None else len(source.validation[0])
    return Data(source, "data", n_validation or max(1, most))
