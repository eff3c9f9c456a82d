"""The command `actsearch`: the only file that sees a Hydra config. Exit codes: 0, 2 bad input, 130 interrupted."""

from __future__ import annotations

import _thread
import inspect
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import hydra.errors
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actsearch.command.build import make_job, study_name_of
from actsearch.command.config import CONF
from actsearch.command.explain import explain
from actsearch.errors import ActSearchError, hide_password, one_line, unknown
from actsearch.processes import Processes, core_count

TASKS = ("search", "list", "properties", "cost", "export", "deliver", "report")
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
    OmegaConf.register_new_resolver("study_name", study_name_of, replace=True)
    try:
        from actsearch.command.config import Config

        ConfigStore.instance().store("schema", Config)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
    except KeyboardInterrupt:
        _fail("interrupted before anything was trained.", 130)
    except ActSearchError as error:
        _fail(str(error), 2)
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        _fail(explain(error), 2)
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
        _fail(explain(error), 2)
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

    from actsearch import pipeline
    from actsearch.command import tasks
    from actsearch.command.config import Config
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
    job = make_job(config, folder, OmegaConf.to_yaml(OmegaConf.create(plain)))
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


def _dashboard(uri: str, page: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/") + page
    command = Path(sys.executable).with_name("mlflow")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    return f"{shown} ui --backend-store-uri {uri}\n             and open http://127.0.0.1:5000{page}"


def _fail(message: str, code: int) -> None:
    global exit_code
    exit_code = max(exit_code, code)
    print(f"actsearch: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
