"""A job: the complete question, with the model, the data, what may be proposed, and where the answer goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import torch
from torch import nn

from actsearch.activations.reach import remarks
from actsearch.activations.spec import Spec, parse_net
from actsearch.data.source import Data
from actsearch.errors import ActSearchError, check_url, hide_password, hide_passwords, is_utf8
from actsearch.models.model import Model, named
from actsearch.module_values import ModuleValue
from actsearch.processes import core_count
from actsearch.question.identity import fingerprint, study_name
from actsearch.question.metrics import Direction, Metric, directions_of
from actsearch.question.options import SPEED, SPEED_RUNGS, Confirmation, StudyOptions, speed_is_told
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate
from actsearch.space.space import SearchSpace
from actsearch.study.finalists import with_baseline
from actsearch.study.mirror import check_sampler
from actsearch.study.samplers import SamplerFactory
from actsearch.study.tuning import Axis, axes_of
from actsearch.tracking import StudyInfo, check_tracking
from actsearch.training.trace import GLOBAL_HOOKS
from actsearch.training.trainer import find_device

SHARED = (
    "confirm.tune=none: all are trained with one recipe, which favours the activations that it suits. The verdicts are "
    "about this recipe."
)
EVERYWHERE = (
    "Hooks for all modules are registered in this process (torch.nn.modules.module.register_module_…): training "
    "processes do not have them."
)


@dataclass
class Job:
    """A complete question.

    study, confirm: settled for the data's metric. identity: the part of the config that the fingerprint covers. folder:
    where the results are written. params: the part of the config that MLflow shows. unknown: what of the user's code
    could not be read for the identity. values: what training processes must find in the user's modules.
    """

    model: Model
    data: Data
    space: SearchSpace
    recipe: Recipe
    study: StudyOptions
    confirm: Confirmation
    sampler: SamplerFactory
    pruner: optuna.pruners.BasePruner
    identity: Mapping[str, Any]
    folder: Path
    storage_url: str
    tracking_uri: str | None
    experiment: str = "actsearch"
    config_yaml: str = ""
    device: str = "auto"
    engine: str = "auto"
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    values: Sequence[ModuleValue] = ()

    def __post_init__(self) -> None:
        for path in (Path.cwd(), self.folder):
            if not is_utf8(str(path)):
                raise ActSearchError(f"the folder {path}: its name is not UTF-8 text. Rename it, or choose another.")
        check_url("storage.url", self.storage_url)
        if self.tracking_uri is not None:
            check_url("tracking.uri", self.tracking_uri)
        self.tags = {key: hide_password(text) for key, text in self.tags.items()}
        self.params = hide_passwords(self.params)
        self.config_yaml = hide_password(self.config_yaml)

    @property
    def name(self) -> str:
        return self.study.name or study_name(self.data.name, self.model.name, self.identity)

    @property
    def compares_all(self) -> bool:
        """Whether every candidate is a finalist, and nothing is searched."""
        return self.confirm.finalists == "all"

    @property
    def everything(self) -> list[Candidate]:
        """All candidates and the baseline, for a job that compares all."""
        return with_baseline(self.space.nets(), self.confirm.baseline)

    @property
    def axes(self) -> list[Axis]:
        """The recipe values that are tuned for each finalist and the baseline."""
        return axes_of(self.space, self.confirm.tune)

    @property
    def n_trials(self) -> int:
        """The number of trials of the search; if none is given, as many as there are candidates."""
        return 0 if self.compares_all else self.study.n_trials or len(self.space.enumerate())

    @property
    def metric(self) -> Metric:
        """The metric that the nets are judged by."""
        return self.data.goal.metric

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective."""
        return [directions_of(self.metric)[objective] for objective in self.study.objectives]

    @property
    def largest_batch(self) -> int:
        return max(map(int, self.values_of("batch_size")))

    @property
    def tells_speed(self) -> bool:
        """Whether this job's curves show how fast a net learns."""
        return speed_is_told(self.recipe) and self.values_of("schedule") == ["constant"]

    @property
    def remarks(self) -> list[str]:
        """What a reader of the result must know: the header, the report and `Result.warnings` have it."""
        known = [*self.space.corners(), *parse_net(self.confirm.baseline)]
        unread = [
            f"{what} cannot be read: if it changes, this study is found again all the same. study.fresh=true then "
            "trains anew."
            for what in self.unknown
        ]
        everywhere = [EVERYWHERE] if any(getattr(nn.modules.module, name) for name in GLOBAL_HOOKS) else []
        redrawn = [
            f"recipe.init={init} draws {named(weights)} anew, to which the model's code gives a constant of its own. "
            "recipe.init=keep leaves what the code sets."
            for init in self.values_of("init")
            if (weights := self.model.redrawn(init))
        ]
        shared = [] if self.axes else [SHARED]
        code = [*unread, *everywhere, *redrawn]
        return [*self.data.remarks, *self.model.remarks, *code, *shared, *self.remarks_on(known)]

    def values_of(self, key: str) -> list[Any]:
        """The values that this key of the recipe may have: those that are searched, or the recipe's, and the tuned."""
        tuned = [value for axis in self.axes if axis.key == key for value in axis.values]
        return list(dict.fromkeys([*(self.space.searched(key) or [getattr(self.recipe, key)]), *tuned]))

    def remarks_on(self, specs: Iterable[Spec]) -> list[str]:
        """Of these functions those whose values or slopes break at some x in the precision of the training."""
        return remarks(specs, torch.bfloat16 if self.recipe.precision == "bf16" else torch.float32)

    @property
    def study_info(self) -> StudyInfo:
        return StudyInfo(
            self.name,
            fingerprint(self.identity),
            {"device": self.device, **self.params},
            self.tags,
            self.confirm.own_val,
            self.confirm.own_test.name,
        )


def check(job: Job) -> None:
    """Raises ActSearchError, before anything is made, if the parts of a job do not fit together."""
    if job.largest_batch > job.data.n_train:
        if isinstance(job.confirm.tune, Mapping) and "batch_size" in job.confirm.tune:
            raise ActSearchError(f"confirm.tune.batch_size: there are {job.data.n_train} training examples.")
        raise ActSearchError(
            f"recipe.batch_size={job.largest_batch} is more than the {job.data.n_train} training examples. "
            f"Choose at most {job.data.n_train}."
        )
    n_bytes = 8 * max(map(int, job.space.searched("steps") or [job.recipe.steps])) * job.largest_batch
    if n_bytes > psutil.virtual_memory().total / core_count():
        raise ActSearchError(
            f"recipe.steps={job.recipe.steps:,}: the order of its examples takes {n_bytes / 2**30:,.0f} GiB for each "
            "run, more than this machine has. Choose fewer steps."
        )
    if job.recipe.precision == "tf32" and find_device(job.device).type != "cuda":
        raise ActSearchError("recipe.precision=tf32: there is no NVIDIA GPU. Write recipe.precision=float32.")
    if len(job.study.objectives) > 1 and not isinstance(job.pruner, optuna.pruners.NopPruner):
        raise ActSearchError("pruner: Optuna can prune only with one objective. Write pruner=none.")
    if job.compares_all:
        job.space.nets()  # raises for a range of an activation; of a range in the recipe the tuning takes some values
    else:
        if isinstance(job.sampler(0, 0), optuna.samplers.GridSampler | optuna.samplers.BruteForceSampler):
            job.space.enumerate()
        check_sampler(job.sampler, job.space, job.directions)
    if job.tracking_uri is not None:
        check_tracking(job.tracking_uri, job.experiment)
    try:
        layers = len(parse_net(job.confirm.baseline))
    except ActSearchError as error:
        raise ActSearchError(f"confirm.baseline: {error}") from None
    if layers not in (1, job.model.n_slots):
        raise ActSearchError(
            f"confirm.baseline={job.confirm.baseline} names {layers} layers; the model takes {job.model.n_slots}."
        )
    if job.confirm.metric in ("test_loss", "learning_speed") and job.data.least_loss < 0:
        raise ActSearchError(
            f"confirm.metric={job.confirm.metric}: losses are compared by their ratio, and that of '{job.data.name}' "
            f"can be negative. Write confirm.metric=test_{job.metric.name}."
        )
    for init in job.values_of("init"):
        job.model.check_init(init)
    if min(map(int, job.values_of("batch_size"))) == 1:
        job.model.check_one_example()
    for candidate in job.space.typical():
        job.model.check(candidate.specs)
    job.model.check(parse_net(job.confirm.baseline))
    if job.confirm.metric in SPEED and not job.tells_speed:
        steps = max(job.recipe.steps, SPEED_RUNGS)
        cure = f"recipe.schedule=constant recipe.steps={steps} recipe.eval_every={steps // SPEED_RUNGS}"
        raise ActSearchError(
            f"confirm.metric={job.confirm.metric}: how fast a net learns shows in curves of at least {SPEED_RUNGS} "
            f"evaluations at a constant rate. Write {cure}."
        )
