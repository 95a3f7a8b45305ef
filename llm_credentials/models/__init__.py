"""The models of this app, one file per topic."""

from llm_credentials.models.alerts import Alert, Webhook, WebhookDelivery
from llm_credentials.models.audit import AuditCheckpoint, AuditEvent, AuditHead, AuditKey
from llm_credentials.models.changes import Change
from llm_credentials.models.connection_tests import ConnectionTest
from llm_credentials.models.credentials import (
    EnvironmentCredential,
    KeyringCanary,
    SystemCredential,
    UserCredential,
    environment_credentials,
    system_credentials,
)
from llm_credentials.models.egress import EgressAllowance
from llm_credentials.models.embeddings import EmbeddingIndex
from llm_credentials.models.policies import GroupPolicy, UserAllowance
from llm_credentials.models.rollups import RolledDay, SiteUsageDay, UsageDay
from llm_credentials.models.sealed import MASK, KeyHolder, LLMCredential
from llm_credentials.models.search import SearchCredential
from llm_credentials.models.settings import LLMSettings, SystemConfig, TaskOverride
from llm_credentials.models.tokens import PersonalAccessToken
from llm_credentials.models.usage import BudgetCounter, UsageRecord

__all__ = [
    "MASK",
    "Alert",
    "AuditCheckpoint",
    "AuditEvent",
    "AuditHead",
    "AuditKey",
    "BudgetCounter",
    "Change",
    "ConnectionTest",
    "EgressAllowance",
    "EmbeddingIndex",
    "EnvironmentCredential",
    "GroupPolicy",
    "KeyHolder",
    "KeyringCanary",
    "LLMCredential",
    "LLMSettings",
    "PersonalAccessToken",
    "RolledDay",
    "SearchCredential",
    "SiteUsageDay",
    "SystemConfig",
    "SystemCredential",
    "TaskOverride",
    "UsageDay",
    "UsageRecord",
    "UserAllowance",
    "UserCredential",
    "Webhook",
    "WebhookDelivery",
    "environment_credentials",
    "system_credentials",
]
