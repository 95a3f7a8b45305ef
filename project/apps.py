from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class ProjectConfig(AppConfig):
    name = "project"
    verbose_name = "Site"

    def ready(self) -> None:
        from django.conf import settings

        from llm_credentials.routing import snapshot_cache
        from project import checks, logging, roles  # noqa: F401
        from project.celery import app

        logging.also_redact(snapshot_cache.redacted)
        app.set_default()
        if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
            from project import tracing

            tracing.install()
        if settings.SENTRY_DSN:
            from project import error_reports

            error_reports.install()
        # The last app to be migrated; before that, some permissions are missing.
        post_migrate.connect(roles.after_migrate, sender=apps.get_app_config("llm_credentials"))
