"""The only file that uses Optuna's private names, each for something that its public interface cannot do.

A new version of Optuna may break this file (written for 5.0). The private names are: the numbers by which the storage
knows its trials (`_trial_id`), a study's storage (`Study._storage`) with the methods that write to it, and the database
behind a cache (`_CachedStorage._backend`). Each function says which public way exists and why it is not sufficient;
`tests/test_optuna_private.py` shows this, and keeps the other files free of private names. This file imports nothing
else of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


def running(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """The live object of a trial that is running in the storage: it can be reported to and written to.

    The process that asked for the trial may have been killed. `Study.ask` opens new trials only, also after
    `Study.enqueue_trial`, which puts parameters into a new one. Making the object calls the sampler's `before_trial`.
    """
    return optuna.Trial(study, trial._trial_id)


def end(trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
    """Ends a trial without telling the sampler.

    `Study.tell` calls the sampler's `after_trial`. When nothing is left to try, GridSampler and BruteForceSampler then
    call `Study.stop`, which raises RuntimeError outside `Study.optimize`. It takes no values for a pruned trial either.
    """
    trial.storage.set_trial_state_values(trial._trial_id, state, values)


def set_system_attr(study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Stores what a sampler or a pruner noted about a trial in another study; it reads only the system attributes.

    `Trial.set_user_attr` writes to the user attributes; setting `FrozenTrial.system_attrs` stores nothing.
    """
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def set_intermediate_value(study: optuna.Study, trial: FrozenTrial, step: int, value: float) -> None:
    """Stores the value at a step, in a study of several objectives too, and again after a kill.

    `Trial.report` refuses several objectives, and warns at a step that was reported before.
    """
    study._storage.set_trial_intermediate_value(trial._trial_id, step, value)


def engine(storage: optuna.storages.BaseStorage) -> Any:
    """SQLAlchemy's engine of a database, whose connections can be closed; None for other storages.

    `optuna.storages.get_storage` puts a cache around a database, and the cache does not show `RDBStorage.engine`. Its
    `remove_session` leaves the connections open.
    """
    return getattr(getattr(storage, "_backend", storage), "engine", None)
