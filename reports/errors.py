"""The package's own exception: one clear line for a person."""


class ReportError(Exception):
    """Something a user can mend; the message is one line."""
