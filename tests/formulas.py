"""What each activation is, written out from its paper for one number, independent of torch."""

import math


def cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic(x):
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "identity": lambda x: x,
    "sigmoid": logistic,
    "tanh": math.tanh,
    "hardsigmoid": lambda x: min(max(x / 6 + 0.5, 0), 1),
    "hardtanh(min_val=-0.5, max_val=2)": lambda x: min(max(x, -0.5), 2),
    "softsign": lambda x: x / (1 + abs(x)),
    "relu": lambda x: max(x, 0),
    "leaky_relu(negative_slope=0.3)": lambda x: x if x > 0 else 0.3 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "relu6": lambda x: min(max(x, 0), 6),
    "leaky_relu6": lambda x: min(x, 6) if x > 0 else 0.01 * x,
    "leaky_relu6(negative_slope=0.2)": lambda x: min(x, 6) if x > 0 else 0.2 * x,
    "elu(alpha=0.4)": lambda x: x if x > 0 else 0.4 * math.expm1(x),
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    "celu(alpha=0.4)": lambda x: x if x > 0 else 0.4 * math.expm1(x / 0.4),
    "softplus(beta=3)": lambda x: math.log1p(math.exp(3 * x)) / 3,
    "gelu": lambda x: x * cdf(x),
    "gelu(approximate=tanh)": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * logistic(x),
    "silu(beta=2.5)": lambda x: x * logistic(2.5 * x),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
}
