"""Names of studies, and fingerprints that tell whether two questions are the same. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from actsearch.errors import ActSearchError

LONGEST_NAME = 200  # bytes; a file's name may have 255, and the name of a study's lock is longer than the study's


def check_name(key: str, name: str) -> None:
    """Checks a name that also becomes the name of a folder. Raises ActSearchError if it cannot be one."""
    if not name.strip() or set(name) & set("/\\\0\n'\"`") or not name.strip("."):
        raise ActSearchError(f"{key}={name!r}: write a name without slashes and quotes, e.g. {key}=mine.")
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ActSearchError(f"{key}={name[:20]}…: write a name of at most {LONGEST_NAME} bytes, e.g. {key}=mine.")


def fingerprint(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of a hash of `config`, which holds all that a result depends on."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]


def digest(*contents: str | bytes) -> str:
    """Sixteen hexadecimal digits of one hash of all the texts and bytes, in their order."""
    hashed = hashlib.sha256()
    for part in contents:
        hashed.update(part.encode() if isinstance(part, str) else part)
    return hashed.hexdigest()[:16]


def study_name(data: str, model: str, identity: Mapping[str, Any]) -> str:
    """The name of a study that the user gave no name. Every config has a name of its own."""
    return f"{data}-{model}-{fingerprint(identity)}"


def own_name(training: str, identity: Mapping[str, Any]) -> str:
    """The same for a training of the user's own. training: what its function is called, with or without a module."""
    return f"{training.rpartition('.')[2]}-{fingerprint(identity)}"


def flatten(nested: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as a flat one with dotted keys: {"a": {"b": 1}} → {"a.b": 1}."""
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
