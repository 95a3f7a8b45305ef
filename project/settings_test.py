"""Settings of the test run: the environment and ``.env`` are ignored."""

from project import env

env.use_defaults_only()

from project.settings import *  # noqa: E402, F403
from project.tests import servers  # noqa: E402

SECRET_KEY = "only-for-tests-" + "0123456789abcdef" * 4
SECRET_KEY_MISSING = False
CREDENTIAL_KEYS = "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
DATABASES = servers.databases()
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "sessionid", "csrftoken"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = False
REQUIRE_STAFF_MFA = False
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = True  # otherwise every test client would scan all static files when created
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}  # noqa: F405
