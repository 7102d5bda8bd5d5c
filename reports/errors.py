"""The package's own exception."""

from d4rl_tasks.errors import UserError


class ReportError(UserError):
    """Something about a report that the user can fix."""
