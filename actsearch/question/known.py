"""Metrics that are known by their names, so that a column or a number that a run reports needs no explanation.

Imports no torch.
"""

from __future__ import annotations

import math
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
PERCENT = {"pct", "percent", "percentage"}
# words with which a number is another one, often with the other direction: of neg_log_loss more is better
CHANGING = {
    "to", "of", "until", "per", "by", "vs", "at", "no", "non", "minus", "neg", "negative", "negated", "inv", "inverse",
    "inverted", "drop", "gap", "diff", "difference", "delta", "change", "improvement", "reduction", "increase",
    "decrease", "gain", "rel", "relative", "ratio", "rank", "std", "sd", "stdev", "stddev", "sem", "stderr", "var",
    "variance", "ci", "grad", "gradient", "n", "num", "number", "count", "steps", "epochs", "time", "log10", "ln",
    "exp", "sqrt", "regret", "forget", "forgetting", "attack", "attacker", "backdoor", "poison", "membership", "mia",
    "bias", "leakage", "chance", "random", "baseline", "majority", "weight", "weights", "stop", "win", "profit",
    "hearing", "packet", "information", "not", "mis", "un",
}  # fmt: skip
FORMULA = re.compile(r"^\s*[-−~]|^\s*\d+\s*[-−/]|\s[-−*/]\s|[()^|]")  # 1 - accuracy, -loss, log(loss)


def _share(higher_is_better: bool = True) -> Metric:
    return replace(ACCURACY, higher_is_better=higher_is_better)


def _ratio(margin: float, higher_is_better: bool = False, unit: str = "", decimals: int = 4) -> Metric:
    return Metric("", "", higher_is_better, True, margin, unit, decimals)


def _points(margin: float, higher_is_better: bool = True, decimals: int = 3) -> Metric:
    return Metric("", "", higher_is_better, False, margin, "", decimals)


OF_100 = ("bleu", "sacrebleu", "rouge", "rouge1", "rouge2", "rougel", "chrf")  # from 0 to 100; some write 0 to 1
UP_TO_1 = ("ssim", "r2", "rsquared", "mcc", "kappa")
COSTS = {
    **dict.fromkeys(("seconds", "times", "runtime", "walltime", "elapsed"), _ratio(0.05, unit="s")),
    **dict.fromkeys(("latencyus", "trainingstepus"), _ratio(0.05, unit="µs")),
    **dict.fromkeys(("latency", "latencyms", "stepstoaccuracy", "timetoaccuracys", "params", "parameters", "memorymib"),
                    _ratio(0.05)),
}  # fmt: skip
KNOWN = {
    **dict.fromkeys(("accuracy", "acc", "top1", "top5", "balancedaccuracy", "f1", "macrof1", "microf1", "weightedf1",
                     "f1macro", "f1micro", "f1weighted", "auroc", "rocauc", "auc", "averageprecision", "ap", "map",
                     "auprc", "prauc", "precision", "recall", "sensitivity", "specificity", "iou", "miou", "jaccard",
                     "dice", "exactmatch", "successrate"), _share()),
    **dict.fromkeys(("errorrate", "classificationerror", "top1error", "top5error", "wer", "cer", "eer"), _share(False)),
    **dict.fromkeys(("loss", "nll", "crossentropy", "bce", "logloss", "mse"), _ratio(0.05)),
    **dict.fromkeys(("rmse", "mae", "mape", "fid"), _ratio(0.02)),
    **dict.fromkeys(("perplexity", "ppl"), PERPLEXITY),
    **dict.fromkeys(("bpb", "bpc", "bpd", "bitsperbyte", "bitsperchar", "bitsperdim"), _ratio(0.01)),
    "psnr": PSNR,
    **dict.fromkeys(UP_TO_1, _points(0.01)),
    **dict.fromkeys(OF_100, _points(0.5, decimals=2)),
    **dict.fromkeys(("reward", "return", "episodereward", "episodereturn"), _ratio(0.05, True, decimals=2)),
    **COSTS,
}  # fmt: skip
"""By name, in small letters and without signs. What does not matter: half a point of a share, 5 % of a loss, …

Names that mean several things are not here: error (a rate, or of a regression), elbo, steps, epochs, duration,
learning_speed, time and memory.
"""


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
    told = None not in (higher_is_better, margin, ratio)
    known = None if told else known_metric(name)
    if known is None and (higher_is_better is None or margin is None):
        near = None if CHANGING & set(_words(name)) else nearest(_plain(name), KNOWN, 0.75)
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
    if not 0 < metric.margin < math.inf or (metric.margin >= 1 and (metric.ratio or metric.unit == "%")):
        raise ActSearchError(
            f"{place}.margin={metric.margin:g}: write a number above 0; of a share or a ratio, below 1."
        )
    return replace(metric, name=name, words=re.sub(r"[_./]+", " ", name))


def known_metric(name: str) -> Metric | None:
    """The metric that a name such as test_accuracy says; None if it says none."""
    word = known_word(name)
    return None if word is None else KNOWN[word]


def known_word(name: str) -> str | None:
    """The key of KNOWN that a name says. A name that is a formula, such as 1 - accuracy or -loss, says none."""
    words = _words(name)
    if not words or FORMULA.search(re.sub(r"[(\[]%[)\]]", "", name)):
        return None
    kept = [word for word in words if word not in OF_WHAT] or words
    last, others = kept[-1], CHANGING | {"acc", "accuracy", "loss", "error"}
    plain = ["".join(kept), "".join(words), *([last] if last in LAST and not others & set(words[:-1]) else [])]
    return next((word for word in plain if word in KNOWN), None)


def says_percent(name: str) -> bool:
    """Whether a name, such as accuracy_pct or acc (%), says that its numbers are per cent."""
    return "%" in name or bool(PERCENT & set(re.split(r"[\W_]+", name.lower())))


def _words(name: str) -> list[str]:
    """The words of a name: snake_case, camelCase, with signs between them."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name)
    return [word for word in re.split(r"[\W_]+", apart.lower()) if word and word not in PERCENT]


def _plain(name: str) -> str:
    return "".join(word for word in _words(name) if word not in OF_WHAT)
