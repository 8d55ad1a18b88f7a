"""The command line whatever it is started with: encodings, closed or broken streams, empty words, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from completedp import interrupts
from completedp.cli import streams

COMMAND = [sys.executable, "-m", "completedp"]


def run(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "COLUMNS": "200", **options.pop("env", {})}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment,
        capture_output="stdout" not in options,
        check=False,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_standard_output(tmp_path: Path, encoding: str) -> None:
    for arguments in (["transfer-check", "--help"], ["preset", "tiny"], ["rules", "--width", "2"]):
        done = run(*arguments, cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr.decode()
        done.stdout.decode(encoding)


def test_signs_of_ours_are_written_in_plain_letters_where_there_are_no_others() -> None:
    streams.codecs.register_error("plain", streams._plainly)
    assert "16 × 2 ± 1 …\ud800λ".encode("ascii", "plain") == b"16 x 2 +- 1 ...\\ud800lambda"
    assert "é × λ".encode("latin-1", "plain") == "é × lambda".encode("latin-1")


def test_a_pipe_whose_reader_has_gone_ends_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run("preset", "--json", cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """A file that took the number of a closed one would be printed into."""
    program = (
        f"import os; [os.close(int(fd)) for fd in {closed!r}.split()]\n"
        f"os.execv({sys.executable!r}, {[*COMMAND, 'preset', 'tiny', '--out', 'tiny.yaml']!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0
    written = (tmp_path / "tiny.yaml").read_text()
    source = Path(streams.__file__).parents[1] / "lm" / "presets" / "tiny.yaml"
    assert written == source.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "--root", ""], b"--root is empty"),
        (["status", "--root="], b"--root is empty"),
        (["search", "--budget", "12", "--data", ""], b"--data is empty"),
        (["transfer", "", "--width", "64"], b"an argument is empty"),
        (["search", "--budget", "many"], b"got 'many'"),
        (["search", "--budget=1.5"], b"got '1.5'"),
        (["rules", "--width", "two"], b"got 'two'"),
        (["status", "--root", "~nobody-here/x"], b"~nobody-here/x: there is no such home folder"),
    ],
)
def test_what_was_given_is_said(tmp_path: Path, arguments: list[str], says: bytes) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_home_folder_is_found_in_every_path(tmp_path: Path, way: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home)}
    options = ["--root", "~/x"]
    if way == "variable":
        environment["COMPLETEDP_ROOT"] = "~/x"
        options = []
    run("preset", "tiny", "--out", "~/tiny.yaml", cwd=tmp_path, env=environment)
    assert (home / "tiny.yaml").exists()
    done = run("status", *options, cwd=tmp_path, env=environment)
    assert f"no study under {home}/x yet".encode() in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def as_on_a_terminal() -> None:
    """What runs these tests may ignore signals, as `nohup` does."""
    for number in interrupts.SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def hears(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether it has a handler for the signal: before that, Python itself is still starting."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 2.5])
def test_a_press_in_the_first_seconds_is_not_swallowed(
    tmp_path: Path, seconds: float, number: signal.Signals
) -> None:
    """A library that is imported then may catch the exception."""
    root = str(tmp_path / "root")
    search = [*COMMAND, "search", "--budget", "12", "--preset", "tiny", "--root", root, "--yes"]
    with subprocess.Popen(
        search,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        preexec_fn=as_on_a_terminal,
    ) as process:
        while not hears(process, signal.SIGTERM):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        time.sleep(seconds)
        process.send_signal(number)
        try:
            out, _ = process.communicate(timeout=40)
        finally:
            process.kill()
    # Where the exception passes through an `exec`, as dataclasses have one, CPython ends itself by SIGINT
    # whatever was caught; to a shell both are 130.
    assert process.returncode in (130, -signal.SIGINT), out.decode()
    assert b"Traceback" not in out
    assert not list((tmp_path / "root").glob("studies/*/recipe.yaml"))
