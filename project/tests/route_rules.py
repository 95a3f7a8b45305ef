"""Who may do what at which address: a row for every route of the site; ``test_isolation.py`` holds them to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from project.tests.pages import routes


class Kind(Enum):
    PUBLIC = "for everybody"
    OWN = "shows whoever asks their own things"
    OWNED = "names a thing of one user"
    API = "for tokens and sessions, each its own things"
    SITE_API = "for tokens and sessions of staff with the permission"
    STAFF = "for staff of every kind"
    ADMIN = "for staff with the permission"


@dataclass(frozen=True, kw_only=True)
class Rule:
    kind: Kind
    method: str = "GET"
    scope: str = ""
    auditor: int = 403
    """What staff get of the API who may only view; what they get in the admin, ``test_roles.py`` says."""
    data: dict[str, str] = field(default_factory=dict)


PUBLIC, OWN, OWNED = Rule(kind=Kind.PUBLIC), Rule(kind=Kind.OWN), Rule(kind=Kind.OWNED)
OWN_POST, OWNED_POST = Rule(kind=Kind.OWN, method="POST"), Rule(kind=Kind.OWNED, method="POST")
STAFF = Rule(kind=Kind.STAFF)


def api(method: str, scope: str) -> Rule:
    return Rule(kind=Kind.API, method=method, scope=scope)


def site_api(method: str, scope: str, auditor: int = 403) -> Rule:
    return Rule(kind=Kind.SITE_API, method=method, scope=scope, auditor=auditor)


def names(prefix: str, rule: Rule, *rest: str) -> dict[str, Rule]:
    return {prefix + each: rule for each in rest}


ROUTES: dict[str, Rule] = {
    **names("", PUBLIC, "home", "healthz", "readyz", "metrics", "javascript-catalog"),
    **names("account_", PUBLIC, "login", "logout", "inactive", "signup", "email_verification_sent", "reset_password"),
    **names("account_", PUBLIC, "confirm_login_code", "confirm_email", "reset_password_from_key_done"),
    **names("account_", PUBLIC, "reset_password_from_key", "reset_password_done"),
    **names("account_", OWN, "reauthenticate", "email", "change_password", "set_password"),
    **names("mfa_", PUBLIC, "authenticate", "login_webauthn"),
    **names("mfa_", OWN, "index", "reauthenticate", "activate_totp", "deactivate_totp", "view_recovery_codes"),
    **names("mfa_", OWN, "generate_recovery_codes", "download_recovery_codes", "list_webauthn", "add_webauthn"),
    **names("mfa_", OWN, "reauthenticate_webauthn"),
    **names("mfa_", OWNED, "remove_webauthn", "edit_webauthn"),
    **names("", OWN, "usersessions_list"),
    # agents
    **names("agents:", OWN, "agent-list", "agent-detail", "conversation-list", "run-list", "schedule-list"),
    **names("agents:", OWN, "server-list", "expense-list", "expense-create", "expense-export"),
    **names("agents:", OWNED, "expense-detail", "expense-delete"),
    **names("agents:", OWN_POST, "server-create"),
    **names("agents:", OWNED_POST, "server-refresh", "server-delete", "tool-approve", "tool-withdraw"),
    **names("agents:", OWN_POST, "agent-pick", "agent-open", "run-start", "schedule-create"),
    **names("agents:", OWNED, "run-stream", "run-file"),
    **names("agents:", OWNED_POST, "run-approve", "schedule-switch", "schedule-delete"),
    **names("agents:", OWN_POST, "conversation-create", "run-create"),
    **names("agents:", OWNED, "conversation-detail", "run-detail", "message-stream"),
    **names("agents:", OWNED_POST, "conversation-delete", "message-create", "message-stop", "message-retry"),
    **names("agents:", OWNED_POST, "message-continue", "message-beside", "message-choose", "conversation-rename"),
    **names("agents:", OWNED_POST, "message-approve"),
    **names("agents:", OWNED, "conversation-export", "message-edit"),
    **names("agents:", OWNED_POST, "run-cancel", "run-retry", "attachment-delete"),
    **names("agents:", OWNED, "attachment-detail"),
    **names("agents:", OWN_POST, "attachment-create"),
    # settings
    **names("llm_credentials:", PUBLIC, "styleguide", "provider-compare"),
    **names("llm_credentials:", OWN, "settings-index", "security-detail", "audit-event-list", "account-leave"),
    **names("llm_credentials:", OWN, "step-up", "step-up-done", "removed-list", "settings-events", "provider-start"),
    **names("llm_credentials:", OWN, "token-list", "token-create"),
    **names("llm_credentials:", OWNED, "token-confirm-revocation"),
    **names("llm_credentials:", OWNED_POST, "token-revoke"),
    **names("llm_credentials:", OWN_POST, "account-export", "account-delete", "default-provider-set", "fallback-set"),
    **names("llm_credentials:", OWN_POST, "key-order", "key-move", "start-save", "start-with-system"),
    **names("llm_credentials:", OWN, "transfer-detail", "settings-export"),
    **names("llm_credentials:", OWN_POST, "settings-import-look", "settings-import", "env-import-look", "env-import"),
    **names("llm_credentials:", OWN, "usage-detail", "usage-export", "alert-settings"),
    **names("llm_credentials:", OWN_POST, "alert-settings-save", "webhook-set", "webhook-remove", "webhook-test"),
    **names("llm_credentials:", OWNED_POST, "alert-dismiss"),
    **names("llm_credentials:", OWN, "search-settings"),
    **names("llm_credentials:", OWN_POST, "search-key-change", "search-key-try", "search-key-remove"),
    **names("llm_credentials:", OWN_POST, "budget-set"),
    **names("llm_credentials:", OWN, "provider-list", "credential-edit", "credential-detail", "model-list"),
    **names("llm_credentials:", OWN_POST, "credential-save", "credential-test", "model-list-load"),
    **names("llm_credentials:", OWN_POST, "credential-replace"),
    **names("llm_credentials:", OWN, "routing-detail"),
    **names("llm_credentials:", OWN_POST, "routing-strategy-set", "routing-defaults-set", "chain-set", "chain-move"),
    **names("llm_credentials:", OWN_POST, "task-override-set", "task-override-reset"),
    **names("llm_credentials:", OWNED, "connection-test-detail", "credential-confirm-removal"),
    **names("llm_credentials:", OWNED_POST, "credential-toggle", "credential-delete", "credential-undo"),
    **names("llm_credentials:", OWNED_POST, "replacement-save"),
    # the API
    **names("api:", PUBLIC, "openapi-json", "openapi-view", "api-root"),
    "api:credential_list": api("GET", "read"),
    "api:credential_save": api("POST", "credentials"),
    "api:model_list": api("GET", "read"),
    "api:model_list_unsaved": api("POST", "credentials"),
    "api:connection_test_get": api("GET", "read"),
    "api:connection_test_start": api("POST", "credentials"),
    "api:credential_get": api("GET", "read"),
    "api:credential_delete": api("DELETE", "credentials"),
    "api:credential_change": api("PATCH", "credentials"),
    "api:replacement_save": api("POST", "credentials"),
    "api:search_credential_list": api("GET", "read"),
    "api:search_credential_save": api("POST", "credentials"),
    "api:search_credential_get": api("GET", "read"),
    "api:search_credential_delete": api("DELETE", "credentials"),
    "api:search_credential_test": api("POST", "credentials"),
    "api:token_list": api("GET", "read"),
    "api:token_create": api("POST", "credentials"),
    "api:token_revoke": api("DELETE", "credentials"),
    "api:audit_event_list": api("GET", "read"),
    "api:settings_get": api("GET", "read"),
    "api:settings_change": api("PATCH", "credentials"),
    "api:task_override_list": api("GET", "read"),
    "api:task_override_get": api("GET", "read"),
    "api:task_override_set": api("PUT", "credentials"),
    "api:task_override_delete": api("DELETE", "credentials"),
    "api:settings_export": api("GET", "read"),
    "api:settings_import": api("POST", "credentials"),
    "api:keys_import": api("POST", "credentials"),
    "api:route_list": api("GET", "read"),
    "api:provider_list": api("GET", "read"),
    "api:usage_list": api("GET", "read"),
    "api:provider_compare": api("GET", "read"),
    "api:alert_list": api("GET", "read"),
    "api:alert_dismiss": api("DELETE", "credentials"),
    "api:alert_settings_get": api("GET", "read"),
    "api:alert_settings_change": api("PATCH", "credentials"),
    "api:webhook_get": api("GET", "read"),
    "api:webhook_set": api("PUT", "credentials"),
    "api:webhook_remove": api("DELETE", "credentials"),
    "api:webhook_test": api("POST", "credentials"),
    "api:key_order_get": api("GET", "read"),
    "api:key_order_set": api("PUT", "credentials"),
    "api:removed_list": api("GET", "read"),
    "api:credential_undo": api("POST", "credentials"),
    "api:budget_get": api("GET", "read"),
    "api:budget_set": api("PUT", "credentials"),
    "api:security_get": api("GET", "read"),
    "api:account_get": api("GET", "read credentials agents gateway"),
    "api:account_export": api("POST", "credentials"),
    "api:account_delete": api("DELETE", ""),
    "api:site_get": site_api("GET", "read", auditor=200),
    "api:site_completions_set": site_api("PUT", "credentials"),
    "api:site_embeddings_set": site_api("PUT", "credentials"),
    "api:site_supervisor_get": site_api("GET", "read", auditor=200),
    "api:site_supervisor_set": site_api("PUT", "credentials"),
    "api:site_models": site_api("POST", "credentials"),
    "api:site_test": site_api("POST", "credentials"),
    "api:agent_list": api("GET", "read agents"),
    "api:run_create": api("POST", "agents"),
    "api:agent_pick": api("POST", "agents"),
    "api:run_list": api("GET", "read agents"),
    "api:run_get": api("GET", "read agents"),
    "api:run_events": api("GET", "read agents"),
    "api:run_cancel": api("POST", "agents"),
    "api:run_retry": api("POST", "agents"),
    "api:attachment_list": api("GET", "read agents"),
    "api:attachment_create": api("POST", "agents"),
    "api:attachment_get": api("GET", "read agents"),
    "api:attachment_read": api("GET", "read agents"),
    "api:attachment_delete": api("DELETE", "agents"),
    "api:run_approve": api("POST", "agents"),
    "api:server_list": api("GET", "read agents"),
    "api:server_create": api("POST", "agents"),
    "api:server_refresh": api("POST", "agents"),
    "api:server_delete": api("DELETE", "agents"),
    "api:tool_approve": api("POST", "agents"),
    "api:tool_withdraw": api("POST", "agents"),
    **{f"api:expense_{what}": api("GET", "read agents") for what in ("list", "get", "totals", "export")},
    "api:expense_create": api("POST", "agents"),
    "api:expense_change": api("PATCH", "agents"),
    "api:expense_delete": api("DELETE", "agents"),
    "api:schedule_list": api("GET", "read agents"),
    "api:schedule_create": api("POST", "agents"),
    "api:schedule_update": api("PATCH", "agents"),
    "api:schedule_delete": api("DELETE", "agents"),
    **{
        f"api:message_{does}": api("POST", "agents")
        for does in ("stop", "retry", "approve", "beside", "continue", "choose", "edit")
    },
    "api:conversation_change": api("PATCH", "agents"),
    "api:conversation_export": api("GET", "read agents"),
    "api:conversation_list": api("GET", "read agents"),
    "api:conversation_near": api("GET", "agents"),
    "api:conversation_create": api("POST", "agents"),
    "api:conversation_get": api("GET", "read agents"),
    "api:conversation_delete": api("DELETE", "agents"),
    "api:message_create": api("POST", "agents"),
    # the admin
    **names("admin:", PUBLIC, "login"),
    **names("admin:", STAFF, "index", "health", "logout", "password_change", "password_change_done", "jsi18n"),
    **names("admin:", STAFF, "view_on_site", "app_list", "?", "autocomplete"),
    **names("admin:llm_credentials_", Rule(kind=Kind.ADMIN), "usage", "usage_export", "key_ring"),
    **names("admin:llm_credentials_", Rule(kind=Kind.ADMIN), "site_allowance", "site_models"),
    "admin:llm_credentials_audit_verify": Rule(kind=Kind.ADMIN, method="POST"),
    **names("admin:llm_credentials_site_", Rule(kind=Kind.ADMIN, method="POST"), "models_save", "models_load"),
    **names("admin:llm_credentials_site_", Rule(kind=Kind.ADMIN, method="POST"), "models_test", "supervisor", "index"),
    "admin:auth_user_password_change": Rule(kind=Kind.ADMIN),
}
"""By the name of the route, with its namespace."""

ADMIN_MODELS = {
    *("agents_conversation", "agents_agentrun", "llm_credentials_usercredential", "llm_credentials_systemcredential"),
    *("llm_credentials_systemconfig", "llm_credentials_llmsettings", "llm_credentials_personalaccesstoken"),
    *("llm_credentials_usagerecord", "llm_credentials_connectiontest", "llm_credentials_auditevent"),
    *("llm_credentials_egressallowance", "llm_credentials_grouppolicy", "llm_credentials_userallowance"),
    *("auth_group", "auth_user", "account_emailaddress", "mfa_authenticator", "usersessions_usersession"),
}
"""Each with the five addresses that every model has."""
ADMIN_PAGES = ("changelist", "add", "history", "delete", "change")


def _admin_rules() -> dict[str, Rule]:
    return {f"admin:{model}_{page}": Rule(kind=Kind.ADMIN) for model in ADMIN_MODELS for page in ADMIN_PAGES}


TABLE = ROUTES | _admin_rules()


ALL = list(routes())
