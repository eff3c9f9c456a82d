"""The command `actsearch`: the only file that sees a Hydra config. Exit codes: 0, 2 bad input, 130 interrupted."""

from __future__ import annotations

import _thread
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import hydra.errors
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actsearch.errors import ActSearchError, hide_password, one_line, unknown
from actsearch.processes import Processes, core_count

if TYPE_CHECKING:  # imported where needed: torch, which they import, takes seconds
    from actsearch.config import Config
    from actsearch.job import Job

HERE = Path(__file__).parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, in a checkout
QUOTED = (
    "On the command line a list stands in brackets, and a spec with parentheses in quotes inside quotes: "
    "'search_space.activations=[relu,\"leaky_relu(negative_slope=0.02)\"]'."
)
TASKS = ("search", "list", "properties", "cost", "export", "deliver", "report")
NOT_IN_RESULT = ("root", "download")  # of data: where it lies, not what it is

exit_code = 0
early: Processes | None = None  # to train in; started before torch is imported here, so that both imports overlap


def main() -> None:
    """Runs the command and exits."""
    global early
    words = sys.argv[1:]
    if not any(word.startswith(("-", "task=", "device=")) for word in words):
        early = Processes(core_count())
    before, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        _main()
    finally:
        sys.unraisablehook = before
        if early is not None:
            early.close()
    sys.exit(exit_code)


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a finaliser, and so a Ctrl-C that falls into one: it comes again, outside."""
    if dropped.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(dropped)


def _main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print
    OmegaConf.register_new_resolver("study_name", _study_name_of, replace=True)
    try:
        from actsearch.config import Config

        ConfigStore.instance().store("schema", Config)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
    except KeyboardInterrupt:
        _fail("interrupted before anything was trained.", 130)
    except ActSearchError as error:
        _fail(str(error), 2)
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        _fail(_explain(error), 2)
    except OSError as error:  # Hydra makes the output folder
        _fail(f"the output folder cannot be written ({error}). Choose another: hydra.run.dir=FOLDER.", 2)


def _task(cfg: DictConfig) -> None:
    """One job, or one of several under -m: errors end this job alone and set the exit code of all."""
    if exit_code == 130:
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        _do(cfg, folder)
    except KeyboardInterrupt:
        _fail("interrupted. What was finished is saved: the same command goes on.", 130)
    except ActSearchError as error:
        _fail(str(error), 2)
    except OmegaConfBaseException as error:
        _fail(_explain(error), 2)
    except OSError as error:
        _fail(f"{one_line(error)}. Is the disk full? What was finished is saved: the same command goes on.", 2)
    except Exception as error:
        if not type(error).__module__.startswith(("sqlalchemy.", "optuna.exceptions")):
            raise  # a defect of ours
        where = hide_password(str(cfg.storage.url))
        _fail(f"storage.url={where}: it is damaged or does not answer ({one_line(error)}). Choose another.", 2)
    finally:
        below = [p for p in folder.parents if p.is_relative_to(Path.cwd()) and p != Path.cwd()]
        for made in (folder, *below):  # Hydra makes them before anything is checked
            if not made.is_dir() or any(made.iterdir()):
                break
            made.rmdir()


def _do(cfg: DictConfig, folder: Path) -> None:
    import optuna
    import psutil

    from actsearch import pipeline, tasks
    from actsearch.config import Config
    from actsearch.report.terminal import Terminal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # once more against the typed shape: '+modle=mlp' passes Hydra
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    assert isinstance(config, Config)
    name, words = config.task.get("name"), {key: value for key, value in config.task.items() if key != "name"}
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    alone: dict[str, Callable[..., None]] = {
        "list": tasks.show_list, "properties": tasks.show_properties, "export": tasks.export_file,
    }  # fmt: skip
    takes = {**alone, "cost": tasks.show_costs}
    known = (
        [p.name for p in inspect.signature(takes[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if name in takes
        else []
    )
    for key in words:
        if key not in known:
            raise unknown("config key", f"task.{key}", [f"task.{k}" for k in ("name", *known)])
    if name in alone:
        alone[name](**words)
        return
    plain["task"] = {"name": "search"}  # the config of the search, whatever is done with it now
    job = _job(config, folder, OmegaConf.to_yaml(OmegaConf.create(plain)))
    if name == "cost":
        tasks.show_costs(job, **words)
        return
    terminal = Terminal()
    if name == "deliver":
        result = pipeline.deliver(job)
        terminal.line(f"delivered {job.name} to {job.tracking_uri}")
    elif name == "report":
        result = pipeline.report(job, terminal)
    else:
        result = pipeline.run(job, terminal, early, psutil.Process().create_time())
    result.report(terminal)
    terminal.line(f"\nreport       {tasks.shown(folder)}/report.html")
    terminal.line(f"results      {tasks.shown(folder)}/ (leaderboard.csv, finalists.csv, verdict.json, …)")
    if job.tracking_uri and result.page:
        terminal.line(f"dashboard    {_dashboard(job.tracking_uri, result.page)}")


def _job(config: Config, folder: Path, config_yaml: str) -> Job:
    """A Job of the API from the config's values."""
    from actsearch.data import make_data
    from actsearch.job import Job
    from actsearch.models import Model
    from actsearch.samplers import SamplerFactory, make_pruner
    from actsearch.search_space import SearchSpace

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
    from actsearch.study import check_name

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


def _study_name_of(*, _root_: DictConfig) -> str:
    """${study_name:} in the config: the name of the search; of costs, and what is asked of them."""
    from actsearch.study import fingerprint

    if OmegaConf.select(_root_, "task.name") != "cost":
        return _search_name(_root_)
    asked: Any = OmegaConf.to_container(_root_.task, resolve=True)
    return f"{_search_name(_root_)}-cost-{fingerprint(asked)}"


def _search_name(cfg: DictConfig) -> str:
    """The study's name, or data, model and fingerprint."""
    from actsearch.study import check_name, study_name

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
    from actsearch.study import flatten

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


def _dashboard(uri: str, page: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/") + page
    command = Path(sys.executable).with_name("mlflow")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    return f"{shown} ui --backend-store-uri {uri}\n             and open http://127.0.0.1:5000{page}"


def _explain(error: BaseException) -> str:
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
    from actsearch.config import Config

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
    from actsearch.study import flatten

    GlobalHydra.instance().clear()  # it is still set where the first composition failed
    chosen = [word for word in sys.argv[1:] if (CONF / f"{word.replace('=', '/', 1)}.yaml").is_file()]  # model=cnn1d
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(hydra.compose("config", chosen), resolve=False)
        return [*plain, *flatten(plain)]


def _fail(message: str, code: int) -> None:
    global exit_code
    exit_code = max(exit_code, code)
    print(f"actsearch: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
