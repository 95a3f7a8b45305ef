"""Who calls, with what right, and whether it is really they."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, LLM_TESTS, MATRIX, Guard, tests

STEP_UP = "    if not stepup.is_recent(request):\n"
STEPPED_UP = (f"{LLM_TESTS}/test_stepup.py",)
LEAVING = ("project/tests/test_leaving.py", f"{LLM_TESTS}/test_stepup.py")
BASES = "admin/bases.py"
ADMIN = (f"{LLM_TESTS}/test_admin.py", f"{LLM_TESTS}/test_stepup_admin.py")

ACCESS: Final = [
    Guard(
        "what was made before an address was proven ends",
        f"{LLM}/reclaiming.py",
        "            token_revoke(user=user, token_id=token_id)\n",
        "            pass\n",
        ("project/tests/test_accounts.py",),
    ),
    Guard(
        "what a token made is revoked with it",
        f"{LLM}/access_tokens.py",
        "            token_revoke(user=user, token_id=made_id)\n",
        "            pass\n",
        tests("tokens"),
    ),
    Guard(
        "accounts in the admin ask for a recent proof",
        "project/admin.py",
        "class AuditedUserAdmin(ProvenChanges, AuditedChanges, _UserAdmin):",
        "class AuditedUserAdmin(AuditedChanges, _UserAdmin):",
        tests("stepup_admin"),
    ),
    Guard(
        "another's password in the admin asks for a recent proof",
        "project/admin.py",
        "if self.has_change_permission(request) and not stepup.is_recent(request):",
        "if False:",
        tests("stepup_admin"),
    ),
    Guard(
        "a token's scope is asked for",
        f"{LLM}/api/auth.py",
        "if request.token is not None and not any(request.token.allows(scope) for scope in scopes):",
        "if False:",
        tests("api_credentials"),
    ),
    Guard(
        "a revoked token is refused",
        f"{LLM}/models/tokens.py",
        "return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)",
        "return self.filter(unexpired, user__is_active=True)",
        (*tests("access_tokens"), f"{MATRIX}::test_api_refuses_whoever_has_no_valid_token"),
    ),
    Guard(
        "an expired token is refused",
        f"{LLM}/models/tokens.py",
        "return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)",
        "return self.filter(revoked_at__isnull=True, user__is_active=True)",
        (*tests("access_tokens"), f"{MATRIX}::test_api_refuses_whoever_has_no_valid_token"),
    ),
    Guard(
        "a token of a deactivated user is refused",
        f"{LLM}/models/tokens.py",
        "return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)",
        "return self.filter(unexpired, revoked_at__isnull=True)",
        (*tests("access_tokens"), f"{MATRIX}::test_api_refuses_whoever_has_no_valid_token"),
    ),
    Guard(
        "the whole token is compared, not its prefix",
        f"{LLM}/live/tokens.py",
        "if hmac.compare_digest(token.hash, wanted):",
        "if True:",
        tests("live_tokens", "access_tokens"),
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
        tests("admin"),
    ),
    Guard(
        "staff change nothing of a user's key",
        f"{LLM}/admin/credentials.py",
        "class UserCredentialAdmin(ViewOnly, RemovedKeys, UserKeyActions, MaskedKey):",
        "class UserCredentialAdmin(RemovedKeys, UserKeyActions, MaskedKey):",
        tests("admin"),
    ),
    Guard(
        "staff's look at a key is written down",
        f"{LLM}/admin/credentials.py",
        "note(action=Action.CREDENTIAL_VIEW, subject=credential.owner_ref(), target=target)",
        "pass",
        (*tests("admin", "audit_events"),),
    ),
    Guard(
        "staff see the key ring's page only with the permission",
        f"{LLM}/admin/system_credentials.py",
        "        if not self.has_view_permission(request):\n            raise PermissionDenied\n",
        "",
        tests("admin"),
    ),
    Guard(
        "staff check the trail only with the permission",
        f"{LLM}/admin/audit.py",
        "        if not self.has_view_permission(request):\n            raise PermissionDenied\n",
        "",
        (f"{MATRIX}::test_admin_shows_staff_without_permission_nothing",),
    ),
]
