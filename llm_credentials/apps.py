from django.apps import AppConfig


class LlmCredentialsConfig(AppConfig):
    name = "llm_credentials"
    verbose_name = "LLM credentials"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from llm_credentials import checks, conf  # noqa: F401  (checks register themselves on import)
        from llm_credentials.providers import registry

        registry.use_site_addresses(conf.site_address)
