"""What a search may vary: a YAML file with a line per key.

For example `table.learning_rate: {low: 1e-3, high: 1e-1, log: true}`.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from optuna import Trial
from pydantic import ValidationError, model_validator

from recmind_dist.config import Settings
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError


class Dimension(Settings):
    """The values of one key: a range, or a list of choices."""

    low: int | float | None = None
    """Lowest value; if both ends are whole numbers, only whole numbers are tried."""
    high: int | float | None = None
    log: bool = False
    """Draw evenly in the logarithm."""
    choices: tuple[Any, ...] = ()
    """Values to choose from: numbers, texts, truth values, null or lists."""

    @model_validator(mode="after")
    def _range_or_choices(self) -> "Dimension":
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low {self.low} is not below high {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"low {self.low} has no logarithm: raise it, or leave out log")
        return self

    def suggest(self, trial: Trial, key: str) -> Any:
        if self.low is None or self.high is None:
            choices = [json.dumps(choice) for choice in self.choices]  # the journal takes no lists
            return json.loads(trial.suggest_categorical(key, choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    @property
    def example(self) -> Any:
        """A value of the dimension, to check it with."""
        return self.choices[0] if self.choices else self.low


Space = dict[str, Dimension]


def load_space(path: Path) -> Space:
    """Reads a search space. Raises ConfigError with file and line."""
    document = load_yaml(path)
    space: Space = {}
    for key, value in document.values.items():
        try:
            space[key] = Dimension.model_validate(value)
        except ValidationError as error:
            fault = error.errors()[0]
            name = ".".join(map(str, fault["loc"]))
            field = f"{key} ({name})" if name else key
            message = fault["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{document.where((key,))}: {field}: {message}") from error
    if not space:
        example = "`loss.temperature: {low: 0.05, high: 0.3}`"
        raise ConfigError(f"{path}: names no key to vary: give one, e.g. {example}")
    return space


def as_word(key: str, value: Any) -> str:
    """The override that sets a key to a value."""
    return f"{key}={json.dumps(value)}"


def default_space(config: Path, variant: str) -> Path:
    """`spaces/<variant>.yaml` or `spaces/default.yaml`, beside the config, else of this package."""
    packaged = Path(str(files("recmind_dist.configs")))
    names = [f"{name}.yaml" for name in (variant, "default")]
    candidates = [home / "spaces" / name for home in (config.parent, packaged) for name in names]
    return next(path for path in candidates if path.is_file())
