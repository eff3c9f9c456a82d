"""conf/ composed by Hydra: from the words of a command, or of a call from Python, to a typed Config and its name.

Imports no torch: a wrong word is answered at once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from actsearch.config.shape import OWN_KEYS, WITH_TARGET, Config
from actsearch.errors import ActSearchError, is_utf8, unknown
from actsearch.question.identity import check_name, fingerprint, own_name, study_name

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, in a checkout
NOT_IN_RESULT = ("root", "download")  # of data: where it lies, not what it is
# keys of data and model that were added later, with the value that changes nothing
SAME_AS_NONE = [("standardise", "auto"), ("only", None)]


NOT_OF_OWN = (
    "model", "data", "recipe", "engine", "search_space.scope", "confirm.equal", "confirm.fresh",
)  # fmt: skip


def register(words: Sequence[str]) -> None:
    """Tells Hydra the typed shape, and the resolver ${study_name:}, for these words.

    Where they name a function of the user's own (model._target_=my_net.my_net), that group takes any key; the
    function's signature says later which are right.
    """
    _check_options(words)
    shape = OmegaConf.structured(Config)
    for group in (*_own_targets(words), "train"):
        OmegaConf.set_struct(shape[group], False)
    ConfigStore.instance().store("actsearch_schema", shape)
    OmegaConf.register_new_resolver(
        "study_name", lambda *, _root_: name_of(settle(without_hydra(_root_), words)), replace=True
    )


def spelt_out(words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them: with quotes around a command, whose braces it would read as a dictionary, and with
    ++ before keys of a mapping that is null, to which it would add none.
    """
    out = []
    for word in words:
        key, equals, value = word.partition("=")
        if key.startswith("search_space.recipe."):
            key = f"++{key}"
        if key.lstrip("+") == "train.command" and equals and value[:1] not in ("'", '"'):
            value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        out.append(key + equals + value)
    return out


def compose(words: Sequence[str]) -> DictConfig:
    """The config that the command would have with these words. Raises what Hydra raises.

    The caller's script may be a Hydra application itself: its own configuration is put back.
    """
    register(words)
    theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(words))
    finally:
        GlobalHydra.instance().hydra = theirs  # by now another instance


def settle(cfg: DictConfig, words: Sequence[str], searches: bool = False) -> Config:
    """The typed config. Raises what OmegaConf raises for a key or a value that does not fit.

    searches: whether a search is asked for, whatever the words say. In a training of the user's own a plain list is
    compared without one, unless the words ask for trials, finalists or a sampler.
    A function that the words name themselves does not inherit the keys of the option that was chosen before:
    with model._target_=my_net.my_net, the width of conf/model/mlp.yaml is not handed to it.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    for group in _own_targets(words):
        given = {_key(word).split(".")[1] for word in words if _key(word).startswith(f"{group}.")}
        plain[group] = {key: value for key, value in plain[group].items() if key in given}
    # once more against the shape: '+modle=mlp' passes Hydra
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    if config.train:
        _refuse_others(words)
    asked = searches or any(_key(word) in ("study.n_trials", "confirm.finalists", "sampler") for word in words)
    if config.train and not asked and all(isinstance(item, str) for item in config.search_space.activations):
        config.confirm.finalists = "all"
    return config


def without_hydra(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def options(group: str) -> list[str]:
    """The files of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def identity(config: Config, contents: Mapping[str, str]) -> dict[str, Any]:
    """What a result depends on, and so the fingerprint: not how long, where or with what it is shown.

    contents: digests of what the user gives as code or objects, by part.
    """
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    parts = {part: plain[part] for part in ("data", "model", "recipe", "search_space", "sampler", "pruner")}
    parts["data"] = {k: v for k, v in parts["data"].items() if k not in NOT_IN_RESULT and (k, v) not in SAME_AS_NONE}
    parts["model"] = {k: v for k, v in parts["model"].items() if (k, v) not in SAME_AS_NONE}
    study = {k: plain["study"][k] for k in ("seeds", "seed", "generation", "objectives")}
    return {**parts, "engine": plain["engine"], "study": study, **({"contents": dict(contents)} if contents else {})}


def _refuse_others(words: Iterable[str]) -> None:
    """Raises ActSearchError for words of a command that a training of the user's own does not heed."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if any(key == name or key.startswith(f"{name}.") for name in NOT_OF_OWN):
            raise ActSearchError(
                f"{word}: it does not apply to train=…, which has its own model, data and recipe. Leave it out; what "
                "your training takes stands under train, and what is searched of it under search_space.recipe."
            )


def own_identity(config: Config, contents: Mapping[str, str]) -> dict[str, Any]:
    """The same for a training of the user's own. Where nothing is searched, runs alone are kept, and they name what
    they were trained with: so another list or more seeds find those that are there.
    """
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    settings = {key: value for key, value in plain["train"].items() if key not in OWN_KEYS["train"]}
    found: dict[str, Any] = {"train": settings}
    if config.confirm.finalists != "all":
        study = {k: plain["study"][k] for k in ("seeds", "seed", "generation", "objectives")}
        found |= {part: plain[part] for part in ("search_space", "sampler", "pruner")} | {"study": study}
    return {**found, **({"contents": dict(contents)} if contents else {})}


def label(group: str, values: Mapping[str, Any]) -> str:
    """What a data set or model is called, in names of studies and so of folders."""
    if values.get("name") is None:
        return str(values.get("_target_", group)).rpartition(".")[2]
    check_name(f"{group}.name", str(values["name"]))
    return str(values["name"])


def training_name(config: Config) -> str:
    """What a training of the user's own is called: its function, or its command's program."""
    if config.train.get("command") is not None and str(config.train.get("_target_")).endswith(".command.train"):
        words = str(config.train["command"]).split()
        files = [word for word in words[1:] if Path(word).suffix and not word.startswith("-") and "{" not in word]
        return Path((files or words or ["command"])[0]).stem or "command"
    return str(config.train.get("_target_"))


def search_name(config: Config, contents: Mapping[str, str] | None = None) -> str:
    """The study's name, or data, model and fingerprint.

    contents: as in `identity`; without it, the name of a study whose code and objects are all ours.
    """
    if config.study.name is not None:
        return config.study.name
    if config.train:
        return own_name(training_name(config), own_identity(config, contents or {}))
    return study_name(label("data", config.data), label("model", config.model), identity(config, contents or {}))


def name_of(config: Config) -> str:
    """The name of the folder: that of the search; for costs, with a fingerprint of what is asked of them."""
    task = str(config.task.get("_target_"))
    if task.endswith(".judge"):
        table = re.sub(r"[^\w.-]+", "-", Path(str(config.task.get("results"))).stem)[:50]
        return f"judged-{table}-{fingerprint(config.task)}"
    name = search_name(config)
    return f"{name}-cost-{fingerprint(config.task)}" if task.endswith(".cost") else name


def _check_options(words: Sequence[str]) -> None:
    """Raises ActSearchError for a word that is no text, that has no key, or that gives a group something that cannot be
    an option, such as a number.
    """
    parser = OverridesParser.create()
    for word in words:
        group = _key(word)
        if not is_utf8(word) or (word.startswith("=") and word != "="):
            raise ActSearchError(f"cannot read '{word}' on the command line. Write KEY=VALUE. No spaces around '='.")
        if "=" not in word or not ((CONF / group).is_dir() or group.partition("/")[0] == "hydra"):
            continue
        with contextlib.suppress(OverrideParseException):  # `explain` explains it
            given = parser.parse_override(word)
            names = [] if given.is_sweep_override() else given.value()
            if not all(isinstance(name, str) for name in (names if isinstance(names, list) else [names])):
                raise unknown(f"option of {group}:", word.partition("=")[2], options(group))


def _own_targets(words: Sequence[str]) -> list[str]:
    return [group for group in WITH_TARGET if any(_key(word) == f"{group}._target_" for word in words)]


def _key(word: str) -> str:
    """Of `+model.width=3`: model.width."""
    return re.sub(r"^(\+\+|\+|~)", "", word).partition("=")[0]
