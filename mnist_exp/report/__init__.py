import logging


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Return whether a message from Matplotlib concerns the user; those about its cache directory do not."""
    return "cache directory" not in record.getMessage() and "mkdir" not in record.getMessage()


logging.getLogger("matplotlib").addFilter(_is_of_interest)
