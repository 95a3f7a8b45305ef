"""The Celery app; every installed app's ``tasks`` module belongs to it."""

from project.env import use_settings

use_settings("project.settings")

from celery import Celery  # noqa: E402

app = Celery("keyswitch")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
