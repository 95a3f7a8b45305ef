"""The second wall between users: each entry point declares whose rows it may touch, and the database enforces it.

The first wall is ``for_user`` on every QuerySet. If one is missing, this wall still holds: a statement that names a
user's table is refused unless one user's rows are open (``acting_for``, or a signed-in user's request) or everybody's
are open for a stated purpose (``open_for``). On PostgreSQL row-level security then hides all other rows.
"""

from llm_credentials.wall.standing import WallClosed, acting_for, open_for, open_process_for, owner_of
from llm_credentials.wall.tables import leave_out, owned

__all__ = ["WallClosed", "acting_for", "leave_out", "open_for", "open_process_for", "owned", "owner_of"]
