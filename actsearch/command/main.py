"""The command `actsearch`: Hydra composes the config, a task does the work.

Exit codes: 0; 2, bad input; 130, interrupted.

Imports no torch before the config is composed and checked: help and wrong words are answered at once.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from actsearch.config.compose import CONF, register, settle, spelt_out
from actsearch.config.explain import ERRORS, explain
from actsearch.errors import ActSearchError, hide_password, one_line
from actsearch.output import Output, open_standard_streams
from actsearch.processes import Processes, core_count

SEARCH = "actsearch.command.tasks.search"
exit_code = 0


def main() -> None:
    """Runs the command and exits."""
    before, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        _main()
    finally:
        sys.unraisablehook = before
    sys.exit(exit_code)


def command() -> None:
    """The entry point of the shell: `main`, and then the process ends at once.

    Everything is closed and written by then; to take torch's and MLflow's modules apart would cost another 1.7 s.
    """
    output, error = open_standard_streams()
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    atexit._run_exitfuncs()
    output.flush()
    if output.failed is not None:
        print(f"actsearch: its output cannot be written ({one_line(output.failed)}).", file=error)
        code = max(code, 2)
    error.flush()
    os._exit(code)


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a finaliser, and so a Ctrl-C that falls into one: it comes again, outside."""
    if dropped.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(dropped)


def _main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print
    try:
        if "${" in os.getcwd():
            raise ActSearchError(f"the folder {os.getcwd()}: Hydra reads ${{…}} as a value. Rename it.")
        sys.argv[1:] = spelt_out(sys.argv[1:])
        register(sys.argv[1:])
        with _yaml_without_passwords():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
    except KeyboardInterrupt:
        _fail("interrupted before anything was trained.", 130)
    except ActSearchError as error:
        _fail(str(error), 2)
    except ERRORS as error:
        _fail(str(explain(error, sys.argv[1:])), 2)
    except OSError as error:  # Hydra makes the output folder
        _fail(f"the output folder cannot be written ({error}). Choose another: hydra.run.dir=FOLDER.", 2)


@contextlib.contextmanager
def _yaml_without_passwords() -> Iterator[None]:
    """All that Hydra writes (multirun.yaml, .hydra/) and prints (--cfg job) of a config goes through this function."""
    to_yaml: Any = OmegaConf.to_yaml
    hidden: Any = staticmethod(lambda *words, **keys: hide_password(to_yaml(*words, **keys)))
    OmegaConf.to_yaml = hidden
    try:
        yield
    finally:
        OmegaConf.to_yaml = to_yaml


def _task(cfg: DictConfig) -> None:
    """One job, or one of several under -m: errors end this job alone and set the exit code of all."""
    if exit_code == 130:
        return
    chosen = HydraConfig.get()
    folder, words = Path(chosen.runtime.output_dir), list(chosen.overrides.task)
    processes = asked = None
    try:
        config = settle(cfg, words)
        if config.task.get("_target_") == SEARCH and config.device == "auto" and not config.train:
            processes = Processes(core_count())  # now, so that they import torch while this process does
        from actsearch.command import tasks  # torch, which it imports, takes seconds

        asked = tasks.Asked(config, folder, processes, words)
        tasks.do(asked)
    except KeyboardInterrupt:
        _fail("interrupted. What was finished is saved: the same command goes on.", 130)
    except ActSearchError as error:
        _fail(str(error), 2)
    except ERRORS as error:
        _fail(str(explain(error, words)), 2)
    except OSError as error:
        full = " Is the disk full?" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        _fail(f"{one_line(error)}.{full} What was finished is saved: the same command goes on.", 2)
    except Exception as error:
        from actsearch.study.storage import storage_trouble

        said = storage_trouble(error)
        if said is None:
            raise  # a defect of ours
        where = f"storage.url={cfg.storage.url}" if cfg.storage.url else "study.db in the folder of the results"
        _fail(
            f"{where}: it is damaged, full or does not answer ({said}). If it is sound, the same command goes on; "
            "otherwise choose another storage.url.", 2,
        )  # fmt: skip
    finally:
        if processes is not None:
            processes.close()
        _remove_if_empty(folder)
        if asked is not None:
            _remove_if_empty(asked.folder)


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the output folder, and those above it, before anything is checked."""
    below = [p for p in folder.parents if p.is_relative_to(Path.cwd()) and p != Path.cwd()]
    for made in (folder, *below):
        if not made.is_dir() or any(made.iterdir()):
            break
        made.rmdir()


def _fail(message: str, code: int) -> None:
    global exit_code
    exit_code = max(exit_code, code)
    Output(sys.stderr).write(f"actsearch: {' '.join(message.splitlines())}\n")
