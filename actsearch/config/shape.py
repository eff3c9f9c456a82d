"""The typed shape of conf/: what `actsearch --cfg job` shows. Keys of a part are the fields of that part's class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actsearch.question.options import ConfirmOptions, StudyOptions
from actsearch.question.recipe import Recipe


@dataclass
class SearchSpaceConfig:
    activations: list[Any] = field(default_factory=list)
    recipe: Any = None  # a mapping, or null: null can be replaced on the command line, {} cannot
    scope: str = "network"


@dataclass
class StorageConfig:
    url: str | None = None


@dataclass
class TrackingConfig:
    uri: str | None = None
    experiment: str = "actsearch"


@dataclass
class Config:
    """data, model, train, sampler, pruner, task: a function by its import path, `_target_`, and its keywords, beside
    the keys of OWN_KEYS.
    """

    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    search_space: SearchSpaceConfig = field(default_factory=SearchSpaceConfig)
    train: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    pruner: dict[str, Any] = field(default_factory=dict)
    study: StudyOptions = field(default_factory=StudyOptions)
    confirm: ConfirmOptions = field(default_factory=ConfirmOptions)
    storage: StorageConfig = field(default_factory=StorageConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    task: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    engine: str = "auto"


OWN_KEYS = {
    "data": ("name", "n_validation", "subset", "resample", "standardise"),
    "model": ("name", "only"),
    "train": ("threads", "per_device", "timeout_s", "metrics", "check_repeat"),
}
"""Keys that stand beside a function's keywords, and are not handed to it (unless it has one of that name)."""
WITH_TARGET = ("data", "model", "train", "sampler", "pruner", "task")
