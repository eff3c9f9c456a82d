"""kill -9, ten times, at any moment of a comparison in a training of one's own. python killed.py [--smoke]

Counts what is lost: runs that had ended and are trained again, and those that are trained twice because they were in
flight.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import killed as this
import optuna

import actsearch
from actsearch.own.run import OwnRun

CODE = """
import sys
sys.path.insert(0, {here!r})
import actsearch, killed
actsearch.compare(train=killed.train, activations=["relu", "gelu"], seeds={seeds}, folder={folder!r}, tracking="none")
"""


def train(activation: Any, seed: int) -> dict[str, float]:
    time.sleep(0.3)
    return {"test_accuracy": 0.5 + random.random() / 10}


def starts(folder: Path) -> list[str]:
    """A line for each run that was started."""
    return [line for log in folder.glob("*/logs/*.log") for line in re.findall(r"--- .*", log.read_text())]


def ended(folder: Path) -> set[str]:
    """The runs that the study has."""
    found = set()
    for path in folder.glob("*/study.db"):
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        for name in optuna.get_all_study_names(storage):
            if name.endswith("/runs"):
                for trial in optuna.load_study(study_name=name, storage=storage).get_trials():
                    run = OwnRun.from_json(trial.user_attrs["result"])
                    found.add(f"--- {run.activation}, seed {run.seed}")
    return found


def main(smoke: bool) -> None:
    kills, seeds = (2, 8) if smoke else (10, 60)
    rng, lost, again, in_flight = random.Random(0), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = CODE.format(here=str(Path(__file__).parent), seeds=seeds, folder=name)
        for _ in range(kills):
            leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=dict(os.environ))
            before = len(starts(folder))
            while len(starts(folder)) < before + 3 and leader.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.random())
            leader.send_signal(signal.SIGKILL)
            leader.wait()
            time.sleep(1.0)  # its processes end by themselves
            known, started = ended(folder), starts(folder)
            in_flight += len(set(started) - known)
        known = ended(folder)
        counts = Counter(starts(folder))
        result = actsearch.compare(train=this.train, activations=["relu", "gelu"], seeds=seeds, folder=name,
                                   tracking="none", quiet=True)  # fmt: skip
        after = Counter(starts(folder))
        lost = sum(after[run] > counts[run] for run in known)
        again = sum(count - 1 for count in after.values())
        n = sum(c.n_seeds for c in result.comparisons)
        print(
            f"{kills} kills, {n} runs in the result: {lost} finished runs trained again, {again} runs started twice, "
            f"{in_flight} in flight at a kill"
        )
        if lost or again > in_flight or n != 2 * seeds:
            raise SystemExit(1)


if __name__ == "__main__":
    main("--smoke" in sys.argv)
