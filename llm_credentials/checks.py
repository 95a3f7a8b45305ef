"""System checks. They report a wrong key ring at start, with a hint, instead of failing for one user after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection

from llm_credentials import conf, keyring
from llm_credentials.providers import EgressPolicy


@register(Tags.security)
def key_ring_is_usable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E001: no ring. E002: an unreadable ring."""
    try:
        keyring.ring()
    except keyring.KeyringError as error:
        missing = not conf.credential_keys().strip()
        return [Error(str(error), hint=error.hint, id="llm_credentials.E001" if missing else "llm_credentials.E002")]
    return []


@register(Tags.security, deploy=True)
def key_ring_is_random(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W001: a key that was typed rather than generated."""
    try:
        weak = keyring.ring().guessable_ids()
    except keyring.KeyringError:
        return []
    if not weak:
        return []
    text = f"CREDENTIAL_KEYS: the bytes of {', '.join(weak)} do not look random."
    return [Warning(text, hint=keyring.NEW_KEY_HINT, id="llm_credentials.W001")]


@register(Tags.security, deploy=True)
def deployed_key_ring_fits_database(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Deployment checks query the database even without ``--database``."""
    if databases and DEFAULT_DB_ALIAS in databases:
        return []
    try:
        asked = [DEFAULT_DB_ALIAS]
        fits = key_ring_fits_database(app_configs, databases=asked)
        trail = audit_trail_is_guarded(app_configs, databases=asked)
        live = changes_are_noted(app_configs, databases=asked)
        return [*fits, *trail, *live, *wall_holds(app_configs, databases=asked)]
    except DatabaseError:
        text = "The database could not be asked whether the key ring fits it."
        return [Warning(text, hint="Run manage.py check --database default.", id="llm_credentials.W002")]


@register(Tags.security)
def egress_allowances_are_readable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E010: an invalid entry in LLM_EGRESS_ALLOW."""
    messages: list[CheckMessage] = []
    for entry in conf.egress_allow():
        try:
            EgressPolicy(allow=[entry])
        except ValueError as error:
            hint = "Write host:port, 192.168.7.0/24:port or [fd12::1]:port, separated by commas."
            messages.append(Error(f"LLM_EGRESS_ALLOW: {error}.", hint=hint, id="llm_credentials.E010"))
    return messages


@register(Tags.database)
def key_ring_fits_database(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """E003: a key that has changed. E004: rows sealed under a key that is not on the ring."""
    from llm_credentials import canary

    if not databases or DEFAULT_DB_ALIAS not in databases or not canary.tables_exist():
        return []
    try:
        lost = canary.examine()
    except keyring.KeyringError:
        return []
    messages: list[CheckMessage] = [
        Error(
            f"The key {key_id!r} in CREDENTIAL_KEYS is not the one that this database was sealed with.",
            hint=canary.LOST_HINT,
            id="llm_credentials.E003",
        )
        for key_id in sorted(lost)
    ]
    for key_id, rows in sorted(canary.stranded_rows().items()):
        messages.append(
            Error(
                f"CREDENTIAL_KEYS has no key {key_id!r}, under which {rows} stored keys or second factors are sealed.",
                hint=f"Put the key {key_id!r} back after the first one, and run rotate_credential_keys before it goes.",
                id="llm_credentials.E004",
            )
        )
    return messages


@register(Tags.database)
def audit_trail_is_guarded(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """W003: the database does not stop changes to audit events."""
    from llm_credentials.audit import guard

    if not databases or DEFAULT_DB_ALIAS not in databases or not guard.tables_exist() or guard.is_on():
        return []
    return [
        Warning(
            "The database does not refuse changes to the audit trail: its triggers are missing, off or changed.",
            hint="Find out who took them away, run manage.py audit_verify, and put them back with "
            "manage.py shell -c 'from llm_credentials.audit import guard; guard.install()'.",
            id="llm_credentials.W003",
        )
    ]


@register(Tags.database)
def changes_are_noted(app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W010: the cache cannot be invalidated, so every call reads its route from the database."""
    from llm_credentials.live import watched

    if not databases or DEFAULT_DB_ALIAS not in databases or not watched.table_exists() or watched.is_installed():
        return []
    text = "The database does not note changes of keys and settings: triggers are missing or off."
    return [Warning(text, hint="Run manage.py migrate; it puts them up.", id="llm_credentials.W010")]


@register(Tags.database)
def wall_holds(app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W020: the database role bypasses row-level security. W021: tables without a policy."""
    from llm_credentials.wall import policies

    if not databases or DEFAULT_DB_ALIAS not in databases or connection.vendor != "postgresql":
        return []
    if not conf.row_security():
        return []
    messages: list[CheckMessage] = []
    if policies.role_passes_through(connection):
        messages.append(
            Warning(
                "The database role is a superuser or has BYPASSRLS: row-level security does not hold for it.",
                hint="Let the site connect with a role of its own that owns its database and nothing else: "
                "CREATE ROLE keyswitch LOGIN; ALTER DATABASE … OWNER TO keyswitch.",
                id="llm_credentials.W020",
            )
        )
    if open_tables := policies.missing(connection):
        messages.append(
            Warning(
                f"Row-level security is not in place on {', '.join(open_tables)}.",
                hint="Run manage.py migrate, which puts it in place.",
                id="llm_credentials.W021",
            )
        )
    return messages
