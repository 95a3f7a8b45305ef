"""Settings of the test run: neither the environment nor ``.env`` decides anything."""

from project import env

env.use_defaults_only()

from project.settings import *  # noqa: E402, F403

SECRET_KEY = "only-for-tests-" + "0123456789abcdef" * 4
SECRET_KEY_MISSING = False
CREDENTIAL_KEYS = "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = False
STORAGES = {name: {"BACKEND": f"django.{path}"} for name, path in {
    "default": "core.files.storage.InMemoryStorage", "staticfiles": "contrib.staticfiles.storage.StaticFilesStorage",
}.items()}  # fmt: skip
