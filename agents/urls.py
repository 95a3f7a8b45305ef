"""Addresses of agents, conversations and runs."""

from django.urls import path

from agents.views import agents, attachments, conversations, messages, runs, schedules, servers

app_name = "agents"

urlpatterns = [
    path("agents/", agents.agent_list, name="agent-list"),
    path("agents/pick/", agents.agent_pick, name="agent-pick"),
    path("agents/<slug:agent>/open/", agents.agent_open, name="agent-open"),
    path("agents/<slug:agent>/", agents.agent_detail, name="agent-detail"),
    path("agents/<slug:agent>/runs/", agents.run_start, name="run-start"),
    path("agents/<slug:agent>/schedules/", agents.schedule_create, name="schedule-create"),
    path("agents/<slug:agent>/conversations/", conversations.conversation_create, name="conversation-create"),
    path("conversations/", conversations.conversation_list, name="conversation-list"),
    path("conversations/<uuid:conversation_id>/", conversations.conversation_detail, name="conversation-detail"),
    path("conversations/<uuid:conversation_id>/delete/", conversations.conversation_delete, name="conversation-delete"),
    path("conversations/<uuid:conversation_id>/title/", conversations.conversation_rename, name="conversation-rename"),
    path("conversations/<uuid:conversation_id>/export/", conversations.conversation_export, name="conversation-export"),
    path("conversations/<uuid:conversation_id>/messages/", messages.message_create, name="message-create"),
    path("messages/<uuid:message_id>/stream/", messages.message_stream, name="message-stream"),
    path("messages/<uuid:message_id>/stop/", messages.message_stop, name="message-stop"),
    path("messages/<uuid:message_id>/retry/", messages.message_retry, name="message-retry"),
    path("messages/<uuid:message_id>/continue/", messages.message_continue, name="message-continue"),
    path("messages/<uuid:message_id>/beside/", messages.message_beside, name="message-beside"),
    path("messages/<uuid:message_id>/choose/", messages.message_choose, name="message-choose"),
    path("messages/<uuid:message_id>/edit/", messages.message_edit, name="message-edit"),
    path("attachments/", attachments.attachment_create, name="attachment-create"),
    path("attachments/<uuid:attachment_id>/", attachments.attachment_detail, name="attachment-detail"),
    path("attachments/<uuid:attachment_id>/delete/", attachments.attachment_delete, name="attachment-delete"),
    path("settings/tools/", servers.server_list, name="server-list"),
    path("settings/tools/create/", servers.server_create, name="server-create"),
    path("settings/tools/<uuid:server_id>/refresh/", servers.server_refresh, name="server-refresh"),
    path("settings/tools/<uuid:server_id>/delete/", servers.server_delete, name="server-delete"),
    path("settings/tools/approve/<uuid:tool_id>/", servers.tool_approve, name="tool-approve"),
    path("settings/tools/withdraw/<uuid:tool_id>/", servers.tool_withdraw, name="tool-withdraw"),
    path("runs/", runs.run_list, name="run-list"),
    path("runs/create/", runs.run_create, name="run-create"),
    path("runs/<uuid:run_id>/", runs.run_detail, name="run-detail"),
    path("runs/<uuid:run_id>/stream/", runs.run_stream, name="run-stream"),
    path("runs/<uuid:run_id>/approve/", runs.run_approve, name="run-approve"),
    path("runs/<uuid:run_id>/files/<str:name>", runs.run_file, name="run-file"),
    path("schedules/", schedules.schedule_list, name="schedule-list"),
    path("schedules/<uuid:schedule_id>/switch/", schedules.schedule_switch, name="schedule-switch"),
    path("schedules/<uuid:schedule_id>/delete/", schedules.schedule_delete, name="schedule-delete"),
    path("runs/<uuid:run_id>/cancel/", runs.run_cancel, name="run-cancel"),
    path("runs/<uuid:run_id>/retry/", runs.run_retry, name="run-retry"),
]
