"""The second wall: whose rows may be touched just now, said once at each entrance and held by the database itself.

The first wall is ``for_user`` on every QuerySet. Should one be missing, this one stands: a statement that names a
user's table is refused unless somebody's rows are open (``acting_for``, a request of a signed-in user) or all of them
for a stated purpose (``open_for``). On PostgreSQL row-level security then leaves out every other row.
"""

from llm_credentials.wall.standing import WallClosed, acting_for, open_for, open_process_for, owner_of
from llm_credentials.wall.tables import leave_out, owned

__all__ = ["WallClosed", "acting_for", "leave_out", "open_for", "open_process_for", "owned", "owner_of"]
