from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"
    verbose_name = "Site"

    def ready(self) -> None:
        from project import checks  # noqa: F401
        from project.celery import app

        app.set_default()
