"""A table, judged by AUROC: does diabetes progress faster than usual? Beside it gradient boosting on the same rows."""

import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import QuantileTransformer
from torch import nn

SPLIT = 0  # the same rows for all: seeds are chance of the training alone


def rows():
    """Training, validation and test: (x, y) each."""
    x, y = load_diabetes(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y > 140, test_size=0.4, random_state=SPLIT)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.3, random_state=SPLIT)
    scale = QuantileTransformer(n_quantiles=50, output_distribution="normal").fit(x)
    return [(scale.transform(part), labels) for part, labels in ((x, y), (x_val, y_val), (x_test, y_test))]


def net_of(activation, width):
    """Built with the activation, instead of swapped."""
    layers = []
    for inputs in (10, width):
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), activation(width), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


def auroc(net, x, y):
    net.eval()
    with torch.no_grad():
        return roc_auc_score(y, net(torch.tensor(x, dtype=torch.float32)).numpy())


def train(activation, seed, lr=0.01, weight_decay=0.1, width=64, epochs=30, test=False):
    torch.manual_seed(seed)
    (x, y), validation, test_rows = rows()
    net = net_of(activation, width)
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=weight_decay)
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    for epoch in range(epochs):
        net.train()
        for part in torch.randperm(len(labels)).split(40):
            loss = nn.functional.binary_cross_entropy_with_logits(net(inputs[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 5 == 4:
            yield {"val_auroc": auroc(net, *validation), "step": epoch + 1}
    if test:
        boosting = HistGradientBoostingClassifier(max_depth=3, max_iter=60, learning_rate=0.05, random_state=seed).fit(
            x, y
        )
        rival = roc_auc_score(test_rows[1], boosting.predict_proba(test_rows[0])[:, 1])
        yield {"test_auroc": auroc(net, *test_rows), "boosting": rival}
