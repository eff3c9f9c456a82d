"""What each activation is, written out from its paper for one number, independent of torch."""

import math


def cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic(x):
    return 1 / (1 + math.exp(-x))


def bent(x):
    """Straight lines through nine points, and beyond them."""
    heights = [3, 1, 0, 0, 0.5, 1, 2, 3, 2]
    left = min(max(math.floor(x), -4), 3)
    a, b = heights[left + 4 : left + 6]
    return a + (x - left) * (b - a)


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
    # bounded, rectifiers, shrinkage, periodic and radial
    "lecun_tanh": lambda x: 1.7159 * math.tanh(2 * x / 3),
    "bipolar_sigmoid": lambda x: (1 - math.exp(-x)) / (1 + math.exp(-x)),
    "penalized_tanh": lambda x: math.tanh(x) * (1 if x > 0 else 0.25),
    "penalized_tanh(a=0.6)": lambda x: math.tanh(x) * (1 if x > 0 else 0.6),
    "logsigmoid": lambda x: -math.log1p(math.exp(-x)),
    "arctan": math.atan,
    "erf": math.erf,
    "isru": lambda x: x / math.sqrt(1 + x * x),
    "isru(alpha=4)": lambda x: x / math.sqrt(1 + 4 * x * x),
    "rrelu": lambda x: x if x > 0 else 11 / 48 * x,
    "rrelu(lower=0.2, upper=0.6)": lambda x: x if x > 0 else 0.4 * x,
    "squared_relu": lambda x: max(x, 0) ** 2,
    "star_relu": lambda x: 0.8944 * max(x, 0) ** 2 - 0.4472,
    "star_relu(s=2, b=-0.3)": lambda x: 2 * max(x, 0) ** 2 - 0.3,
    "flexible_relu": lambda x: max(x, 0),
    "flexible_relu(b=-0.4)": lambda x: max(x, 0) - 0.4,
    "clipped_relu": lambda x: min(max(x, 0), 20),
    "clipped_relu(cap=2)": lambda x: min(max(x, 0), 2),
    "thresholded_relu": lambda x: x if x > 1 else 0,
    "thresholded_relu(theta=0.3)": lambda x: x if x > 0.3 else 0,
    "shifted_relu": lambda x: max(x, -1),
    "shifted_relu(shift=0.05)": lambda x: max(x, -0.05),
    "srelu": lambda x: x if x > 0 else 0.2 * x,
    "srelu(t_r=2, a_r=0.3, t_l=-1, a_l=0.1)": lambda x: (
        2 + 0.3 * (x - 2) if x >= 2 else -1 + 0.1 * (x + 1) if x <= -1 else x
    ),
    "softshrink": lambda x: math.copysign(max(abs(x) - 0.5, 0), x),
    "softshrink(lambd=2)": lambda x: math.copysign(max(abs(x) - 2, 0), x),
    "hardshrink": lambda x: x if abs(x) > 0.5 else 0,
    "hardshrink(lambd=2)": lambda x: x if abs(x) > 2 else 0,
    "tanhshrink": lambda x: x - math.tanh(x),
    "sin": math.sin,
    "sin(omega=30)": lambda x: math.sin(30 * x),
    "snake": lambda x: x + math.sin(0.5 * x) ** 2 / 0.5,
    "snake(a=10)": lambda x: x + math.sin(10 * x) ** 2 / 10,
    "gcu": lambda x: x * math.cos(x),
    "cosid": lambda x: math.cos(x) - x,
    "sinc": lambda x: math.sin(x) / x if x else 1,
    "gaussian": lambda x: math.exp(-x * x),
    "gaussian(width=2)": lambda x: math.exp(-((x / 2) ** 2)),
    # exponential, self-gated, learned shapes: second part
    "pelu": lambda x: x if x > 0 else math.expm1(x),
    "pelu(a=0.4, b=1.6)": lambda x: x / 4 if x > 0 else 0.4 * math.expm1(x / 1.6),
    "pdelu": lambda x: x if x > 0 else max(1 + 0.1 * x, 0) ** 10 - 1,
    "pdelu(alpha=0.5, t=0.5)": lambda x: x if x > 0 else 0.5 * (max(1 + 0.5 * x, 0) ** 2 - 1),
    "serlu": lambda x: 1.07862 * (x if x > 0 else 2.90427 * x * math.exp(x)),
    "isrlu": lambda x: x if x > 0 else x / math.sqrt(1 + x * x),
    "isrlu(alpha=3)": lambda x: x if x > 0 else x / math.sqrt(1 + 3 * x * x),
    "squareplus": lambda x: (x + math.sqrt(x * x + 4)) / 2,
    "squareplus(b=0.3)": lambda x: (x + math.sqrt(x * x + 0.3)) / 2,
    "xielu": lambda x: 0.8 * x * x + 0.5 * x if x > 0 else 0.8 * (math.expm1(x) - x) + 0.5 * x,
    "xielu(alpha_p=1, alpha_n=-1, beta=0.2)": lambda x: (
        0.2 * x + (math.log(1 + math.e) * x * x if x > 0 else (0.2 + math.log(1 + 1 / math.e)) * (math.expm1(x) - x))
    ),
    "quick_gelu": lambda x: x * logistic(1.702 * x),
    "logish": lambda x: x * math.log(1 + logistic(x)),
    "smish": lambda x: x * math.tanh(math.log(1 + logistic(x))),
    "phish": lambda x: x * math.tanh(x * cdf(x)),
    "tanhexp": lambda x: x * math.tanh(math.exp(x)),
    "serf": lambda x: x * math.erf(math.log1p(math.exp(x))),
    "smu": lambda x: x * (1.25 + 0.75 * math.erf(0.75e6 * x)) / 2,
    "smu(alpha=0.1, mu=2)": lambda x: x * (1.1 + 0.9 * math.erf(1.8 * x)) / 2,
    "acon_c": lambda x: x * logistic(x),
    "acon_c(p1=1.5, p2=-0.5, beta=3)": lambda x: 2 * x * logistic(6 * x) - 0.5 * x,
    "pau": lambda x: (
        (0.0335634 + 0.505 * x + 1.65318 * x**2 + 2.00937 * x**3 + 0.931452 * x**4 + 0.152326 * x**5)
        / (1 + abs(3.97894 * x**2 + 0.301635 * x**4))
    ),
    "pau(a0=1, a1=0, a2=0, a3=0, a4=0, a5=2, b1=0.5, b2=0, b3=-3, b4=1)": lambda x: (
        (1 + 2 * x**5) / (1 + abs(0.5 * x - 3 * x**3 + x**4))
    ),
    "apl": lambda x: max(x, 0),
    "apl(a1=0.3, b1=-2, a2=-0.2, b2=0.5)": lambda x: max(x, 0) + 0.3 * max(-2 - x, 0) - 0.2 * max(0.5 - x, 0),
    "spline": lambda x: max(x, 0),
    "spline(c0=3, c1=1, c4=0.5, c8=2)": bent,
}
