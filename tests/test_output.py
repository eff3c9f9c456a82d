"""Standard output and error that cannot fail: alphabets, readers that go away, full disks, closed streams."""

import errno
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import actsearch
from actsearch.output import Output


@pytest.mark.parametrize(
    ("encoding", "wanted"), [("ascii", b"5 ? 2 ?s ? ?"), ("latin-1", b"5 \xb1 2 \xb5s ? ?"), ("utf-8", None)]
)
def test_what_the_alphabet_lacks_is_a_question_mark(encoding, wanted):
    under = io.BytesIO()
    output = Output(io.TextIOWrapper(under, encoding=encoding))
    output.write("5 ± 2 µs → \udce9")  # the last: of a file's name that is not UTF-8
    output.flush()
    assert under.getvalue() == (wanted if wanted is not None else "5 ± 2 µs → ?".encode())


def test_a_reader_that_goes_away_is_no_error_for_anyone():
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    output = Output(stream)
    output.write("read\n")
    output.flush()
    assert os.read(reading, 9) == b"read\n"
    os.close(reading)
    for _ in range(2):
        output.write("dropped\n")
        output.flush()
    assert output.failed is None
    assert not output.isatty()
    stream.close()  # Python's own flush at the end


def test_a_full_disk_is_kept_as_the_reason():
    with open("/dev/full", "w") as stream:
        output = Output(stream)
        output.write("lost\n")
        output.flush()
        output.write("also lost\n")
        assert output.failed is not None
        assert output.failed.errno == errno.ENOSPC


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "closed"])
def test_a_stream_that_is_closed_takes_anything(stream):
    if stream is not None:
        stream.close()
    output = Output(stream)
    output.write("nowhere")
    output.flush()
    assert not output.isatty()


def test_no_password_is_written():
    under = io.StringIO()
    Output(under).write("url: http://me:secret@host\n")
    assert under.getvalue() == "url: http://***@host\n"


def test_what_is_opened_later_does_not_take_the_place_of_a_closed_output(tmp_path):
    code = f"""
        from actsearch.output import open_standard_streams
        open_standard_streams()
        file = open({str(tmp_path / "study.db")!r}, "w")
        import os
        print("to the output")
        os.write(1, b"from a library\\n")
        assert file.fileno() > 2
    """
    env = {**os.environ, "PYTHONPATH": str(Path(actsearch.__file__).parents[1])}
    for closed in (">&-", ">&- 2>&- <&-"):
        command = f'"{sys.executable}" -c "$CODE" {closed}'
        done = subprocess.run(command, shell=True, env={**env, "CODE": textwrap.dedent(code)}, check=False)
        assert done.returncode == 0
        assert (tmp_path / "study.db").read_bytes() == b""
