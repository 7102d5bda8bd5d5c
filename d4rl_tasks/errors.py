"""The package's own exception: one clear line for a person."""


class D4RLTaskError(Exception):
    """Something a user can mend: an unknown task, a bad file, a server that fails.

    The message is one line that says what is wrong, where, and what to do.
    """
