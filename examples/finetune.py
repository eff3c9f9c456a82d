"""Fine-tuning with kept weights: a small BERT reads Python's documentation, and learns to tell its packages apart.

The net is pretrained once, with GELU, and kept in a folder. Each run swaps its activations, keeps its weights and
trains on the task. `val_kept_accuracy` is what the net is worth right after the swap: its features, read by a linear
probe.
"""

import ast
import os
import re
import sysconfig
import tempfile
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import actsearch

PACKAGES = ("asyncio", "email", "http", "logging", "unittest", "xml")
LENGTH, WORDS, PAD, MASK = 32, 2000, 0, 1


def texts():
    """Docstrings of Python's own library: (text, number of its package), always in the same order."""
    library, found = Path(sysconfig.get_paths()["stdlib"]), []
    for number, package in enumerate(PACKAGES):
        for path in sorted((library / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    words = re.findall(r"[a-z]+", (ast.get_docstring(node) or "").lower())
                    found += [(words, number)] * (len(words) >= 5)
    return found


def examples():
    """Tokens (n, LENGTH) and packages (n,), and the number of tokens; shuffled, always alike."""
    found = texts()
    counts = {}
    for words, _ in found:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    known = sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
    number = {word: i + 3 for i, word in enumerate(known)}
    rows = [[number.get(word, 2) for word in words[:LENGTH]] for words, _ in found]
    tokens = torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return tokens[order], torch.tensor([label for _, label in found])[order], len(known) + 3


def config(n_tokens):
    return BertConfig(
        vocab_size=n_tokens, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=LENGTH, num_labels=len(PACKAGES), hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def pretrained(tokens, n_tokens, folder, steps=600):
    """The folder of the pretrained net; trains it if it is not there."""
    place = Path(folder or tempfile.gettempdir()) / f"small-bert-{n_tokens}-{len(tokens)}-{steps}"
    if place.exists():
        return place
    chance = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = BertForMaskedLM(config(n_tokens))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        batch = tokens[torch.randint(len(tokens), (64,), generator=chance)]
        hidden = (torch.rand(batch.shape, generator=chance) < 0.15) & (batch != PAD)
        labels = torch.where(hidden, batch, -100)
        loss = net(batch.masked_fill(hidden, MASK), attention_mask=(batch != PAD).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        net.save_pretrained(made)
        try:
            os.rename(made, place)  # at once, so that no process finds half of it
            Path(made).mkdir()
        except OSError:  # another process was faster
            pass
    return place


def accuracy(net, tokens, labels):
    net.eval()
    with torch.no_grad():
        found = net(tokens, attention_mask=(tokens != PAD).long()).logits.argmax(1)
    return (found == labels).float().mean()


def features(net, tokens):
    """The mean output of the last layer."""
    mask = (tokens != PAD).long()
    with torch.no_grad():
        last = net.bert(tokens, attention_mask=mask).last_hidden_state
    return ((last * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()


def train(activation, seed, lr=5e-4, epochs=4, pretraining=600, folder=None, test=False):
    tokens, labels, n_tokens = examples()
    a, b = len(labels) * 6 // 10, len(labels) * 8 // 10
    place = pretrained(tokens[:a], n_tokens, folder, pretraining)
    torch.manual_seed(seed)
    net = BertForSequenceClassification.from_pretrained(place, num_labels=len(PACKAGES)).float()
    actsearch.swap_activations(net, activation)
    net.eval()
    probe = LogisticRegression(max_iter=200).fit(features(net, tokens[:a]), labels[:a])
    yield {"val_kept_accuracy": probe.score(features(net, tokens[a:b]), labels[a:b]),
           "val_accuracy": accuracy(net, tokens[a:b], labels[a:b]), "step": 1}  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    for epoch in range(epochs):
        net.train()
        for part in torch.randperm(a).split(32):
            out = net(tokens[part], attention_mask=(tokens[part] != PAD).long()).logits
            loss = nn.functional.cross_entropy(out, labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield {"val_accuracy": accuracy(net, tokens[a:b], labels[a:b]), "step": epoch + 2}
    if test:
        yield {"test_accuracy": accuracy(net, tokens[b:], labels[b:])}
