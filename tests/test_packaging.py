"""The wheel holds what the command needs in any folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_conf_and_the_types_marker(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"actsearch/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "conf").rglob("*.yaml")}
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "actsearch").rglob("*.py")}
    assert conf
    assert conf | code | {"actsearch/py.typed"} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "conf/"))]
    entry = next(n for n in inside if n.endswith("entry_points.txt"))
    assert b"actsearch = actsearch.command.main:command" in zipfile.ZipFile(wheel).read(entry)
