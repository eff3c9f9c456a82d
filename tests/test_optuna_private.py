"""What Optuna's public interface cannot do, with the reason for each; and the other files keep to that interface."""

import ast

import optuna
import pytest
from optuna.trial import TrialState
from test_import_order import files

from actsearch.study import optuna_private


def only_trial(study):
    return study.get_trials(deepcopy=False)[0]


def test_no_other_file_uses_private_names_of_optuna():
    found = {}
    for module, path in files().items():
        tree = ast.parse(path.read_text())
        imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        imported += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        if not any(name.split(".")[0] == "optuna" for name in imported):
            continue
        names = [
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        ]
        names += [part for name in imported if name.startswith("optuna.") for part in name.split(".")]
        found[module] = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert found.pop("study.optuna_private") == {"_trial_id", "_storage"}  # the parser does see them
    assert {"study.search", "study.samplers", "study.storage", "study.store", "study.mirror", "job"} <= set(found)
    assert not any(found.values()), found


def test_a_running_trial_is_written_to_by_another_process(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="s", storage=url).ask().suggest_float("x", 0, 1)
    again = optuna.load_study(study_name="s", storage=url)
    trial = optuna_private.running(again, only_trial(again))
    trial.set_user_attr("result", "good")
    trial.report(0.5, step=3)
    stored = only_trial(optuna.load_study(study_name="s", storage=url))
    assert (stored.number, stored.state, stored.user_attrs) == (0, TrialState.RUNNING, {"result": "good"})
    assert stored.params == trial.params and stored.intermediate_values == {3: 0.5}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("sampler", "keywords"),
    [(optuna.samplers.GridSampler, {"search_space": {"x": [1, 2]}}), (optuna.samplers.BruteForceSampler, {})],
)
def test_ending_a_trial_does_not_stop_a_study_whose_sampler_has_tried_all(sampler, keywords):
    def asked():
        study = optuna.create_study(sampler=sampler(**keywords))
        for _ in range(2):
            trial = study.ask()
            trial.suggest_categorical("x", [1, 2])
            yield study, trial

    with pytest.raises(RuntimeError, match="stop"):
        for study, trial in asked():
            study.tell(trial, state=TrialState.FAIL)
    for study, trial in asked():  # noqa: B007
        optuna_private.end(trial, TrialState.FAIL)
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 2


def test_a_pruned_trial_has_the_value_that_it_was_pruned_at():
    study = optuna.create_study()
    optuna_private.end(study.ask(), TrialState.PRUNED, [0.25])
    assert (only_trial(study).state, only_trial(study).values) == (TrialState.PRUNED, [0.25])


def test_system_attributes_and_values_at_steps_are_stored_and_stored_again(recwarn):
    study = optuna.create_study(directions=["maximize", "minimize"])
    with pytest.raises(NotImplementedError):
        study.ask().report(0.5, step=10)
    for _ in range(2):  # the second time after a kill
        optuna_private.set_system_attr(study, only_trial(study), "grid_id", 7)
        optuna_private.set_intermediate_value(study, only_trial(study), 10, 0.5)
    assert (only_trial(study).system_attrs, only_trial(study).intermediate_values) == ({"grid_id": 7}, {10: 0.5})
    assert not recwarn.list


def test_the_engine_of_a_database_is_found_behind_its_cache(tmp_path):
    database = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    cached = optuna.storages.get_storage(database)
    assert not hasattr(cached, "engine")
    assert optuna_private.engine(cached) is database.engine is optuna_private.engine(database)
    assert optuna_private.engine(optuna.storages.InMemoryStorage()) is None
