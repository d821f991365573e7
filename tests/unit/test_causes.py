"""What a failure says first: one line, of the exception that began it, whatever wrapped it on the
way.
"""

import traceback

import pytest
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from recmind_dist.causes import cause_in, cause_of, telling_line

CUDA = (
    "CUDA error: invalid device ordinal\n"
    "GPU device may be out of range, do you have enough GPUs?\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be "
    "incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled cuda error "
    "(run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.28.9\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\n"
    "Cuda failure 2 'out of memory'"
)
FIRST = "RuntimeError: CUDA error: invalid device ordinal"


class WrapperError(Exception):
    """As a library raises it around another."""


def failing() -> None:
    raise RuntimeError(CUDA)


def wrapped() -> WrapperError:
    try:
        try:
            failing()
        except RuntimeError as error:
            raise WrapperError("the engine could not be made") from error
    except WrapperError as error:
        return error
    raise AssertionError


def cleaned_up() -> ValueError:
    try:
        try:
            failing()
        finally:
            [].remove(1)
    except ValueError as error:
        return error
    raise AssertionError


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_message_of_cuda_is_told_by_its_first_line_and_one_of_nccl_by_its_last_error() -> None:
    assert telling_line(CUDA) == "CUDA error: invalid device ordinal"
    assert telling_line(NCCL) == "Cuda failure 2 'out of memory'"
    assert telling_line("\n\n") == ""


def test_the_first_of_a_chain_is_told_before_what_it_led_to() -> None:
    assert cause_of(RuntimeError(CUDA)) == FIRST
    assert (
        cause_of(wrapped()) == f"{FIRST}, which led to WrapperError: the engine could not be made"
    )
    assert cause_of(cleaned_up()).startswith(f"{FIRST}, which led to ValueError: ")
    assert cause_of(KeyError()) == "KeyError"


def test_what_was_raised_from_none_began_there() -> None:
    error = wrapped()
    error.__cause__, error.__suppress_context__ = None, True
    assert cause_of(error) == "WrapperError: the engine could not be made"


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert cause_of(one) == "ValueError: other, which led to ValueError: one"


@pytest.mark.parametrize("error", [wrapped(), cleaned_up()], ids=["from", "while"])
def test_a_printed_traceback_says_as_much(error: BaseException) -> None:
    assert cause_in(printed(error)) == FIRST
    assert cause_in("no traceback\nat all\n") == "at all"
    assert cause_in("") == ""


def test_errors_that_ray_wraps_and_sends_are_unwrapped() -> None:
    error = wrapped()
    task = RayTaskError(
        "embed", printed(error), error, proctitle="ray::EmbedActor.embed", pid=1, ip="127.0.0.1"
    )
    assert cause_of(task) == FIRST
    alone = WrapperError("the engine could not be made")  # as it arrives: it has lost its own cause
    assert (
        cause_of(
            RayTaskError("embed", printed(error), alone, proctitle="ray::f", pid=1, ip="127.0.0.1")
        )
        == FIRST
    )
    assert cause_of(task.as_instanceof_cause()) == FIRST  # as `ray.get` raises it
    assert cause_of(ControllerError(RuntimeError(CUDA))) == FIRST
    group = WorkerGroupError(f"[Rank 1 Error Snippet]:\n{printed(error)}", {1: RuntimeError(CUDA)})
    assert cause_of(group) == FIRST
    assert cause_in(str(group)) == FIRST
