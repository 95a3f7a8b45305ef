"""An agent's unfinished output while it is being saved. Knows no database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, assert_never

from pydantic import BaseModel

from agents.loop import (
    NOTHING_SPENT,
    Done,
    Event,
    Pending,
    Progress,
    Reasoning,
    Spent,
    StepReceipt,
    Stopped,
    StopReason,
    Text,
    ToolEnd,
    ToolStart,
)
from agents.pausing import Pause
from agents.receipts import receipt_json, usage_json
from llm_credentials.providers import LLMError, LLMMessage, LLMResponse, TextPart
from llm_credentials.routing.receipt import Receipt, RoutedResponse

KEEP_EVERY_S = 1.0
MAX_PROGRESS = 200
"""Progress lines kept; further ones overwrite the last."""


@dataclass
class Draft:
    begun: str = ""
    """The existing text of an answer that is being continued."""
    pieces: list[str] = field(default_factory=list)
    responses: list[LLMResponse] = field(default_factory=list)
    receipts: list[Receipt | None] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    messages: tuple[LLMMessage, ...] | None = None
    """Messages added by the loop; set once it has ended normally."""
    stopped: StopReason | None = None
    output: BaseModel | None = None
    pending: tuple[Pending, ...] = ()
    spent: Spent = NOTHING_SPENT
    left_behind: list[RoutedResponse] = field(default_factory=list)
    """Model calls that were cut off."""
    added_before: tuple[LLMMessage, ...] = ()
    """Messages that earlier parts of the same run added, before it paused for approval."""
    receipt_before: dict[str, Any] | None = None
    spent_before_usd: Decimal = Decimal(0)
    """Cost of earlier parts and attempts of the same run."""
    _kept_at: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        return self.begun + "".join(self.pieces)

    def go_on_from(self, pause: Pause | None, *, spent_before_usd: Decimal) -> None:
        """Restore the state at the pause."""
        self.spent_before_usd = spent_before_usd
        if pause is None:
            return
        self.added_before, self.receipt_before = pause.added, pause.receipt
        self.pieces = [f"{pause.output.rstrip()}\n\n"] if pause.output.strip() else []
        self.steps = list(pause.steps)

    @property
    def spent_usd(self) -> Decimal:
        known = [receipt.cost_usd for receipt in self.receipts if receipt is not None and receipt.cost_usd is not None]
        return sum(known, self.spent_before_usd)

    def take(self, event: Event) -> None:
        match event:
            case Text():
                self.pieces.append(event.text)
            case Reasoning():
                pass
            case StepReceipt():
                self.responses.append(event.response)
                self.receipts.append(event.receipt)
                self.steps.append(
                    {
                        "type": "model",
                        "provider": event.response.provider,
                        "model": event.response.model,
                        "usage": usage_json([event.response.usage]),
                    }
                )
                if self.pieces and event.response.tool_calls:
                    self.pieces.append("\n\n")
            case Progress():
                self._progress(event.text)
            case ToolStart():
                self.steps.append({"type": "tool", "id": event.call.id, "name": event.call.name, "state": "running"})
            case ToolEnd():
                self._tool_ended(event)
            case Done():
                self.messages, self.output = event.messages, event.output
            case Stopped():
                self.messages, self.stopped = event.messages, event.reason
                self.pending, self.spent = event.pending, event.spent
            case _:
                assert_never(event)

    def _progress(self, text: str) -> None:
        lines = [step for step in self.steps if step["type"] == "progress"]
        if len(lines) < MAX_PROGRESS:
            self.steps.append({"type": "progress", "text": text})
        else:
            lines[-1]["text"] = text

    def _tool_ended(self, event: ToolEnd) -> None:
        for step in self.steps:
            if step["type"] == "tool" and step["state"] == "running" and step["id"] == event.result.call_id:
                step["state"] = "failed" if event.result.is_error else "ok"
                step["latency_ms"] = event.latency_ms
                return

    def is_due(self) -> bool:
        """Whether it is time to save; true at most once a second."""
        now = time.monotonic()
        if now - self._kept_at < KEEP_EVERY_S:
            return False
        self._kept_at = now
        return True

    def whole_or_text(self) -> Sequence[LLMMessage]:
        """What to store: all messages of a finished answer, else the text alone. A provider would refuse a tool call
        without its result.
        """
        if self.messages is not None and not self.stopped:
            last = self._after_begun(self.messages[-1]) if self.begun else self.messages[-1]
            return (*self.added_before, *self.messages[:-1], last)
        text = self.text.rstrip()
        return (LLMMessage.assistant((TextPart(text=text),) if text else ()),)

    def _after_begun(self, final: LLMMessage) -> LLMMessage:
        """Join both halves of a continued answer into one message."""
        rest = [part for part in final.parts if not isinstance(part, TextPart)]
        return LLMMessage.assistant((*rest, TextPart(text=self.begun + final.text)))

    def receipt(self, error: LLMError | None = None) -> dict[str, Any] | None:
        """Receipt of all model calls, including one that failed or was cut off."""
        failed = [error.receipt] if error is not None and error.receipt is not None else []
        ended = [answer.receipt for answer in self.left_behind]
        return receipt_json([*self.responses, *self.left_behind], [*self.receipts, *ended, *failed])
