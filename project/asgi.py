"""The ASGI entrance."""

from project.env import use_settings

use_settings("project.settings")

from django.core.asgi import get_asgi_application  # noqa: E402

application = get_asgi_application()
