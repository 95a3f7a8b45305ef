"""Agents, runs and conversations for programs; ``project.urls`` adds them to the API."""

from __future__ import annotations

from ninja import NinjaAPI

from agents.api.agents import router as agents
from agents.api.attachments import router as attachments
from agents.api.conversations import router as conversations
from agents.api.expenses import router as expenses
from agents.api.messages import router as messages
from agents.api.runs import router as runs
from agents.api.schedules import router as schedules
from agents.api.servers import router as servers


def add_to(api: NinjaAPI) -> None:
    api.add_router("/agents", agents, tags=["agents"])
    api.add_router("/runs", runs, tags=["agents"])
    api.add_router("/attachments", attachments, tags=["agents"])
    api.add_router("/schedules", schedules, tags=["agents"])
    api.add_router("/tool-servers", servers, tags=["agents"])
    api.add_router("/conversations", conversations, tags=["agents"])
    api.add_router("/user/expenses", expenses, tags=["agents"])
    api.add_router("/messages", messages, tags=["agents"])
