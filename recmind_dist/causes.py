"""The first cause of a failure, in one line.

Errors of workers arrive wrapped: by Ray, by DeepSpeed, by whatever cleaned up after them; and a
message of CUDA has several lines, whose last ones tell how torch is compiled.
"""

import re
from collections.abc import Mapping

# an exception as a traceback prints it, below an indented frame: `torch.AcceleratorError: CUDA
# error: …`
_EXCEPTION = re.compile(r"^ +\S.*\n((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:: (.*))?$", re.MULTILINE)
# NCCL's own words stand below a general line
_NCCL = re.compile(r"^Last error:\s*^(\S.*)$", re.MULTILINE)
# by what attribute Ray's wrappers hold what they wrap
_WRAPPED = ("_base_exc", "controller_failure", "health_check_failure", "worker_failures")
_LONGEST = 300


def telling_line(message: str) -> str:
    """The line of a message that says what is wrong; "" of an empty one."""
    if found := _NCCL.search(message):
        return found[1].strip()[:_LONGEST]
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines or [""])[0][:_LONGEST]


def cause_of(error: BaseException) -> str:
    """The first cause of an error, in one line, with what it led to where that says more."""
    chain = _chain(error)
    words = [_words(one) for one in chain]
    first, last = words[0], words[-1]
    return (
        first if last.endswith(first) or first.endswith(last) else f"{first}, which led to {last}"
    )


def cause_in(text: str) -> str:
    """As `cause_of`, of a printed traceback; the last line of a text that holds none."""
    if found := _EXCEPTION.search(text):
        return _one_line(found[1].rpartition(".")[2], found[2] or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [""])[-1][:_LONGEST]


def _chain(error: BaseException) -> list[BaseException]:
    """The first cause first, the outermost error that is no wrapper last."""
    chain = [error]
    while (inner := _inner(chain[0])) is not None and all(inner is not one for one in chain):
        wraps = inner is not chain[0].__cause__ and inner is not chain[0].__context__
        chain = [inner, *(chain[1:] if wraps else chain)]
    return chain


def _inner(error: BaseException) -> BaseException | None:
    if _printed(error) is not None:
        return None
    for name in _WRAPPED:
        held = getattr(error, name, None)
        if isinstance(held, Mapping):  # rank → its error
            held = next(iter(held.values()), None)
        if isinstance(held, BaseException):
            return held
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _words(error: BaseException) -> str:
    text = _printed(error)
    return _one_line(type(error).__name__, str(error)) if text is None else cause_in(text)


def _printed(error: BaseException) -> str | None:
    """The traceback that an error of a Ray task prints: it holds the whole chain, which `cause`
    itself has lost.
    """
    if not isinstance(getattr(error, "cause", None), BaseException):
        return None
    return str(getattr(error, "traceback_str", error))


def _one_line(kind: str, message: str) -> str:
    return f"{kind}: {telling_line(message)}".removesuffix(": ")
