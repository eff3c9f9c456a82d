"""The fused engine: it trains K runs as one tensor program.

The weights of the runs are rows of one tensor (K, n). Each layer is called once for all K runs; forward pass, backward
pass and update are written out. `trace_layers` reads a net's layers once. `Fused` holds the runs that are in training,
as `Serial` in worker.py does for the plain loop. In float64 the results equal the plain loop's (reference.py). A run's
result does not depend on the other runs of its program, except for rounding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor

from actsearch.activations.spec import Learned
from actsearch.data.goal import What
from actsearch.data.inputs import Inputs, tensors
from actsearch.training.diagnostics import Diagnostics, collect, probe_rungs, probe_size, statistics_of
from actsearch.training.layer import Binding, Layer, LayerCall, Segment, Value
from actsearch.training.layers import Activations, Add, Flatten, learned_size, spec_at
from actsearch.training.reference import NOISE, WEIGHTS, Evaluation, Run, Scored, batch_order, guessed, stream
from actsearch.training.rows import ALIGN, Rows
from actsearch.training.update import Update

EAGER = 3  # how often work is done on a GPU without a CUDA graph before one is captured


class Fused:
    """A program: runs that are trained together.

    rows: the data and the traced model. runs: pairs (index, run), the index being the run's place in the generation.
    All runs have the same batch size and optimizer. vectorised: if true, the program has the form for accelerators: no
    operation is done run by run, and steps are counted on the device. If None, this is so on all devices but a CPU.
    """

    def __init__(self, rows: Rows, runs: Sequence[tuple[int, Run]], vectorised: bool | None = None) -> None:
        self.source, self.model, self.traced = rows, rows.model, rows.traced
        self.device, self.dtype = rows.device, rows.dtype
        self.vectorised = self.device.type != "cpu" if vectorised is None else vectorised
        self.indices, self.runs = [index for index, _ in runs], [run for _, run in runs]
        self.recipe = self.runs[0].recipe
        self.last: dict[int, Evaluation] = {}
        self.step = 0
        self.times: Counter[str] = Counter()
        self._rungs = iter(self.recipe.rungs())
        self._probes = probe_rungs(self.recipe.rungs())
        self.nodes = [_with_learned(node, self.runs) for node in self.traced.nodes]
        self._lay_out()
        self._load_weights()
        self._load_data()
        self._bind(None)

    # --- rows -------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Assigns each segment its place in a row: weights, then learned parameters of activations, then buffers.

        Learned parameters stand apart from weights because they have no weight decay.
        """
        kinds = ("weight", "learned", "buffer")
        self.segments = [
            segment for kind in kinds for node in self.nodes for segment in node.segments if segment.kind == kind
        ]
        self.where: dict[str, slice] = {}
        ends, at = {}, 0
        for segment in self.segments:
            self.where[segment.name] = slice(at, at + segment.size)
            at = -(-(at + segment.size) // ALIGN) * ALIGN
            ends[segment.kind] = at
        self.n_weights = ends["weight"]
        self.n_trained = ends.get("learned", self.n_weights)
        self.n_row = at

    def _load_weights(self) -> None:
        """Fills the rows with the initial weights, the same as in the plain loop."""
        places = {node.name: node for node in self.nodes if node.layer is Activations}
        rows = torch.zeros(len(self.runs), self.n_row, dtype=self.dtype)
        for k, run in enumerate(self.runs):
            net = self.model.build(run.specs, stream(run.seed, WEIGHTS), run.recipe.init).to(self.dtype)
            state = net.state_dict()
            for segment in self.segments:
                if segment.kind != "learned":
                    rows[k, self.where[segment.name]] = segment.read(state[segment.name])
            for name, node in places.items():
                learned = list(net.get_submodule(name).parameters())
                if learned:
                    start = self.where[node.segments[0].name].start
                    flat = torch.cat([p.detach().reshape(-1) for p in learned])
                    rows[k, start : start + len(flat)] = flat
        self.rows = rows.to(self.device)

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """The current state_dict of one run's net, with the names that the net itself uses."""
        return self._of_net(index, self.rows, ("weight", "buffer"))

    def gradient_dict(self, index: int) -> dict[str, Tensor]:
        """The gradients of one run's parameters in the last step, with the names that the net itself uses."""
        net = self.model.build(self.runs[self.indices.index(index)].specs, 0, "torch")
        found = self._of_net(index, self.gradients, ("weight",))
        return {name: found[name] for name, _ in net.named_parameters()}

    def _of_net(self, index: int, rows: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        """What stands in one run's row, by the names of the net's state_dict. kinds: of segments, besides learned."""
        k = self.indices.index(index)
        net = self.model.build(self.runs[k].specs, 0, "torch").to(self.dtype)
        state = net.state_dict()
        for segment in self.segments:
            if segment.kind in kinds:
                state[segment.name] = segment.write(rows[k, self.where[segment.name]].cpu(), state[segment.name].shape)
        for node in self.nodes:
            if node.layer is Activations and node.segments:
                at = self.where[node.segments[0].name].start
                for name, p in net.get_submodule(node.name).named_parameters():
                    state[f"{node.name}.{name}"] = rows[k, at : at + p.numel()].cpu().view(p.shape).clone()
                    at += p.numel()
        return state

    # --- data -------------------------------------------------------------------------------------

    def _load_data(self) -> None:
        """Joins the training data of all seeds to one pool, and notes where each step's batches lie in it."""
        self.seeds = sorted({run.seed for run in self.runs})
        resample = self.source.data.resample
        splits = [self.source.split(seed) for seed in (self.seeds if resample else self.seeds[:1])]
        xs, ys, x_vals, y_vals = zip(*splits, strict=True)
        self.pool_x, self.pool_y = (p[0] if len(p) == 1 else torch.cat(p) for p in (xs, ys))
        self.x_val, self.y_val = (p[0][None] if len(p) == 1 else torch.stack(p) for p in (x_vals, y_vals))
        n, r = len(xs[0]), self.recipe
        orders = [batch_order(n, r.batch_size, r.steps, seed).int() for seed in self.seeds]
        shift = n if resample else 0
        self.order = torch.stack([order + i * shift for i, order in enumerate(orders)], 1).flatten(1).to(self.device)
        self.noise = [
            torch.Generator(self.device).manual_seed(stream(seed, NOISE)) for seed in self.seeds
        ]  # each seed has its own generator, so that the draws equal the plain loop's

    # --- the program ------------------------------------------------------------------------------

    def _bind(self, state: tuple[Tensor, Tensor] | None) -> None:
        """Binds each layer to its memory, for the runs that the program has now. state: the optimizer's, if any."""
        k, batch = len(self.runs), self.recipe.batch_size
        new = lambda *shape: torch.zeros(*shape, dtype=self.dtype, device=self.device)  # noqa: E731
        take = self.source.workspace.take
        self.source.workspace.begin()
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self.times.clear()
        self.weights = self.rows[:, : self.n_trained]
        self.gradients = new(k, self.n_trained)
        self.update = Update(
            self.weights, self.gradients, self.n_weights, [run.recipe for run in self.runs], self.vectorised, state
        )
        self.seed_of = torch.tensor([self.seeds.index(run.seed) for run in self.runs], device=self.device)
        self.counter = torch.full((1,), self.step, device=self.device)
        start = self.traced.start
        start.data = take(k, *start.fused_shape, batch)
        for node in self.nodes:
            node.out.grad = None
            if node.layer is Flatten:
                node.out.data = node.inputs[0].data.view(k, *node.out.shape, batch)
            else:
                node.out.data = take(k, *node.out.fused_shape, batch)
        end = self.nodes[-1].out
        end.grad = take(*end.data.shape)
        keep_mask = partial(_keep_mask, self.noise, self.seed_of, self.recipe.batch_size, self.dtype)
        bound = Binding(k, batch, [run.specs for run in self.runs], self._views, keep_mask, self.vectorised)
        self.layers: list[Layer] = []
        self.merged: list[Tensor] = []  # gradients of values with several consumers
        for node in reversed(self.nodes):
            layer = node.layer.bind(node, bound)
            gradients = [self._gradient_for(node, value) for value in node.inputs]
            layer.gx = gradients[0]
            if isinstance(layer, Add):
                layer.gx_other = gradients[1]
            layer.adds = [
                (v.grad, g) for v, g in zip(node.inputs, gradients, strict=True) if g is not None and v.n_consumers > 1
            ]  # pyright: ignore[reportAttributeAccessIssue]
            self.layers.insert(0, layer)
        # tensors for the loss and the batches
        self.outputs, self.g_outputs = end.data, end.grad
        n_seeds = len(self.seeds)
        self.target = take(k, *end.shape, batch)
        self.input = start.data.view(k, -1, batch)
        self._x, self._y = take(n_seeds, self.input.shape[1], batch), take(n_seeds, *end.shape, batch)
        self.losses, self.sums = new(k), new(2, k)

    def _gradient_for(self, node: LayerCall, value: Value) -> Tensor | None:
        """The tensor into which a layer writes the gradient of one of its inputs; None if that input is the data."""
        take = self.source.workspace.take
        if value is self.traced.start:
            return None
        if value.n_consumers > 1:
            if value.grad is None:
                value.grad = take(*value.data.shape)
                self.merged.append(value.grad)
            return take(*value.data.shape)
        assert node.out.grad is not None
        if node.layer is Flatten:
            value.grad = node.out.grad.view(value.data.shape)
        else:
            value.grad = node.out.grad if node.layer.in_place else take(*value.data.shape)
        return value.grad

    def _views(self, segment: Segment) -> tuple[Tensor, Tensor]:
        where = self.where[segment.name]
        k = len(self.runs)
        values = self.rows[:, where].view(k, *segment.shape)
        return values, values if segment.kind == "buffer" else self.gradients[:, where].view(k, *segment.shape)

    def _forward(self, training: bool) -> None:
        for layer in self.layers:
            layer.forward(training)

    def _backward(self) -> None:
        for total in self.merged:
            total.zero_()
        for layer in reversed(self.layers):
            layer.backward()
            for total, part in layer.adds:
                total.add_(part)

    def _one_step(self) -> None:
        """One training step: batch, forward, loss, backward, update."""
        at: Any = self.counter if self.vectorised else self.step
        batch = self.order.index_select(0, at).view(-1) if self.vectorised else self.order[at]
        for pool, per_seed, per_run in ((self.pool_x, self._x, self.input), (self.pool_y, self._y, self.target)):
            per_seed.copy_(pool.index_select(0, batch).view(len(self.seeds), -1, pool.shape[1]).mT)
            torch.index_select(per_seed, 0, self.seed_of, out=per_run)
        self._forward(training=True)
        total = self.source.loss.step(self.outputs, self.target, self.g_outputs)
        self.losses.add_(total, alpha=1 / self.recipe.batch_size)
        self._backward()
        self.update.step(at)
        if self.vectorised:
            self.counter.add_(1)

    def _advance_to(self, stop: int) -> None:
        with torch.no_grad():
            while self.step < stop:
                self._do(self._one_step)
                self.step += 1

    def _do(self, work: Callable[[], None]) -> None:
        """Calls `work`, which reads and writes only tensors whose addresses do not change.

        On a GPU it is captured as a CUDA graph, which is then replayed: one launch instead of hundreds.
        """
        name = work.__name__
        self.times[name] += 1
        if self.device.type != "cuda" or self.times[name] <= EAGER:
            work()
            return
        if name not in self.graphs:
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            for generator in self.noise:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, pool=self.source.workspace.pool):
                work()
            self.graphs[name] = graph
        self.graphs[name].replay()

    # --- rungs ------------------------------------------------------------------------------------

    def advance(self, stopped: set[int]) -> Iterator[tuple[int, Evaluation]]:
        """Trains all runs up to their next rung and yields (index, evaluation) of each.

        stopped: indices of runs that are pruned, which leave the program. A run that diverged repeats its last
        evaluation.
        """
        for index in stopped:
            self.last.pop(index, None)
        gone = stopped | {index for index, at in self.last.items() if at.diverged}
        self._keep([k for k, index in enumerate(self.indices) if index not in gone])
        if self.runs:
            before, stop = self.step, next(self._rungs)
            self.losses.zero_()
            self._advance_to(stop)
            train_loss = (self.losses / (stop - before)).tolist()
            with torch.no_grad():
                self._do(self._validate)
            metric, val_loss = self._scores(self.x_val.shape[1])
            inside = self._diagnose() if stop in self._probes else [None] * len(self.runs)
            for index, m, v, t, d in zip(self.indices, metric, val_loss, train_loss, inside, strict=True):
                if math.isfinite(t) and math.isfinite(v):
                    self.last[index] = Evaluation(stop, m, v, t, diagnostics=d)
                else:
                    self.last[index] = Evaluation(stop, *self.source.goal.guess, math.nan, diverged=True)
        yield from self.last.items()

    def score(self, x: Inputs, y: Tensor, what: What | None = None) -> Iterator[tuple[int, Scored]]:
        """Yields (index, Scored) of every run's net on the test set; of a diverged run, the goal's guess."""
        scores: dict[int, Scored] = {}
        if self.runs:
            data = self.source.data
            seeds = self.seeds if data.resample and data.scaled else self.seeds[:1]
            inputs = torch.stack([self.source.of(tensors(data.inputs(x, seed))[0]) for seed in seeds])
            answers = self.source.answers(y)
            with torch.no_grad():
                parts = self._add_up(inputs, answers.expand(len(seeds), *answers.shape), what)
            of_each = [None] * len(self.runs) if what is None else list(torch.cat(parts, 1).cpu().numpy())
            metric, losses = self._scores(len(y))
            scores = dict(zip(self.indices, map(Scored, metric, losses, of_each), strict=True))
        for index, at in self.last.items():
            yield index, guessed(self.source.goal, len(y), what) if at.diverged else scores[index]

    def _validate(self) -> None:
        self._add_up(self.x_val, self.y_val)

    def _add_up(self, x: Tensor, y: Tensor, what: What | None = None) -> list[Tensor]:
        """Adds up losses and scores of n examples in `sums`. x: (1 or seeds, n, features), y: (1 or seeds, n, …).

        Returns what is asked for of each example, in parts (K, at most a batch).
        """
        n, batch, goal = x.shape[1], self.recipe.batch_size, self.source.goal
        rows = self.seed_of if len(x) > 1 else torch.zeros_like(self.seed_of)
        losses, scores = self.sums.zero_()
        parts: list[Tensor] = []
        for start in range(0, n, batch):
            size = min(batch, n - start)
            self._show(x[:, start : start + size])
            ys = y[:, start : start + size].index_select(0, rows)
            self._forward(training=False)
            outputs = self.outputs[:, :, :size]
            found = {"loss": self.source.loss.of_each(outputs, ys)}
            losses += found["loss"].sum(1)
            if goal.score is not None:
                found["score"] = goal.score(outputs.mT, ys)
                scores += found["score"].sum(1)
            if what is not None:
                parts.append(found[what])
        return parts

    def _scores(self, n: int) -> tuple[list[float], list[float]]:
        """The metric and the mean loss of each run, from the `sums` over n examples."""
        losses, scores = self.sums
        means = (losses / n).tolist()
        return [
            self.source.goal.value(*pair) for pair in zip(means, (scores.double() / n).tolist(), strict=True)
        ], means

    def _show(self, x: Tensor) -> None:
        """Copies examples into the first columns of the input. x: (1 or seeds, at most a batch, features)."""
        self.input[:, :, : x.shape[1]].copy_(x.mT.index_select(0, self.seed_of) if len(x) > 1 else x.mT)

    def _diagnose(self) -> list[Diagnostics]:
        """The Diagnostics of every run. The gradients in memory are still those of the last training step."""
        size = probe_size(self.recipe.batch_size, self.x_val.shape[1])
        with torch.no_grad():
            self._show(self.x_val[:, :size])
            self._forward(training=False)
            slots = {
                layer.place: statistics_of(layer.y[..., :size], layer.slopes()[..., :size], channel=-2)
                for layer in self.layers
                if isinstance(layer, Activations)
            }
            norms = [self.gradients[:, self.where[name]].norm(dim=1) for name in self.traced.weight_layers]
        return collect(slots, norms)

    def _keep(self, rows: list[int]) -> None:
        """Removes all runs but those in these rows from the program."""
        if len(rows) == len(self.runs):
            return
        keep = torch.tensor(rows, dtype=torch.long, device=self.device)
        self.indices, self.runs = [self.indices[k] for k in rows], [self.runs[k] for k in rows]
        if rows:
            self.rows, state = self.rows[keep], self.update.kept(keep)
            self._bind(state)


def _keep_mask(
    noise: Sequence[torch.Generator], seed_of: Tensor, batch: int, dtype: torch.dtype, shape: tuple[int, ...], p: float
) -> Tensor:
    """Dropout's factors (K, *positions, C, B), 0 or 1 / (1 - p).

    They are drawn once for each seed, in the net's own layout, so that they equal torch's. shape: of one example.
    """
    masks = []
    for generator in noise:
        kept = torch.empty(batch, *shape, dtype=dtype, device=seed_of.device)
        kept.bernoulli_(1 - p, generator=generator).div_(1 - p)
        masks.append(kept.permute(*range(2, kept.dim()), 1, 0))
    return torch.stack(masks).index_select(0, seed_of)


def _with_learned(node: LayerCall, runs: Sequence[Run]) -> LayerCall:
    """The same call; for an activation with a segment that is large enough for every run's learned parameters."""
    if node.layer is not Activations:
        return node
    specs = [spec_at(run.specs, node.place) for run in runs]
    most = max(
        sum(learned_size(spec.activation, k, node.width) for k, v in spec.params.items() if isinstance(v, Learned))
        for spec in specs
    )
    segments = [Segment(f"{node.name}.", (most,), kind="learned")] if most else []
    return replace(node, segments=segments)
