"""Failures that are expected, so that whoever calls can tell them from bugs. Imports nothing."""


class BadInputError(Exception):
    """Something given cannot be used; the message is one sentence for the person who gave it."""


class WorkError(Exception):
    """Work that began well could not go on; the message is one sentence."""
