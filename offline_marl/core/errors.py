"""Base classes of expected failures, as opposed to bugs. Imports nothing."""


class BadInputError(Exception):
    """Something given cannot be used; the message is one sentence for the person who gave it."""


class WorkError(Exception):
    """Work that began well could not go on; the message is one sentence."""


BAD_INPUT, FAILED, INTERRUPTED, PIPE_CLOSED, TERMINATED = 2, 1, 130, 141, 143


def sentence(error: Exception) -> str:
    """What to tell the person whose input or disk it was."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!", "?", "`")) else f"{text}."
