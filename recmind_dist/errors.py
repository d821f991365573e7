"""Errors that a user can mend: one sentence that names file, key or row, and the remedy.

The command line prints the sentence and exits with the class's code. A traceback means a defect of
ours.
"""


class RecmindError(ValueError):
    """Base of all errors that a user can mend."""

    exit_code = 2


class ConfigError(RecmindError):
    """A setting is missing, unknown, of the wrong type, or contradicts another."""


class DataError(RecmindError):
    """An interaction log, item file or user file cannot be used as it is."""


class StoreError(RecmindError):
    """A graph or text store is absent, damaged, or not what it says it is."""


class TextError(RecmindError):
    """A language model cannot be loaded, or gives vectors that cannot be used."""


class CheckpointError(RecmindError):
    """A checkpoint is absent, damaged, of another schema, or of another run."""


class LockedError(RecmindError):
    """Another process works on the same directory."""


class TrainingError(RecmindError):
    """Training stopped: loss or gradient not finite, a worker lost too often, a time-out."""

    exit_code = 3


class WorkerLostError(TrainingError):
    """A worker died, hangs, or cannot be reached. Unlike other errors it is tried again: a new
    start may well succeed.
    """
