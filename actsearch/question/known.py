"""Metrics that are known by their names, so that a column or a number that a run reports needs no explanation.

Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import replace

from actsearch.errors import ActSearchError, nearest
from actsearch.question.metrics import ACCURACY, PERPLEXITY, PSNR, Metric

# words that say on which examples, or which of a run's values, and nothing of the metric
OF_WHAT = {
    "test", "val", "valid", "validation", "eval", "evaluation", "dev", "train", "training", "holdout", "final", "best",
    "last", "mean", "avg", "average", "metrics", "score",
}  # fmt: skip
LAST = {"accuracy", "acc", "loss"}  # what any other words may stand before, such as clean_accuracy
CHANGING = {"to", "of", "until", "per", "at", "minus", "drop", "gap", "diff", "delta", "no"}


def _share(higher_is_better: bool = True) -> Metric:
    return replace(ACCURACY, higher_is_better=higher_is_better)


def _ratio(margin: float, higher_is_better: bool = False, unit: str = "", decimals: int = 4) -> Metric:
    return Metric("", "", higher_is_better, True, margin, unit, decimals)


def _points(margin: float, higher_is_better: bool = True, decimals: int = 3) -> Metric:
    return Metric("", "", higher_is_better, False, margin, "", decimals)


KNOWN = {
    **dict.fromkeys(("accuracy", "acc", "top1", "top5", "balancedaccuracy", "f1", "macrof1", "microf1", "weightedf1",
                     "f1macro", "f1micro", "f1weighted", "auroc", "rocauc", "auc", "averageprecision", "ap", "map",
                     "auprc", "prauc", "precision", "recall", "sensitivity", "specificity", "iou", "miou", "jaccard",
                     "dice", "exactmatch", "successrate"), _share()),
    **dict.fromkeys(("error", "errorrate", "top1error", "top5error", "wer", "cer", "eer"), _share(False)),
    **dict.fromkeys(("loss", "nll", "crossentropy", "bce", "logloss", "mse", "elbo"), _ratio(0.05)),
    **dict.fromkeys(("rmse", "mae", "mape", "fid"), _ratio(0.02)),
    **dict.fromkeys(("perplexity", "ppl"), PERPLEXITY),
    **dict.fromkeys(("bpb", "bpc", "bpd", "bitsperbyte", "bitsperchar", "bitsperdim"), _ratio(0.01)),
    "psnr": PSNR,
    **dict.fromkeys(("ssim", "r2", "rsquared", "mcc", "kappa"), _points(0.01)),
    **dict.fromkeys(("bleu", "rouge", "rouge1", "rouge2", "rougel", "chrf"), _points(0.5, decimals=2)),
    **dict.fromkeys(("reward", "return", "episodereward", "episodereturn"), _ratio(0.05, True, decimals=2)),
    **dict.fromkeys(("seconds", "times", "runtime", "walltime", "duration", "elapsed"), _ratio(0.05, unit="s")),
    **dict.fromkeys(("latencyus", "trainingstepus"), _ratio(0.05, unit="µs")),
    **dict.fromkeys(("latency", "latencyms", "stepstoaccuracy", "timetoaccuracys", "learningspeed", "steps", "epochs",
                     "params", "parameters", "memory", "memorymib"), _ratio(0.05)),
}  # fmt: skip
"""By name, in small letters and without signs. What does not matter: half a point of a share, 5 % of a loss, …"""


def metric_named(
    name: str,
    higher_is_better: bool | None = None,
    margin: float | None = None,
    ratio: bool | None = None,
    place: str = "task",
) -> Metric:
    """The metric of this name, with what is said of it. place: where the keys stand, for messages.

    Raises ActSearchError for an unknown name of which too little is said.
    """
    known = known_metric(name)
    if known is None and (higher_is_better is None or margin is None):
        near = nearest(_plain(name), KNOWN, 0.75)
        meant = f" Did you mean '{near}'?" if near else ""
        raise ActSearchError(
            f"the metric '{name}' is not known by its name.{meant} Say whether more of it is better, and which "
            f"difference does not matter: {place}.higher_is_better=true {place}.margin=0.01 (and {place}.ratio=true if "
            "that is a share of the value, 1 %)."
        )
    metric = known or Metric("", "", ratio=False, decimals=4)
    given = {"higher_is_better": higher_is_better, "margin": margin, "ratio": ratio}
    metric = replace(metric, **{key: value for key, value in given.items() if value is not None})
    if ratio and metric.unit == "%":
        metric = replace(metric, unit="", decimals=4)
    if not metric.margin > 0 or (metric.margin >= 1 and (metric.ratio or metric.unit == "%")):
        raise ActSearchError(
            f"{place}.margin={metric.margin:g}: write a number above 0; of a share or a ratio, below 1."
        )
    return replace(metric, name=name, words=re.sub(r"[_./]+", " ", name))


def known_metric(name: str) -> Metric | None:
    """The metric that a name such as test_accuracy says; None if it says none."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    kept = [word for word in words if word not in OF_WHAT] or words
    last = [kept[-1]] if kept and kept[-1] in LAST and not set(words) & CHANGING else []
    found = [KNOWN[name] for name in ("".join(kept), "".join(words), *last) if name in KNOWN]
    return found[0] if found else None


def _plain(name: str) -> str:
    return "".join(word for word in re.split(r"[\W_]+", name.lower()) if word not in OF_WHAT)
