"""The ASGI application: gateway paths go to the gateway, everything else to Django."""

import warnings
from typing import Any

from project.env import use_settings

use_settings("project.settings")

from django.conf import settings  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402

from project.bodies import LimitedBodies  # noqa: E402

# Static files are blocking iterators, but small; tests check that our own streams are asynchronous.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

django = LimitedBodies(get_asgi_application(), settings.MAX_REQUEST_BYTES)

from llm_credentials.gateway.app import application as gateway  # noqa: E402
from project import collector  # noqa: E402
from project.metrics import Measured  # noqa: E402

collector.settle()


def is_gateways(path: str) -> bool:
    """Tolerates duplicate slashes, so that a program does not get an HTML page."""
    return path.startswith("/v1/") or path == "/v1" or (path.startswith("//") and is_gateways(path[1:]))


async def parts(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and is_gateways(scope["path"]):
        await gateway(scope, receive, send)
    else:
        await django(scope, receive, send)


application: Any = Measured(parts)
if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
    from project.tracing import Traced

    application = Traced(application)
