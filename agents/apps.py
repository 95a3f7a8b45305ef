from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"
    verbose_name = "Agents"

    def ready(self) -> None:
        from agents import leaving, vectors
        from agents.attachments import Attachment
        from agents.expenses.models import Expense, ExpenseLine
        from agents.models import AgentRun, Conversation, StoredMessage
        from agents.registry import register_task_kinds
        from agents.schedules import ScheduledRun
        from agents.servers import MCPServer, MCPTool
        from llm_credentials.audit.denials import know_owner
        from llm_credentials.live import watched
        from llm_credentials.wall import owned

        register_task_kinds()
        know_owner("run_id", lambda pk: AgentRun.objects.filter(pk=pk).values_list("user_id", flat=True))
        know_owner("conversation_id", lambda pk: Conversation.objects.filter(pk=pk).values_list("user_id", flat=True))
        files = Attachment.objects.all()
        know_owner("attachment_id", lambda pk: files.filter(pk=pk).values_list("user_id", flat=True))
        messages = StoredMessage.objects.all()
        know_owner("message_id", lambda pk: messages.filter(pk=pk).values_list("conversation__user_id", flat=True))
        know_owner("schedule_id", lambda pk: ScheduledRun.objects.filter(pk=pk).values_list("user_id", flat=True))
        know_owner("server_id", lambda pk: MCPServer.objects.filter(pk=pk).values_list("user_id", flat=True))
        known = MCPTool.objects.all()
        know_owner("tool_id", lambda pk: known.filter(pk=pk).values_list("server__user_id", flat=True))
        expenses = Expense.objects.all()
        know_owner("expense_id", lambda pk: expenses.filter(pk=pk).values_list("user_id", flat=True))
        watched.watch(MCPServer, user="user_id", ignored=("problem", "checked_at", "updated_at"))
        leaving.register()
        vectors.register()
        owned(Conversation, by="user")
        owned(StoredMessage, by="conversation")
        owned(AgentRun, by="user")
        owned(Attachment, by="user")
        owned(vectors.TextVector, by="user")
        owned(ScheduledRun, by="user")
        owned(MCPServer, by="user")
        owned(MCPTool, by="server")
        owned(Expense, by="user")
        owned(ExpenseLine, by="expense")
