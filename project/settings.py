"""Settings of the site; every value that differs between machines is read through ``project.env``."""

import secrets
import zlib
from typing import Any

from kombu import Queue

from llm_credentials.providers import registry
from project import env, logging
from project.env import BASE_DIR

env.load()

DEBUG = env.flag("DEBUG")
# A site on the user's own machine, over plain http; all others are assumed to be behind TLS.
LOCAL = env.flag("LOCAL") or DEBUG
# An empty key would end every command with a traceback; with a random one the system checks can say what to do.
SECRET_KEY = env.secret("SECRET_KEY")
SECRET_KEY_MISSING = not SECRET_KEY
SECRET_KEY = SECRET_KEY or secrets.token_urlsafe(64)
SECRET_KEY_FALLBACKS = env.words("SECRET_KEY_FALLBACKS")
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"
SITE_NAME = "Keyswitch"

INSTALLED_APPS = [
    "project.admin_config.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "django_htmx",
    "template_partials",
    "encrypted_fields",
    "django_ratelimit",
    "ninja",
    "project",
    "agents",
    "llm_credentials",
]

MIDDLEWARE = [
    "project.middleware.RequestIdMiddleware",
    "project.middleware.ApiAddressMiddleware",
    "project.middleware.SecurityHeadersMiddleware",
    "project.middleware.CompressionMiddleware",
    "project.errors.ErrorsMiddleware",
    "project.middleware.NoNulMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "llm_credentials.wall.middleware.WallMiddleware",
    "llm_credentials.audit.middleware.AuditMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "project.middleware.HtmxRedirectMiddleware",
    "project.limits.LimitsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Database
DATABASES: dict[str, dict[str, Any]] = {
    "default": env.database("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'keyswitch.sqlite3'}")
}
DATABASES["default"]["ATOMIC_REQUESTS"] = False
# Row-level security on PostgreSQL; manage.py migrate enables or disables it.
DATABASE_ROW_SECURITY = env.flag("DATABASE_ROW_SECURITY", default=True)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Valkey or Redis: broker, cache, limits, pub/sub
REDIS_URL = env.secret("REDIS_URL") or "redis://127.0.0.1:6379/0"
CACHES = {
    "default": {
        "BACKEND": "project.cache.ResilientRedisCache",
        "LOCATION": env.redis_addresses(REDIS_URL)["plain"],
        "KEY_PREFIX": "keyswitch",
    }
}
# W001 expects a different cache package; ours counts atomically on the same server.
SILENCED_SYSTEM_CHECKS = ["django_ratelimit.W001"]

CELERY_BROKER_URL = env.redis_addresses(REDIS_URL)["broker"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_SOFT_TIME_LIMIT = env.whole("TASK_SOFT_LIMIT_S", default=840)
CELERY_TASK_TIME_LIMIT = CELERY_TASK_SOFT_TIME_LIMIT + 60
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A Valkey that cannot persist rejects a worker's acknowledgements: the worker then reconnects instead of ending.
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
# A web request must not wait for an unavailable broker.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # A dead worker's task is redelivered after this time, which is longer than any task may run.
    "visibility_timeout": CELERY_TASK_TIME_LIMIT + 120,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 2,
    # For senders: a wait of seconds is as bad as a failure. Workers have their own reconnect settings.
    "max_retries": 0,
    "interval_start": 0,
}
# A queue per class of work, so that short runs do not wait behind long ones; a worker without -Q takes from all.
CELERY_TASK_QUEUES = [Queue(name) for name in ("celery", "runs.light", "runs.normal", "runs.heavy")]
# Runs per user and class that workers have at a time; further ones wait until these have ended.
RUNS_IN_FLIGHT = env.whole("RUNS_IN_FLIGHT", default=4)
# Programs on this machine that users may connect as tool servers: NAME=command with arguments, separated by semicolons.
MCP_STDIO_SERVERS = env.commands("MCP_STDIO_SERVERS")
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    # Interval plus minimum age: nothing that a crash left stays open for five minutes.
    "ledger-sweep": {"task": "llm_credentials.ledger_sweep", "schedule": 30.0, "options": {"expires": 30}},
    # In addition to the task started by each removal: a worker that was away must not keep a removed key.
    "removal-sweep": {"task": "llm_credentials.removal_sweep", "schedule": 15.0, "options": {"expires": 15}},
    "budget-watch": {"task": "llm_credentials.budget_watch", "schedule": 120.0, "options": {"expires": 120}},
    "usage-rollup": {"task": "llm_credentials.usage_rollup", "schedule": 1800.0, "options": {"expires": 1800}},
    "runs-tend": {"task": "agents.tend_runs", "schedule": 20.0, "options": {"expires": 20}},
    "index-tend": {"task": "agents.tend_index", "schedule": 60.0, "options": {"expires": 60}},
    "changes-prune": {"task": "llm_credentials.changes_prune", "schedule": 300.0, "options": {"expires": 300}},
}

# Accounts
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"
ACCOUNT_LOGOUT_REDIRECT_URL = "/accounts/login/"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_REAUTHENTICATION_TIMEOUT = 15 * 60
# Changing the address allows having the password sent there.
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ALLAUTH_TRUSTED_PROXY_COUNT = env.whole("TRUSTED_PROXY_COUNT", default=0)
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes", "webauthn"]
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_TOTP_ISSUER = SITE_NAME
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = LOCAL
MFA_ADAPTER = "project.accounts.SealingMFAAdapter"
ACCOUNT_ADAPTER = "project.accounts.AccountAdapter"
# Second factors: for everybody who changes keys or makes tokens, and for everybody who opens the admin.
REQUIRE_SECOND_FACTOR = env.flag("REQUIRE_SECOND_FACTOR")
REQUIRE_STAFF_MFA = env.flag("REQUIRE_STAFF_MFA", default=not LOCAL)
USERSESSIONS_TRACK_ACTIVITY = False

# A local site writes mail to its log, unless a mail server is configured.
EMAIL_BACKEND = "django.core.mail.backends." + (
    "console.EmailBackend" if LOCAL and not env.text("EMAIL_HOST") else "smtp.EmailBackend"
)
EMAIL_HOST = env.text("EMAIL_HOST", "localhost")
EMAIL_PORT = env.whole("EMAIL_PORT", default=25)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = env.secret("EMAIL_HOST_PASSWORD")
EMAIL_USE_TLS = env.flag("EMAIL_USE_TLS")
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", f"{SITE_NAME} <noreply@localhost>")

# Browser-side safety
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not LOCAL
# Browsers share cookies between all ports of a host, so two checkouts on one machine would sign each other's users out.
# Elsewhere the prefix makes browsers reject cookies set by another host of the domain or over plain http.
SESSION_COOKIE_NAME = f"sessionid_{zlib.crc32(str(BASE_DIR).encode()):08x}" if LOCAL else "__Host-sessionid"
CSRF_COOKIE_NAME = "csrftoken" if LOCAL else "__Host-csrftoken"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_SSL_REDIRECT = env.flag("SSL_REDIRECT", default=not LOCAL)
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = 0 if LOCAL else env.whole("HSTS_SECONDS", default=31_536_000)
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = not LOCAL
SECURE_REFERRER_POLICY = "same-origin"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ALLAUTH_TRUSTED_PROXY_COUNT else None
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
PERMISSIONS_POLICY = ", ".join(
    [f"{feature}=()" for feature in ("accelerometer", "browsing-topics", "camera", "display-capture")]
    + [
        f"{feature}=()"
        for feature in ("geolocation", "gyroscope", "hid", "idle-detection", "local-fonts", "magnetometer")
    ]
    + [f"{feature}=()" for feature in ("microphone", "midi", "payment", "serial", "usb", "xr-spatial-tracking")]
    + ["publickey-credentials-create=(self)", "publickey-credentials-get=(self)"]
)
DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024
# Files for agents, stored in the database: limits per file and per user
ATTACHMENT_MAX_BYTES = env.whole("ATTACHMENT_MAX_MB", default=20) * 1024 * 1024
ATTACHMENT_USER_MAX_BYTES = env.whole("ATTACHMENT_USER_MAX_MB", default=100) * 1024 * 1024
# Of any request including files, counted as it arrives: otherwise the whole request would be written to disk.
MAX_REQUEST_BYTES = ATTACHMENT_MAX_BYTES + DATA_UPLOAD_MAX_MEMORY_SIZE

# Static files
STATIC_URL = "static/"
# Collected for production; a local site serves them from their source folders.
STATIC_ROOT = None if LOCAL else BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = LOCAL
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if LOCAL
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

LANGUAGE_CODE = "en"
# English is the only catalogue; with a second one, visitors get their browser's language (see CONTRIBUTING).
LANGUAGES = [("en", "English")]
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = ["project.formats"]
if len(LANGUAGES) > 1:
    MIDDLEWARE.insert(
        MIDDLEWARE.index("django.middleware.common.CommonMiddleware"), "django.middleware.locale.LocaleMiddleware"
    )
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

# Keys and providers
CREDENTIAL_KEYS = env.secret("CREDENTIAL_KEYS")
SANDBOX_URL = env.text("SANDBOX_URL")
SEARXNG_URL = env.text("SEARXNG_URL")
LLM_EGRESS_ALLOW = env.words("LLM_EGRESS_ALLOW")
LLM_DEFAULT_PROVIDER = env.text("LLM_DEFAULT_PROVIDER", "openai")
LLM_TEST_TIMEOUT_S = env.decimal("LLM_TEST_TIMEOUT_S", default=10)
# Rate limits by the kinds of llm_credentials.limits: per user, per token, and per provider over all users.
LLM_RATES = {
    "test": {
        "user": env.rate("LLM_RATE_TEST_USER", "10/m"),
        "provider": env.rate("LLM_RATE_TEST_PROVIDER", "60/m"),
    },
    "models": {
        "user": env.rate("LLM_RATE_MODELS_USER", "20/m"),
        "provider": env.rate("LLM_RATE_MODELS_PROVIDER", "120/m"),
    },
    "chat": {
        "user": env.rate("LLM_RATE_CHAT_USER", "60/m"),
        "provider": env.rate("LLM_RATE_CHAT_PROVIDER", "6000/m"),
    },
    "stream": {"user": env.rate("LLM_RATE_STREAM_USER", "240/m")},
    "run": {
        "user": env.rate("LLM_RATE_RUN_USER", "30/m"),
        "provider": env.rate("LLM_RATE_RUN_PROVIDER", "3000/m"),
    },
    "upload": {"user": env.rate("LLM_RATE_UPLOAD_USER", "60/m")},
    "api": {
        "user": env.rate("LLM_RATE_API_USER", "600/m"),
        "token": env.rate("LLM_RATE_API_TOKEN", "300/m"),
    },
    "gateway": {
        "user": env.rate("LLM_RATE_GATEWAY_USER", "3000/m"),
        "token": env.rate("LLM_RATE_GATEWAY_TOKEN", "3000/m"),
    },
}
LLM_SYSTEM_KEYS = env.system_keys(registry.all_specs())
env.strip_sdk_variables(registry.all_specs())

# Metrics for operators: /metrics
METRICS_TOKEN = env.secret("METRICS_TOKEN")
# Where the processes of one machine share metrics. The metrics library reads it from the environment.
METRICS_DIR = env.shared_metrics("METRICS_DIR")
# Port on which a worker without a web process serves its metrics; 0: none.
METRICS_PORT = env.whole("METRICS_PORT", default=0)

# Traces and error reports, sent to the operator's own collectors; each is off without an address
OTEL_EXPORTER_OTLP_ENDPOINT = env.web_address("OTEL_EXPORTER_OTLP_ENDPOINT")
OTEL_EXPORTER_OTLP_HEADERS = env.pairs("OTEL_EXPORTER_OTLP_HEADERS")
OTEL_SERVICE_NAME = env.text("OTEL_SERVICE_NAME", "keyswitch")
OTEL_TRACES_SAMPLER_ARG = env.share("OTEL_TRACES_SAMPLER_ARG", default=1)
if OTEL_EXPORTER_OTLP_ENDPOINT:
    MIDDLEWARE.insert(0, "project.tracing.RouteMiddleware")
SENTRY_DSN = env.secret("SENTRY_DSN")
SENTRY_ENVIRONMENT = env.text("SENTRY_ENVIRONMENT", "production")

# Logging, and secrets that must never be logged
logging.know_secrets(
    prefixes=[prefix for spec in registry.all_specs() for prefix in spec.key_prefixes],
    values=[
        SECRET_KEY,
        *SECRET_KEY_FALLBACKS,
        *(entry.partition(":")[2] for entry in CREDENTIAL_KEYS.split(",")),
        *(keys["api_key"] or "" for keys in LLM_SYSTEM_KEYS.values()),
        EMAIL_HOST_PASSWORD,
        METRICS_TOKEN,
        SENTRY_DSN,
        *OTEL_EXPORTER_OTLP_HEADERS.values(),
    ],
)
LOGGING = logging.configure(
    level=env.text("LOG_LEVEL", "INFO").upper(), kind=env.text("LOG_FORMAT", "console" if LOCAL else "json")
)
DEFAULT_EXCEPTION_REPORTER_FILTER = "project.logging.HidingReporterFilter"
