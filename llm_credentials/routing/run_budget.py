"""A cost limit for one piece of work, such as an agent run, across all of its calls."""

from __future__ import annotations

import threading
from decimal import Decimal
from uuid import UUID

from llm_credentials.providers import BudgetExceeded

RUN_BUDGET = "run_budget"
"""The ``code`` of the refusal, which tells the work's own limit from the user's monthly budget."""


class RunBudget:
    """Shared by all clients of one piece of work; in memory, since the work runs in one process at a time."""

    def __init__(self, limit_usd: Decimal) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = Decimal(0)
        self._held: dict[UUID, Decimal] = {}
        self._lock = threading.Lock()

    def begin(self, spent_usd: Decimal) -> None:
        """Set what earlier parts of the same work have cost."""
        with self._lock:
            self.spent_usd = max(self.spent_usd, spent_usd)

    def hold(self, attempt_id: UUID, worst_usd: Decimal | None) -> None:
        """Reserve the worst-case cost of an attempt. Raises BudgetExceeded if it does not fit.

        A cost that is unknown (``None``) fits as long as something is left.
        """
        with self._lock:
            used = self.spent_usd + sum(self._held.values(), Decimal(0))
            if used >= self.limit_usd or used + (worst_usd or Decimal(0)) > self.limit_usd:
                raise BudgetExceeded(
                    f"This run may cost ${self.limit_usd:f}; with ${used:f} spent or set aside, "
                    "its next call does not fit any more.",
                    code=RUN_BUDGET,
                )
            self._held[attempt_id] = worst_usd or Decimal(0)

    def settle(self, attempt_id: UUID, cost_usd: Decimal | None) -> None:
        """Record an attempt's cost once; ``None`` if it was free or is unknown."""
        with self._lock:
            if self._held.pop(attempt_id, None) is not None:
                self.spent_usd += cost_usd or Decimal(0)
