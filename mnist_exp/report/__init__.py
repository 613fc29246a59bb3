import logging


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether a message of Matplotlib concerns the user: not that it found no folder for its cache."""
    return "cache directory" not in record.getMessage() and "mkdir" not in record.getMessage()


logging.getLogger("matplotlib").addFilter(_is_of_interest)
