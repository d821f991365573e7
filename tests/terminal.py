"""Commands on a pseudo-terminal: what a person sees who starts one."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

COLUMNS = 160
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def on_a_terminal(
    command: list[str], cwd: Path, env: Mapping[str, str], output: Path | None = None
) -> tuple[int, list[str]]:
    """Runs a command whose input and both outputs are a terminal of 160 columns.

    Args:
        output: a file that takes the standard output instead.
    Returns:
        its exit code, and the lines as they stood when they were left, colours and movements of the
            cursor left out: a bar that is drawn again and again is one line for each drawing.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with ExitStack() as opened:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**env, "TERM": "xterm"},
            stdin=theirs,
            stdout=opened.enter_context(output.open("wb")) if output is not None else theirs,
            stderr=theirs,
            start_new_session=True,
        )
    os.close(theirs)
    said = b""
    try:
        while data := _read(ours):
            said += data
    finally:
        os.close(ours)
    lines = re.split(r"[\r\n]+", _ESCAPES.sub("", said.decode(errors="replace")))
    return process.wait(60), [line.rstrip() for line in lines if line.strip()]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the last process that had the other end has closed it
        return b""
