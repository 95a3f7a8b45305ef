"""The root URLconf."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.i18n import JavaScriptCatalog

from agents.api import add_to
from llm_credentials.api import api
from llm_credentials.views import site
from project import health, metrics

# The API's app does not know the agents, so their operations are added here.
add_to(api)

urlpatterns: list[URLPattern | URLResolver] = [
    path("", site.home, name="home"),
    path("words.js", JavaScriptCatalog.as_view(), name="javascript-catalog"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
    path("api/", api.urls),
    path("", include("agents.urls")),
    path("", include("llm_credentials.urls")),
]

handler400 = "project.errors.bad_request"
handler403 = "project.errors.permission_denied"
handler404 = "project.errors.not_found"
handler429 = "project.errors.too_many_requests"
handler500 = "project.errors.server_error"
