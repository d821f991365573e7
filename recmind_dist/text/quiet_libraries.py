"""What libraries print of themselves when a language model is read or saved, switched off."""

import logging


def quiet_libraries() -> None:
    """No progress bars of transformers, and no guess of DeepSpeed at its device: accelerate
    imports DeepSpeed when a model is saved, which has nothing to do with the run's device.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").addFilter(_is_no_guess)


def _is_no_guess(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Setting accelerator to CPU")
