"""With what a study was made: the versions that run here, and nothing of who or where."""

import os
import platform
import socket

import torch

from actsearch.measure.environment import environment
from actsearch.processes import core_count


def test_versions_and_hardware_are_those_of_this_machine():
    found = environment(torch.device("cpu"))
    assert found["versions"].startswith(f"Python {platform.python_version()}, actsearch ")
    assert f"torch {torch.__version__.partition('+')[0]}" in found["versions"]
    assert f"{core_count()} cores" in found["hardware"]
    assert platform.machine() in found["hardware"]


def test_a_report_that_goes_to_others_names_neither_host_nor_home():
    said = " ".join(environment(torch.device("cpu")).values())
    assert socket.gethostname() not in said
    assert os.path.expanduser("~") not in said
