from django.apps import AppConfig
from django.db.models.signals import post_migrate


class LlmCredentialsConfig(AppConfig):
    name = "llm_credentials"
    verbose_name = "LLM credentials"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from llm_credentials import checks, conf, reclaiming, stepup  # noqa: F401  (checks register themselves on import)
        from llm_credentials.audit import accounts, denials  # noqa: F401  (so do the receivers)
        from llm_credentials.live import tables
        from llm_credentials.models import ConnectionTest, owned
        from llm_credentials.notices import accounts as account_notices  # noqa: F401
        from llm_credentials.providers import registry
        from llm_credentials.routing import kinds
        from llm_credentials.wall import policies, statements

        tables.watch_ours()
        kinds.register(kinds.TaskKind("supervisor", "Supervisor", weight="light", needs={"json"}))
        kinds.register(kinds.TaskKind("gateway", "Gateway"))
        registry.use_site_addresses(conf.site_address)
        owned.register()
        statements.install()
        post_migrate.connect(policies.after_migrate, sender=self)
        denials.know_owner("test_id", lambda pk: ConnectionTest.objects.filter(pk=pk).values_list("user_id", flat=True))
