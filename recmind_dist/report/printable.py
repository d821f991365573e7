"""Makes foreign text safe to print: titles and ids must not move the cursor or reverse the line."""

import codecs
import io
import os
import re
import sys

# control characters of both sets, marks that reorder or hide text, line separators, lone surrogates
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

PLAIN = {"–": "-", "—": "-", "─": "-", "━": "=", "│": "|", "…": "...", "×": "x", "·": ".", "±": "~"}
"""Plain forms of letters that our own lines and tables have."""


def printable(text: object) -> str:
    """One line of text; invisible characters become escapes: `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(_escape, str(text))


def printable_lines(text: object) -> str:
    """As `printable`, but keeps line breaks: for our own messages."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


def print_anywhere() -> None:
    """Lets stdout and stderr take any text: what their encoding lacks gets a plain form (- for –)
    or becomes an escape, where Python would raise. Where the caller has closed one, nobody reads.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    codecs.register_error("plain", _plain_form)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain_form(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = (PLAIN.get(x) or x.encode("ascii", "backslashreplace").decode() for x in letters)
    return "".join(plain), error.end


def _escape(found: "re.Match[str]") -> str:
    return found.group().encode("unicode_escape", "surrogatepass").decode()
