"""The pages of this app. Below ``settings/llm/<provider>/`` a key is meant by ``name``, without one the "default"."""

from django.urls import path

from llm_credentials.views import (
    alerts,
    connection_tests,
    credentials,
    models,
    preferences,
    providers,
    routing,
    security,
    site,
    step_up,
    tokens,
    usage,
)

app_name = "llm_credentials"

urlpatterns = [
    path("styleguide/", site.styleguide, name="styleguide"),
    path("settings/", providers.settings_index, name="settings-index"),
    path("settings/security/", security.security_detail, name="security-detail"),
    path("settings/security/confirm/", step_up.step_up, name="step-up"),
    path("settings/security/confirm/done/", step_up.step_up_done, name="step-up-done"),
    path("settings/security/history/", security.audit_event_list, name="audit-event-list"),
    path("settings/security/account/", security.account_leave, name="account-leave"),
    path("settings/security/account/export/", security.account_export, name="account-export"),
    path("settings/security/account/delete/", security.account_delete, name="account-delete"),
    path("settings/llm/", providers.provider_list, name="provider-list"),
    path("settings/llm/default/set/", preferences.default_provider_set, name="default-provider-set"),
    path("settings/llm/fallback/set/", preferences.fallback_set, name="fallback-set"),
    path("settings/alerts/", alerts.alert_settings, name="alert-settings"),
    path("settings/alerts/save/", alerts.alert_settings_save, name="alert-settings-save"),
    path("settings/alerts/<uuid:alert_id>/dismiss/", alerts.alert_dismiss, name="alert-dismiss"),
    path("settings/alerts/webhook/set/", alerts.webhook_set, name="webhook-set"),
    path("settings/alerts/webhook/remove/", alerts.webhook_remove, name="webhook-remove"),
    path("settings/alerts/webhook/test/", alerts.webhook_test, name="webhook-test"),
    path("settings/llm/usage/", usage.usage_detail, name="usage-detail"),
    path("settings/llm/usage/export/", usage.usage_export, name="usage-export"),
    path("settings/llm/usage/budget/set/", usage.budget_set, name="budget-set"),
    path("settings/llm/routing/", routing.routing_detail, name="routing-detail"),
    path("settings/llm/routing/strategy/", routing.routing_strategy_set, name="routing-strategy-set"),
    path("settings/llm/routing/defaults/", routing.routing_defaults_set, name="routing-defaults-set"),
    path("settings/llm/routing/order/", routing.chain_set, name="chain-set"),
    path("settings/llm/routing/order/move/", routing.chain_move, name="chain-move"),
    path("settings/llm/routing/tasks/<slug:task>/", routing.task_override_set, name="task-override-set"),
    path("settings/llm/routing/tasks/<slug:task>/reset/", routing.task_override_reset, name="task-override-reset"),
    path("settings/llm/tests/<uuid:test_id>/", connection_tests.connection_test_detail, name="connection-test-detail"),
    path("settings/llm/tokens/", tokens.token_list, name="token-list"),
    path("settings/llm/tokens/new/", tokens.token_create, name="token-create"),
    path(
        "settings/llm/tokens/<uuid:token_id>/remove/", tokens.token_confirm_revocation, name="token-confirm-revocation"
    ),
    path("settings/llm/tokens/<uuid:token_id>/revoke/", tokens.token_revoke, name="token-revoke"),
    path("settings/llm/removed/", credentials.removed_list, name="removed-list"),
    path("settings/llm/removed/<uuid:credential_id>/undo/", credentials.credential_undo, name="credential-undo"),
    path("settings/llm/<slug:provider>/", providers.credential_edit, name="credential-edit"),
    path("settings/llm/<slug:provider>/card/", providers.credential_detail, name="credential-detail"),
    path("settings/llm/<slug:provider>/save/", credentials.credential_save, name="credential-save"),
    path("settings/llm/<slug:provider>/toggle/", credentials.credential_toggle, name="credential-toggle"),
    path(
        "settings/llm/<slug:provider>/remove/",
        credentials.credential_confirm_removal,
        name="credential-confirm-removal",
    ),
    path("settings/llm/<slug:provider>/delete/", credentials.credential_delete, name="credential-delete"),
    path("settings/llm/<slug:provider>/test/", connection_tests.credential_test, name="credential-test"),
    path("settings/llm/<slug:provider>/models/", models.model_list, name="model-list"),
    path("settings/llm/<slug:provider>/models/load/", models.model_list_load, name="model-list-load"),
]
