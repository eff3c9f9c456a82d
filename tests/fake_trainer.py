"""A Trainer without training: every number is a plain function of (spec, recipe, seed, step), in microseconds."""

import hashlib
import math

import torch

from actsearch.activations.spec import print_net
from actsearch.data.goal import classification
from actsearch.question.metrics import ACCURACY
from actsearch.question.options import ConfirmOptions
from actsearch.training.plan import SERIAL
from actsearch.training.reference import Evaluation, Scored

N_CLASSES = 3


class Killed(BaseException):
    """Stands for kill -9: nothing but a test catches it."""


def confirmation(own=ACCURACY, **options):
    """The options of a comparison, of classifiers if nothing is said."""
    return ConfirmOptions(**options).settled(own)


def draw(*what):
    """A number in [0, 1) that depends on nothing but `what`."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def evaluation(run, step):
    """What the fake says of a run at a step; `softmax` diverges at its second rung."""
    if print_net(run.specs) == "softmax" and step > run.recipe.rungs()[0]:
        return Evaluation(step, 1 / N_CLASSES, math.log(N_CLASSES), math.nan, diverged=True)
    net, share = print_net(run.specs), step / run.recipe.steps
    quality = 0.5 + 0.3 * draw(net, run.recipe.lr) * share + 0.1 * draw(net, run.recipe.lr, run.seed, step)
    return Evaluation(step, quality, 2 - quality, 2.5 - quality)


class FakeTrainer:
    """started: every run it was asked to train. die_at: raises Killed at that call of `advance`."""

    cores = 1
    device = torch.device("cpu")
    goal = classification(N_CLASSES)

    def __init__(self, *_, die_at=None, on_start=None, processes=None):
        self.started, self.scored, self.advances = [], [], 0
        self.die_at, self.on_start = die_at, on_start

    def load(self, model, data, plan=SERIAL, values=()):
        self.data, self.plan, self.goal = data, plan, data.goal

    def start(self, runs):
        if self.on_start is not None:
            self.on_start(runs)
        self.runs, self.rung = list(runs), 0
        self.started += self.runs

    def advance(self, stopped):
        self.advances += 1
        for index, run in enumerate(self.runs):
            if self.advances == self.die_at and index == len(self.runs) // 2:
                raise Killed
            if index not in stopped:
                yield index, evaluation(run, run.recipe.rungs()[self.rung])
        self.rung += 1

    def score(self, x, y, what=None):
        self.scored.append(len(y))
        for index, run in enumerate(self.runs):
            last = evaluation(run, run.recipe.steps)
            yield index, Scored(last.val_metric - 0.01, last.val_loss + 0.02)

    def rest(self):
        self.runs = []

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
