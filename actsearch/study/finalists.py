"""The second stage: the best specs and the baseline, tuned alike, trained on fresh seeds and scored on the test set.

This is the only file that asks for the test set. Its results are kept in `Results` beside the search: one record for
each spec and recipe of the tuning, and one run for each spec, recipe and seed of the finalists.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from actsearch.activations.spec import Spec, parse_net, print_net
from actsearch.contents import digest_of
from actsearch.data.source import Data
from actsearch.packed import pack
from actsearch.question.metrics import Direction
from actsearch.question.options import Confirmation
from actsearch.question.recipe import Recipe
from actsearch.records import (
    NOTHING,
    Candidate,
    Curves,
    Event,
    Evidence,
    FinalistRun,
    GenerationStarted,
    RungReached,
    RunKey,
    TrialRecord,
    by_candidate,
    rank_key,
)
from actsearch.space.domains import four_digits
from actsearch.study.store import Results
from actsearch.training.diagnostics import entry, mean_entries
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer, TrainingBatch
from actsearch.verdicts.comparison import primary_verdicts
from actsearch.verdicts.statistics import mean

SEEDS_AT_ONCE = 5  # seeds of all finalists that are trained together, and are lost if the search is killed


def choose_finalists(records: Sequence[TrialRecord], k: int, baseline: str, direction: Direction) -> list[Candidate]:
    """The k best distinct specs among the completed trials, each with its best recipe, and then the baseline."""
    done = sorted((r for r in records if r.state == "complete"), key=rank_key(direction))
    best: dict[str, TrialRecord] = {}
    for record in done:
        best.setdefault(record.activation, record)
    home = print_net(parse_net(baseline))
    base = best.pop(home, None)
    chosen = [*list(best.values())[:k], *([base] if base else [])]
    candidates = [Candidate(parse_net(r.activation), tuple(r.recipe.items())) for r in chosen]
    return candidates if base else [*candidates, Candidate(parse_net(home))]


def with_baseline(candidates: Sequence[Candidate], baseline: str) -> list[Candidate]:
    """All candidates, and the baseline if it is not among them."""
    specs: tuple[Spec, ...] = parse_net(baseline)
    known = any(candidate.specs == specs for candidate in candidates)
    return [*candidates, *([] if known else [Candidate(specs)])]


@dataclass(frozen=True)
class Entrant:
    """A finalist, or the baseline, at a multiple of its tuned learning rate."""

    tuned: Candidate
    rate: float = 1.0

    def candidate(self, recipe: Recipe) -> Candidate:
        """The candidate that is trained."""
        if self.rate == 1.0:
            return self.tuned
        values = dict(self.tuned.recipe)
        lr = four_digits(self.rate * float(values.pop("lr", recipe.lr)))
        return Candidate(self.tuned.specs, (*values.items(), ("lr", lr)))

    def empty(self, recipe: Recipe, seed: int) -> FinalistRun:
        c = self.candidate(recipe)
        return FinalistRun(c.activation, dict(c.recipe), seed, math.nan, math.nan, False, rate=self.rate)


def confirm(
    kept: Results[FinalistRun],
    candidates: Sequence[Candidate],
    trainer: Trainer,
    data: Data,
    recipe: Recipe,
    options: Confirmation,
    known: Evidence = NOTHING,
) -> Generator[Event, None, Evidence]:
    """Trains each candidate, the baseline among them, on fresh seeds and scores it on the test set after the last step.

    Returns `known` with these runs. known: the target and the costs, if options.metric needs them. With
    options.until_decided a candidate gets seeds until its verdict is decided, the baseline as long as any candidate
    does. Runs that are kept already are not trained again. Runs that were in flight when a search was killed are
    trained again together: in float32 the last digits of a run may depend on the runs that it is fused with.
    """
    done = {run.key: run for run in kept.all()}
    if done:  # they count only if they were scored on these examples
        x, y = data.test()
        kept.note_test(len(y), digest_of(x, y))
    flight = [(Entrant(candidate, rate), seed) for candidate, rate, seed in kept.in_flight]
    if not all(entrant.empty(recipe, seed).key in done for entrant, seed in flight):
        yield from _train(kept, done, flight, trainer, data, recipe, options.metric)
    while True:
        evidence, wanted = standing(replace(known, runs=list(done.values())), candidates, recipe, options)
        if not wanted:
            return evidence
        at_once = SEEDS_AT_ONCE * len(candidates) * len(options.rates)
        for part in _of_equal_steps(wanted, recipe):
            for start in range(0, len(part), at_once):
                yield from _train(kept, done, part[start : start + at_once], trainer, data, recipe, options.metric)


def _of_equal_steps(wanted: Sequence[tuple[Entrant, int]], recipe: Recipe) -> list[list[tuple[Entrant, int]]]:
    """The runs in parts that may be trained together."""
    parts: dict[int, list[tuple[Entrant, int]]] = {}
    for entrant, seed in wanted:
        parts.setdefault(entrant.candidate(recipe).recipe_for(recipe).steps, []).append((entrant, seed))
    return list(parts.values())


def standing(
    evidence: Evidence, candidates: Sequence[Candidate], recipe: Recipe, options: Confirmation
) -> tuple[Evidence, list[tuple[Entrant, int]]]:
    """The evidence that verdicts may use now, and the runs to train next: none if everything is decided or trained.

    evidence: with all the runs that are done. The result depends on these alone, so that it is the same before and
    after a kill, and for a report that is made later.
    """
    done = {run.key: run for run in evidence.runs}
    home = parse_net(options.baseline)
    entrants = [Entrant(candidate, rate) for candidate in candidates for rate in options.rates]
    live, n_of, usable = entrants, dict.fromkeys(entrants, 0), replace(evidence, runs=[])
    for n in options.seeds_at_looks:
        n_of |= dict.fromkeys(live, n)
        wanted = [
            (entrant, seed)
            for seed in range(evidence.first_seed, evidence.first_seed + n)
            for entrant in live
            if entrant.empty(recipe, seed).key not in done
        ]
        if wanted:
            return usable, wanted
        runs = [
            replace(done[entrant.empty(recipe, seed).key], rate=entrant.rate)
            for entrant in entrants
            for seed in range(evidence.first_seed, evidence.first_seed + n_of[entrant])
        ]
        usable = replace(evidence, runs=runs)
        if n == options.seeds_at_looks[-1]:
            break
        verdicts = primary_verdicts(usable, options)
        undecided = {who for who, verdict in verdicts.items() if not verdict.settled}
        live = [
            e for e in entrants if (e.tuned.activation, e.rate) in undecided or (e.tuned.specs == home and undecided)
        ]
        if not live:
            break
    return usable, []


def _train(
    kept: Results[FinalistRun],
    done: dict[RunKey, FinalistRun],
    part: Sequence[tuple[Entrant, int]],
    trainer: Trainer,
    data: Data,
    recipe: Recipe,
    metric: str,
) -> Generator[Event, None, None]:
    """Trains these runs together, scores them on the test set, and keeps those that are new.

    metric: the one that the verdict is about. If it is the test loss, this is kept of each example, else the score.
    """
    candidates = [entrant.candidate(recipe) for entrant, _ in part]
    kept.in_flight = [(entrant.tuned, entrant.rate, seed) for entrant, seed in part]
    names = {i: f"{c}, seed {s}" for i, (c, (_, s)) in enumerate(zip(candidates, part, strict=True))}
    yield GenerationStarted("finalists", names)
    batch = TrainingBatch(
        trainer, [Run(c.specs, c.recipe_for(recipe), s) for c, (_, s) in zip(candidates, part, strict=True)]
    )
    runs, before = [entrant.empty(recipe, seed) for entrant, seed in part], 0
    for rung in batch:
        for i, run in enumerate(runs):
            run.curves.steps.append(rung.step)
            run.curves.val_metric.append([rung.val_metric[i].item()])
            run.curves.val_loss.append([rung.val_loss[i].item()])
            train_loss = rung.train_loss[i].item()
            run.curves.train_loss.append([train_loss if math.isfinite(train_loss) else None])
            run.diverged = bool(rung.diverged[i])
            inside = rung.diagnostics[i]
            if inside is not None:
                run.curves.diagnostics.append(entry(rung.step, inside))
        yield RungReached("finalists", rung.step, {}, len(part) * (rung.step - before))
        before = rung.step
    x, y = data.test()
    name = metric if metric == "test_loss" else f"test_{data.goal.metric.name}"
    scored = batch.score(x, y, "loss" if name == "test_loss" or data.goal.score is None else "score")
    if kept.n_test is None:
        kept.note_test(len(y), digest_of(x, y))
    for i, run in enumerate(runs):
        run.test_metric, run.test_loss, of_each = scored[i]
        if of_each is not None:
            in_metric = name != "test_loss" and data.goal.score is None
            run.of_each[name] = pack(data.goal.in_metric(of_each) if in_metric else of_each)
        run.collapsed = not run.diverged and data.goal.is_guessing(run.test_metric, y)
        if run.key not in done:
            kept.add(run, run.test_metric)
            done[run.key] = run


def as_records(runs: Sequence[FinalistRun], objective: str) -> list[TrialRecord]:
    """The finalists in the form of trials: their curves over seeds, and the value that ranks them on validation."""
    out = []
    for number, group in enumerate(by_candidate(runs)):
        curves = Curves(group[0].curves.steps, n_diverged=sum(run.diverged for run in group))
        for i in range(len(curves.steps)):
            curves.val_metric.append([run.curves.val_metric[i][0] for run in group])
            curves.val_loss.append([run.curves.val_loss[i][0] for run in group])
            curves.train_loss.append([run.curves.train_loss[i][0] for run in group])
        curves.diagnostics = mean_entries([run.curves.diagnostics for run in group])
        value = mean(curves.of(objective)[-1]) if curves.steps else math.nan
        out.append(TrialRecord(number, group[0].activation, group[0].recipe, "complete", [value], curves))
    return out
