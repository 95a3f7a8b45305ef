"""Registers the owner column of this app's tables with the wall between users."""

from __future__ import annotations

from llm_credentials.models.alerts import Alert, Webhook, WebhookDelivery
from llm_credentials.models.connection_tests import ConnectionTest
from llm_credentials.models.credentials import UserCredential
from llm_credentials.models.policies import UserAllowance
from llm_credentials.models.rollups import UsageDay
from llm_credentials.models.search import SearchCredential
from llm_credentials.models.settings import LLMSettings, TaskOverride
from llm_credentials.models.tokens import PersonalAccessToken
from llm_credentials.models.usage import BudgetCounter, UsageRecord
from llm_credentials.wall import leave_out, owned


def register() -> None:
    for model in (UserCredential, LLMSettings, TaskOverride, PersonalAccessToken, ConnectionTest):
        owned(model, by="user")
    for told in (Alert, Webhook):
        owned(told, by="user")
    owned(SearchCredential, by="user")
    owned(WebhookDelivery, by="webhook")
    for summed in (UsageRecord, UsageDay, BudgetCounter, UserAllowance):
        owned(summed, by="user")
    accounts = "who is calling is found out from it, so it is read before anybody is known"
    for label in (
        "account.EmailAddress",
        "account.EmailConfirmation",
        "mfa.Authenticator",
        "usersessions.UserSession",
        "auth.User_groups",
        "auth.User_user_permissions",
    ):
        leave_out(label, accounts)
    leave_out("admin.LogEntry", "written and read in the admin alone")
