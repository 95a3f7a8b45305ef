"""The ASGI entrance."""

import warnings

from project.env import use_settings

use_settings("project.settings")

from django.core.asgi import get_asgi_application  # noqa: E402

# Static files come as blocking iterators; they are small, and our own streams are tested to be asynchronous.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

application = get_asgi_application()
