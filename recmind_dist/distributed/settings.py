"""Settings of workers and of the dense optimizer's sharding."""

from typing import Any, Literal

from pydantic import Field, field_validator

from recmind_dist.config import Settings


class ScalingSettings(Settings):
    """Workers of the training cluster."""

    num_workers: int | tuple[int, int] = 1
    """Ranks; each owns a share of the table. [min, max]: as many as the cluster has room for,
    which is looked at once a minute; a change restarts the run from the last COMMIT."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if every worker gets its own GPU, else cpu; the log gives the reason."""
    threads_per_worker: int = Field(1, ge=1)
    """CPU threads of torch in each worker."""
    max_failures: int = Field(3, ge=-1)
    """Restarts of the worker group before the run gives up; -1: no limit."""
    start_timeout_s: float = Field(60.0, gt=0)
    """Seconds that a start waits for resources; then, with [min, max], it counts them anew. After
    ten waits in a row the run gives up."""
    collective_timeout_s: int = Field(300, ge=1)
    """A collective that takes longer is an error that ends the attempt."""
    shared_memory: bool = True
    """Workers on one machine exchange rows and ids through shared memory (Linux, CPU); false: as
    workers on several machines do."""
    wire_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of rows and their gradients on their way between ranks; sums are float32 either way."""

    @field_validator("num_workers", mode="before")
    @classmethod
    def _a_number_or_two(cls, value: Any) -> Any:
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        if not whole or len(numbers) != (2 if isinstance(value, (list, tuple)) else 1):
            raise ValueError(f"{str(value)[:80]!r}: give a whole number, or two as [min, max]")
        if numbers[0] < 1 or numbers[-1] < numbers[0]:
            raise ValueError(f"{value}: give 1 or more, and min not above max")
        return value if isinstance(value, int) else tuple(numbers)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the cluster."""
        return not isinstance(self.num_workers, int)

    @property
    def max_workers(self) -> int:
        """Most ranks that a run trains on."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class ZeroSettings(Settings):
    """DeepSpeed ZeRO for the dense part: gates, projection, fallback, LoRA."""

    stage: Literal[0, 1, 2, 3] = 1
    learning_rate: float = Field(5e-3, gt=0)
    """Adam's, for the dense part."""
