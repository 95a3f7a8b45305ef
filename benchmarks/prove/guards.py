"""The guards of the vault, each with the small change that takes it out and the tests that must then go red.

``before`` stands in the file once, or ``nth`` says which one is meant (from 1). A guard that was rewritten shows as
stale in ``mutations.py``: mend it here in the same change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LLM = "llm_credentials"
LLM_TESTS = "llm_credentials/tests"
PROVIDER_TESTS = "llm_credentials/providers/tests"
MATRIX = "project/tests/test_isolation.py"
FOR_USER = "return self.filter(user_id=user.pk) if user.pk is not None else self.none()"
STEP_UP = "    if not stepup.is_recent(request):\n"
STEPPED_UP = (f"{LLM_TESTS}/test_stepup.py",)
LEAVING = ("project/tests/test_leaving.py", f"{LLM_TESTS}/test_stepup.py")
BASES = "admin/bases.py"
ADMIN = (f"{LLM_TESTS}/test_admin.py", f"{LLM_TESTS}/test_stepup.py")
FOR_PERSON = "return self.filter(user_id=user.pk) if user.is_authenticated else self.none()"


@dataclass(frozen=True, slots=True)
class Guard:
    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]
    nth: int = 1


def _own(what: str, path: str, before: str, *tests: str) -> Guard:
    return Guard(f"{what}: only one's own", path, before, "return self.all()", tests)


def _tests(*names: str) -> tuple[str, ...]:
    return tuple(f"{LLM_TESTS}/test_{name}.py" for name in names)


OWN_ROWS: Final = [
    _own(
        "keys",
        f"{LLM}/models/credentials.py",
        FOR_USER,
        f"{LLM_TESTS}/test_api_credentials.py::test_list_shows_nothing_of_others",
    ),
    _own("connection tests", f"{LLM}/models/connection_tests.py", FOR_USER, *_tests("views_connection_tests")),
    _own("access tokens", f"{LLM}/models/tokens.py", FOR_USER, *_tests("services")),
    _own("task overrides", f"{LLM}/models/settings.py", FOR_USER, *_tests("models", "router", "resolve")),
    _own("usage", f"{LLM}/models/usage.py", FOR_USER, *_tests("models"), "project/tests/test_leaving.py"),
    _own(
        "audit events",
        f"{LLM}/models/audit.py",
        "return self.filter(subject=str(user.pk)) if user.pk is not None else self.none()",
        f"{LLM_TESTS}/test_views_security.py",
    ),
    Guard(
        "conversations: only one's own",
        "agents/models.py",
        FOR_PERSON,
        "return self.all()",
        ("agents/tests/test_views.py",),
    ),
    Guard(
        "messages: only one's own",
        "agents/models.py",
        "return self.filter(conversation__user_id=user.pk) if user.is_authenticated else self.none()",
        "return self.all()",
        ("agents/tests/test_views.py",),
    ),
    Guard(
        "runs: only one's own",
        "agents/models.py",
        FOR_PERSON,
        "return self.all()",
        ("agents/tests/test_views.py",),
        nth=2,
    ),
]

SEALING: Final = [
    Guard(
        "a sealed value opens for its own row alone",
        f"{LLM}/fields.py",
        "if not hmac.compare_digest(context.encode(), row.sealing_context(self).encode()):",
        "if False:",
        _tests("fields"),
    ),
    *(
        Guard(
            f"{what} is part of what a value is sealed to",
            f"{LLM}/models/sealed.py",
            "(place, str(self.pk), self.owner_ref(), self.provider, self.base_url)",
            after,
            _tests("fields"),
        )
        for what, after in (
            ("the table", '("", str(self.pk), self.owner_ref(), self.provider, self.base_url)'),
            ("the row", '(place, "", self.owner_ref(), self.provider, self.base_url)'),
            ("the owner", '(place, str(self.pk), "", self.provider, self.base_url)'),
            ("the provider", '(place, str(self.pk), self.owner_ref(), "", self.base_url)'),
            ("the address", '(place, str(self.pk), self.owner_ref(), self.provider, "")'),
        )
    ),
    Guard(
        "an older ciphertext of the same row is refused",
        f"{LLM}/models/sealed.py",
        "        assert self.api_key is not None\n        return keyring.same_fingerprint(",
        "        return True or keyring.same_fingerprint(",
        _tests("fields", "models"),
    ),
    Guard(
        "a ciphertext is never sealed as a key",
        f"{LLM}/fields.py",
        "if not plain or not plain.isascii() or keyring.looks_sealed(plain):",
        "if not plain or not plain.isascii():",
        _tests("fields"),
    ),
    Guard(
        "only a sealed value is assigned to the column",
        f"{LLM}/fields.py",
        "        if value is not None and not isinstance(value, Sealed):\n            raise TypeError(REFUSAL)\n",
        "",
        _tests("fields"),
    ),
    Guard(
        "a sealed value is never pickled",
        f"{LLM}/fields.py",
        'raise TypeError("A sealed value is never pickled: pass the credential\'s id instead.")',
        "return (Sealed, (self._stored,))",
        _tests("fields"),
    ),
    Guard(
        "a sealed value shows nothing of itself",
        f"{LLM}/fields.py",
        'def __repr__(self) -> str:\n        return "<Sealed>"',
        "def __repr__(self) -> str:\n        return self._stored",
        _tests("fields"),
    ),
    Guard(
        "nobody searches by a key",
        f"{LLM}/fields.py",
        "            case _:\n                raise FieldError(",
        "            case _:\n                return super().get_lookup(lookup_name)\n                FieldError(",
        _tests("fields"),
    ),
    Guard(
        "a sealed column is in no fixture",
        f"{LLM}/fields.py",
        '{"editable": False, "serialize": False}',
        '{"editable": False}',
        _tests("fields"),
    ),
    Guard(
        "nothing is sealed under a ring that does not fit",
        f"{LLM}/canary.py",
        "if not _opens(ring, known):",
        "if False:",
        _tests("checks", "services"),
    ),
    Guard(
        "an encryption key that left the ring is noticed",
        f"{LLM}/checks.py",
        "for key_id, rows in sorted(canary.stranded_rows().items()):",
        "for key_id, rows in ():",
        _tests("checks", "rotation"),
    ),
    Guard(
        "no new ring for a sealed database",
        "project/management/commands/up.py",
        "if canary.holds_sealed_rows():",
        "if False:",
        ("project/tests/test_up.py",),
    ),
]

ROTATION: Final = [
    Guard(
        "rotation writes only what has not changed since it was read",
        f"{LLM}/sealed_columns.py",
        'filter(pk=row.pk, **{f"{self.field.name}__unchanged": getattr(row, self.field.attname)})',
        "filter(pk=row.pk)",
        _tests("rotation"),
    ),
    Guard(
        "rotation sees rows that managers hide",
        f"{LLM}/sealed_columns.py",
        "return self.model._base_manager.all()",
        "return self.model._default_manager.all()",
        _tests("rotation"),
    ),
    Guard(
        "quarantine tells once",
        f"{LLM}/rotation.py",
        "if still.exclude(status=reentry).update(",
        "if still.update(",
        _tests("rotation"),
    ),
    Guard(
        "rotation refuses a ring that would strand rows",
        f"{LLM}/management/commands/rotate_credential_keys.py",
        "if stranded and not give_up_lost:",
        "if False:",
        _tests("rotation"),
    ),
    Guard(
        "rotation takes second factors along",
        f"{LLM}/rotation.py",
        "    second_factors.reseal()\n",
        "",
        _tests("rotation"),
    ),
    Guard(
        "the fingerprint moves with the key",
        f"{LLM}/sealed_columns.py",
        '("api_key", "fingerprint") if isinstance(row, LLMCredential) else ("api_key",)',
        '("api_key",)',
        _tests("rotation"),
    ),
    Guard(
        "a ring that lacks the key marks nothing",
        f"{LLM}/routing/marks.py",
        "if isinstance(error, CredentialUnreadable) and row.is_lost:",
        "if False:",
        _tests("rotation"),
    ),
]

AUDIT: Final = [
    Guard(
        "the event is written before the key is opened",
        f"{LLM}/opening.py",
        "    await sync_to_async(announce_opening)(credential, user_id)\n",
        "",
        _tests("audit_events"),
    ),
    Guard(
        "no key is opened inside a transaction",
        f"{LLM}/audit/opening.py",
        "with transaction.atomic(durable=True) if connection.in_atomic_block else nullcontext():",
        "with nullcontext():",
        _tests("audit_events"),
    ),
    Guard(
        "without a usable ring nothing is opened",
        f"{LLM}/audit/opening.py",
        "    except keyring.KeyringError:\n        return False\n",
        "    except keyring.KeyringError:\n        return True\n",
        _tests("audit_events"),
    ),
    Guard(
        "SQLite refuses to change an event",
        f"{LLM}/audit/guard.py",
        'for what in ("UPDATE", "DELETE")\n] + [',
        "for what in ()\n] + [",
        _tests("audit"),
    ),
    Guard(
        "SQLite refuses to replace an event",
        f"{LLM}/audit/guard.py",
        "WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id OR (shard = NEW.shard AND seq = NEW.seq))",
        "WHEN 0",
        _tests("audit"),
    ),
    Guard(
        "a missing trigger is noticed",
        f"{LLM}/audit/guard.py",
        "return names <= found",
        "return True",
        _tests("audit", "checks"),
    ),
    Guard(
        "an event's signature is checked",
        f"{LLM}/audit/verify.py",
        "if not hmac.compare_digest(event_mac(key, event), event.mac):",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "an event follows the one before it",
        f"{LLM}/audit/verify.py",
        "if event.previous != self.mac:",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "a gap between events is found",
        f"{LLM}/audit/verify.py",
        "if event.seq != self.seq + 1:",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "the end of a chain is sealed",
        f"{LLM}/audit/verify.py",
        "if head.seq and (key is None or not hmac.compare_digest(_seal(key, head), head.seal)):",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "a cut-off end is found",
        f"{LLM}/audit/verify.py",
        "if head.seq > self.seq:",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "a row past the end is found",
        f"{LLM}/audit/verify.py",
        'return self._broken(extra.seq, "the row was put in after the chain\'s end", extra)',
        "return None",
        _tests("audit"),
    ),
    Guard(
        "a checkpoint is signed",
        f"{LLM}/audit/verify.py",
        "if key is None or not hmac.compare_digest(checkpoint_seal(key, *said), checkpoint.seal):",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "an archive is signed",
        f"{LLM}/audit/archived.py",
        "if not hmac.compare_digest(archive_seal(key, count, digest), seal):",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "a broken trail is not archived",
        f"{LLM}/audit/archive.py",
        "if report.broken:",
        "if False:",
        _tests("audit"),
    ),
    Guard(
        "two writers never build on the same end",
        f"{LLM}/audit/chain.py",
        "unmoved = AuditHead.objects.filter(pk=head.shard, seq=head.seq, mac=head.mac)",
        "unmoved = AuditHead.objects.filter(pk=head.shard)",
        _tests("audit"),
    ),
    Guard(
        "reaching for what is another's is written down",
        f"{LLM}/audit/denials.py",
        'note(action=Action.ACCESS_DENIED, actor=caller, subject=str(owner), target=target, result="404")',
        "pass",
        _tests("audit_events"),
    ),
    Guard(
        "only the network of an address is kept",
        f"{LLM}/audit/context.py",
        "(address, 24 if address.version == 4 else 48)",
        "address",
        _tests("audit", "audit_events"),
    ),
    Guard(
        "without a trail an API call is a worded 503",
        f"{LLM}/api/errors.py",
        "    @api.exception_handler(AuditUnavailable)\n",
        "",
        ("project/tests/test_audit_unavailable.py",),
    ),
]

EGRESS: Final = [
    Guard(
        "an address is checked when it is saved",
        f"{LLM}/validation.py",
        "transport.check_url(text, conf.egress_policy())",
        "text",
        _tests("validation", "egress_surfaces"),
    ),
    Guard(
        "an address is checked when it is dialled",
        f"{LLM}/providers/door.py",
        "if fault := address_fault(ipaddress.ip_address(host), port, self.rules, self.granted):",
        "if fault := '':",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "every address of a name is checked",
        f"{LLM}/providers/door.py",
        "for address in addresses:\n            if fault",
        "for address in ():\n            if fault",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "redirects are not followed",
        f"{LLM}/providers/door.py",
        "data=body, allow_redirects=False",
        "data=body, allow_redirects=True",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "no proxy of the environment is used",
        f"{LLM}/providers/door.py",
        "            trust_env=False,\n",
        "            trust_env=True,\n",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "no cookie is kept",
        f"{LLM}/providers/door.py",
        "            cookie_jar=aiohttp.DummyCookieJar(),\n",
        "",
        (f"{PROVIDER_TESTS}/test_door.py",),
    ),
    Guard(
        "a new address asks for the key again",
        f"{LLM}/drafts.py",
        "if has_key and stored is not None and base_url != stored.base_url:",
        "if False:",
        _tests("services"),
    ),
    Guard(
        "a model is no path",
        f"{LLM}/validation.py",
        'fault = model_id_fault(text) or (_("A model id is no path.") if ".." in text else None)',
        "fault = None",
        _tests("validation"),
    ),
    Guard(
        "a key does not stand in an address",
        f"{LLM}/providers/egress.py",
        'if any(sign in rest for sign in "?#"):',
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py",),
    ),
    Guard(
        "no user name in an address",
        f"{LLM}/providers/egress.py",
        'if any(sign in rest for sign in "@\\\\"):',
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py",),
    ),
    Guard(
        "metadata addresses are never dialled, whatever is allowed",
        f"{LLM}/providers/egress.py",
        "if plain != _LOOPBACK_IPV6 and _within(plain, NEVER):",
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py", f"{PROVIDER_TESTS}/test_door.py"),
    ),
    Guard(
        "private addresses are dialled only where allowed",
        f"{LLM}/providers/egress.py",
        "if private and not rules.allow_address(plain, port) and (str(plain), port) not in granted:",
        "if False:",
        (f"{PROVIDER_TESTS}/test_egress.py",),
    ),
    Guard(
        "SDKs find nothing in the environment",
        "project/env.py",
        "_stripped[name] = os.environ.pop(name)",
        "_stripped[name] = os.environ[name]",
        ("project/tests/test_env.py",),
    ),
]

ACCESS: Final = [
    Guard(
        "a token's scope is asked for",
        f"{LLM}/api/auth.py",
        "if request.token is not None and not any(request.token.allows(scope) for scope in scopes):",
        "if False:",
        _tests("api_credentials"),
    ),
    Guard(
        "a revoked token is refused",
        f"{LLM}/models/tokens.py",
        "return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)",
        "return self.filter(unexpired, user__is_active=True)",
        (*_tests("services"), f"{MATRIX}::test_api_refuses_whoever_has_no_valid_token"),
    ),
    Guard(
        "an expired token is refused",
        f"{LLM}/models/tokens.py",
        "return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)",
        "return self.filter(revoked_at__isnull=True, user__is_active=True)",
        (*_tests("services"), f"{MATRIX}::test_api_refuses_whoever_has_no_valid_token"),
    ),
    Guard(
        "a token of a deactivated user is refused",
        f"{LLM}/models/tokens.py",
        "return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)",
        "return self.filter(unexpired, revoked_at__isnull=True)",
        (*_tests("services"), f"{MATRIX}::test_api_refuses_whoever_has_no_valid_token"),
    ),
    Guard(
        "the whole token is compared, not its prefix",
        f"{LLM}/live/tokens.py",
        "if hmac.compare_digest(token.hash, wanted):",
        "if True:",
        _tests("live_tokens", "services"),
    ),
    Guard(
        "a bad token is not rescued by a session",
        f"{LLM}/api/auth.py",
        "        if user is None:\n            raise ApiError(",
        "        if user is None:\n            return None\n            raise ApiError(",
        (f"{LLM_TESTS}/test_api_credentials.py::test_a_bad_token_is_refused_in_spite_of_a_session",),
    ),
    Guard(
        "the API asks sessions for a CSRF token",
        f"{LLM}/api/auth.py",
        'return cast("AbstractBaseUser | None", APIKeyCookie.__call__(self, request))',
        "return self.authenticate(request, None)",
        (f"{LLM_TESTS}/test_api_credentials.py::test_sessions_work_with_their_csrf_token_only",),
    ),
    Guard(
        "pages ask for a CSRF token",
        "project/settings.py",
        '    "django.middleware.csrf.CsrfViewMiddleware",\n',
        "",
        (f"{MATRIX}::test_post_without_csrf_token_is_refused",),
    ),
    *(
        Guard(f"a recent proof is asked for: {what}", f"{LLM}/{path}", before, after, tests, nth)
        for what, path, before, after, tests, nth in (
            (
                "saving a key",
                "views/credentials.py",
                " and not stepup.is_recent(request):",
                " and False:",
                STEPPED_UP,
                1,
            ),
            ("asking to remove a key", "views/credentials.py", STEP_UP, "    if False:\n", STEPPED_UP, 1),
            ("removing a key", "views/credentials.py", STEP_UP, "    if False:\n", STEPPED_UP, 2),
            ("the page of leaving", "views/security.py", STEP_UP, "    if False:\n", LEAVING, 1),
            ("exporting", "views/security.py", STEP_UP, "    if False:\n", LEAVING, 2),
            ("deleting the account", "views/security.py", STEP_UP, "    if False:\n", LEAVING, 3),
            ("the API with a session", "api/auth.py", "not stepup.is_recent(request)", "False", STEPPED_UP, 1),
            (
                "staff changing a key",
                "admin/bases.py",
                "if may and not stepup.is_recent(request):",
                "if False:",
                ADMIN,
                1,
            ),
            ("staff removing a key", BASES, "and not stepup.is_recent(request):", "and False:", ADMIN, 2),
            (
                "staff removing many keys",
                BASES,
                "if chosen and not stepup.is_recent(request):",
                "if False:",
                ADMIN,
                1,
            ),
        )
    ),
    Guard(
        "a proof grows old",
        f"{LLM}/stepup.py",
        "return time.time() - max(moments, default=0.0) < limit_s",
        "return bool(max(moments, default=0.0))",
        STEPPED_UP,
    ),
    Guard(
        "with a second factor only that factor is a proof",
        f"{LLM}/stepup.py",
        'if not with_factor or each["method"] == "mfa"]',
        "]",
        STEPPED_UP,
    ),
    Guard(
        "a site that asks for second factors takes no password for a proof",
        f"{LLM}/stepup.py",
        "if conf.require_second_factor() and not with_factor:\n        return False",
        "if False:\n        return False",
        STEPPED_UP,
    ),
    Guard(
        "the admin asks nothing about a key",
        f"{LLM}/admin/bases.py",
        'if any(part in _KEY_COLUMNS for part in parts) or parts[0] == "hash":',
        "if False:",
        _tests("admin"),
    ),
    Guard(
        "staff change nothing of a user's key",
        f"{LLM}/admin/credentials.py",
        "class UserCredentialAdmin(ViewOnly, RemovedKeys, UserKeyActions, MaskedKey):",
        "class UserCredentialAdmin(RemovedKeys, UserKeyActions, MaskedKey):",
        _tests("admin"),
    ),
    Guard(
        "staff's look at a key is written down",
        f"{LLM}/admin/credentials.py",
        "note(action=Action.CREDENTIAL_VIEW, subject=credential.owner_ref(), target=target)",
        "pass",
        (*_tests("admin", "audit_events"),),
    ),
    Guard(
        "staff see the key ring's page only with the permission",
        f"{LLM}/admin/system_credentials.py",
        "        if not self.has_view_permission(request):\n            raise PermissionDenied\n",
        "",
        _tests("admin"),
    ),
    Guard(
        "staff check the trail only with the permission",
        f"{LLM}/admin/audit.py",
        "        if not self.has_view_permission(request):\n            raise PermissionDenied\n",
        "",
        (f"{MATRIX}::test_admin_shows_staff_without_permission_nothing",),
    ),
]

SILENCE: Final = [
    Guard(
        "log lines are redacted",
        "project/logging.py",
        "return redact(super().format(record))",
        "return super().format(record)",
        ("project/tests/test_logging.py",),
    ),
    Guard(
        "secret fields of log lines are hidden",
        "project/logging.py",
        "if value and _SECRET_FIELD.match(name):",
        "if False:",
        ("project/tests/test_logging.py",),
    ),
    Guard(
        "error pages show no variables",
        "project/logging.py",
        "return dict.fromkeys(tb_frame.f_locals, self.cleansed_substitute).items()",
        "return tb_frame.f_locals.items()",
        ("project/tests/test_logging.py", "project/tests/test_leaks.py"),
    ),
    Guard(
        "error pages show no form values",
        "project/logging.py",
        "return dict.fromkeys(post, self.cleansed_substitute)",
        "return dict(request.POST.items())",
        ("project/tests/test_logging.py", "project/tests/test_leaks.py"),
    ),
    Guard(
        "no answer is kept by a cache",
        "project/middleware.py",
        '    headers.setdefault("Cache-Control", "no-store, private")\n',
        "",
        ("project/tests/test_middleware.py",),
    ),
    Guard(
        "an expired token that is remembered is refused",
        f"{LLM}/live/tokens.py",
        "return None if time.time() >= kept.expires_at else kept.token",
        "return kept.token",
        _tests("live_tokens"),
    ),
    Guard(
        "a remembered token is asked for again after a change",
        f"{LLM}/live/tokens.py",
        " or not listener.is_sure(kept.read_at):",
        ":",
        _tests("live_tokens"),
    ),
    Guard(
        "pages run no script but ours",
        "project/middleware.py",
        '    headers.setdefault("Content-Security-Policy", settings.CONTENT_SECURITY_POLICY)\n',
        "",
        ("project/tests/test_middleware.py", "project/tests/test_settings.py"),
    ),
    Guard(
        "an export holds no key",
        f"{LLM}/leaving.py",
        "if field.name not in NEVER and field.name not in without",
        "if field.name not in without",
        ("project/tests/test_leaving.py",),
    ),
    Guard(
        "a pasted token of this site is no key",
        f"{LLM}/validation.py",
        "if key.startswith(TOKEN_PREFIX):",
        "if False:",
        _tests("validation"),
    ),
    Guard(
        "the mask of a key is no key",
        f"{LLM}/validation.py",
        "if _MASK.fullmatch(key):",
        "if False:",
        _tests("validation"),
    ),
    Guard(
        "a key of strange characters is refused",
        f"{LLM}/validation.py",
        "if not _VISIBLE_ASCII.issuperset(key):",
        "if False:",
        _tests("validation"),
    ),
    Guard(
        "no key in a field that shows",
        f"{LLM}/validation.py",
        "return len(text) >= 20 and bool(prefixes) and text.startswith(prefixes)",
        "return False",
        _tests("validation"),
    ),
    Guard(
        "an unsaved key is destroyed when its test ends",
        f"{LLM}/connection_tests/running.py",
        "            row.api_key = None\n",
        "            pass\n",
        _tests("connection_tests"),
    ),
    Guard(
        "an unsaved key that nobody tests is destroyed",
        f"{LLM}/connection_tests/expiring.py",
        "        api_key=None,\n        detail=",
        "        detail=",
        _tests("connection_tests"),
    ),
]

USE: Final = [
    Guard(
        "a client is kept by the version of its key",
        f"{LLM}/opening.py",
        "credential.pk, credential.version, credential.base_url)",
        "credential.pk, credential.base_url)",
        _tests("factory"),
    ),
    Guard(
        "use of an older version blames no newer key",
        f"{LLM}/routing/marks.py",
        "filter(pk=row.pk, version=row.version)",
        "filter(pk=row.pk)",
        _tests("router"),
    ),
    Guard(
        "a test of an older version blames no newer key",
        f"{LLM}/connection_tests/running.py",
        "filter(pk=test.credential_id, version=version)",
        "filter(pk=test.credential_id)",
        _tests("connection_tests"),
    ),
    Guard(
        "a key that was turned off is not used",
        f"{LLM}/routing/faults.py",
        "        if not key.is_active:\n",
        "        if False:\n",
        _tests("resolve"),
    ),
    Guard(
        "a failing destination is left alone",
        f"{LLM}/routing/health.py",
        "if mine >= FAILURES:",
        "if False:",
        _tests("health"),
    ),
    Guard(
        "a call beyond the budget is refused",
        f"{LLM}/ledger/budgets.py",
        "if used_e8 < limit_e8 and used_e8 + e8(worst_usd) <= limit_e8:",
        "if True:",
        _tests("ledger"),
    ),
    Guard(
        "a call beyond the budget is refused by its counter",
        f"{LLM}/ledger/budgets.py",
        " AND used_e8 + %s < %s AND used_e8 + %s <= %s",
        " AND used_e8 + %s < 9 + %s + used_e8 AND used_e8 + %s <= 9 + %s + used_e8 * 2",
        _tests("ledger"),
    ),
    Guard(
        "what is reserved counts",
        f"{LLM}/ledger/budgets.py",
        'When(state=_State.RESERVED, then=F("reserved_usd"))',
        'When(state=_State.RESERVED, then=F("cost_usd"))',
        _tests("ledger"),
    ),
    Guard(
        "connection tests are limited",
        f"{LLM}/limits.py",
        'if usage["should_limit"]:',
        "if False:",
        _tests("connection_tests"),
    ),
    Guard(
        "an answer is sanitised",
        "agents/markdown.py",
        "return _clean(_parser().render(_encodable(text)))",
        "return mark_safe(text)",
        ("agents/tests/test_markdown.py",),
    ),
    Guard(
        "workers take JSON alone",
        "project/settings.py",
        'CELERY_ACCEPT_CONTENT = ["json"]',
        'CELERY_ACCEPT_CONTENT = ["json", "pickle"]',
        ("project/tests/test_queue.py",),
    ),
]

INPUT: Final = [
    Guard(
        "what is allowed is checked as what is dialled",
        f"{LLM}/models/egress.py",
        "            self.host = normal_host(self.host, self.port)\n",
        "            pass\n",
        _tests("egress_allowances"),
    ),
    Guard(
        "an allowance written past the form opens nothing",
        f"{LLM}/egress.py",
        "            entry = allowance(host, port)\n",
        '            entry = f"{host}:{port}"\n',
        _tests("egress_allowances"),
    ),
    Guard(
        "no network with a metadata address in it is allowed",
        f"{LLM}/providers/egress.py",
        "if not loopback and any(network.version == other.version and network.overlaps(other) for other in NEVER):",
        "if False:",
        _tests("egress_allowances"),
    ),
    Guard(
        "no network is allowed that is wider than anybody's own",
        f"{LLM}/providers/egress.py",
        'return "This network is too wide. Name the hosts that are meant." if wide else None',
        "return None",
        _tests("egress_allowances"),
    ),
    Guard(
        "what is allowed for keys is not allowed for pages",
        f"{LLM}/egress.py",
        'listed, given = conf.egress_allow() if surface == "providers" else (), allowed[surface]',
        'listed, given = conf.egress_allow(), allowed["providers"] | allowed["tools"]',
        _tests("egress_allowances"),
    ),
    Guard(
        "each hop of a page is checked",
        f"{LLM}/providers/fetch.py",
        "url = check_page(_joined(url, target), egress)",
        "url = _joined(url, target)",
        (f"{PROVIDER_TESTS}/test_fetch.py",),
    ),
    Guard(
        "a page is read to its limit alone",
        f"{LLM}/providers/fetch.py",
        "            if len(held) > max_bytes:\n                break\n",
        "",
        (f"{PROVIDER_TESTS}/test_fetch.py",),
    ),
    Guard(
        "pages of other kinds are left unread",
        f"{LLM}/providers/fetch.py",
        "if not content_type.startswith(accept):",
        "if False:",
        (f"{PROVIDER_TESTS}/test_fetch.py",),
    ),
    Guard(
        "no name stands twice in a body",
        f"{LLM}/api/body.py",
        "        _refuse_doubles(request.body)\n",
        "",
        _tests("api_strict"),
    ),
    Guard(
        "bodies are not nested without end",
        f"{LLM}/api/body.py",
        "if depth > MAX_DEPTH:",
        "if False:",
        _tests("api_strict"),
    ),
    Guard(
        "bodies are JSON and say so",
        f"{LLM}/api/body.py",
        'if request.content_type not in ("application/json", ""):',
        "if False:",
        _tests("api_strict"),
    ),
    Guard(
        "a body that does not say its length is counted",
        "project/bodies.py",
        'return {"type": "http.disconnect"} if received > self.max_bytes else message',
        "return message",
        ("project/tests/test_bodies.py",),
    ),
    Guard(
        "a body that says it is too large is not read",
        "project/bodies.py",
        "if _told(scope) > self.max_bytes:",
        "if False:",
        ("project/tests/test_bodies.py",),
    ),
    Guard(
        "no NUL in an address",
        "project/middleware.py",
        'raise BadRequest("NUL in the address")',
        "return",
        ("project/tests/test_middleware.py", f"{LLM_TESTS}/test_api_strict.py"),
    ),
    Guard(
        "what is somebody's own stays in no cache",
        "project/middleware.py",
        '    headers.setdefault("Cache-Control", "no-store, private")\n',
        "",
        ("project/tests/test_middleware.py",),
    ),
]

SECOND: Final = [
    Guard(
        "no statement about users' rows unless somebody said whose",
        f"{LLM}/wall/statements.py",
        "    table = named_in(sql)\n",
        "    table = None\n",
        ("project/tests/test_wall.py",),
    ),
    Guard(
        "work for one user stays with that user",
        f"{LLM}/wall/standing.py",
        "    if now not in (None, EVERYBODY, wanted) and wanted != NOBODY:\n",
        "    if False:\n",
        ("project/tests/test_wall.py",),
    ),
    Guard(
        "no stored key in a request",
        f"{LLM}/routed_client.py",
        "            loaded.tripwire.refuse(leaving)\n",
        "            pass\n",
        ("agents/tests/test_tripwire.py",),
    ),
    Guard(
        "no stored key in a message",
        "agents/services.py",
        "    if secret := tripwire_for(user).name_in(text):\n",
        "    if secret := None:\n",
        ("agents/tests/test_tripwire.py",),
    ),
    Guard(
        "no stored key in a tool's answer",
        "agents/calling.py",
        "content=guard.redacted(answer) if guard else answer",
        "content=answer",
        ("agents/tests/test_tripwire.py",),
    ),
]

GUARDS: Final = [*SECOND, *OWN_ROWS, *SEALING, *ROTATION, *AUDIT, *EGRESS, *ACCESS, *SILENCE, *USE, *INPUT]
