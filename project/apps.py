from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"
    verbose_name = "Site"

    def ready(self) -> None:
        from llm_credentials.routing import kept
        from project import checks, logging  # noqa: F401
        from project.celery import app

        logging.also_redact(kept.redacted)
        app.set_default()
