"""Every address of the site begins here."""

from importlib import import_module
from importlib.util import find_spec

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from llm_credentials.views import site
from project import health

admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]


def _written(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


urlpatterns: list[URLPattern | URLResolver] = [
    path("", site.home, name="home"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
]
for prefix, module in (("", "llm_credentials.urls"), ("", "agents.urls"), ("api/", "llm_credentials.api")):
    if not _written(module):
        continue
    try:
        urlpatterns.append(path(prefix, import_module(module).api.urls if prefix else include(module)))
    except ImportError as unfinished:
        print(f"{module} is left out: {unfinished}")  # noqa: T201

handler400 = "project.errors.bad_request"
handler403 = "project.errors.permission_denied"
handler404 = "project.errors.not_found"
handler429 = "project.errors.too_many_requests"
handler500 = "project.errors.server_error"
