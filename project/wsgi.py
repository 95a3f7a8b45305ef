"""The WSGI application."""

from project.env import use_settings

use_settings("project.settings")

from django.core.wsgi import get_wsgi_application  # noqa: E402

application = get_wsgi_application()
