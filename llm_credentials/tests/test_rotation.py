from __future__ import annotations

import io
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import decrypt, encrypt
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.utils import timezone

from llm_credentials import canary, rotation, services
from llm_credentials.audit.verify import verify
from llm_credentials.models import AuditEvent, ConnectionTest, KeyringCanary, SystemCredential, UserCredential
from llm_credentials.sealed_columns import sealed_columns
from llm_credentials.tests.rotating import BOTH, NEW, OLD, places_of, sealed_under_the_old_key
from llm_credentials.tests.sealed_text import put_text, stored_text
from project.tests.servers import wait_until


def run(*args: str) -> str:
    out = io.StringIO()
    call_command("rotate_credential_keys", *args, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture
def keys(db: Any) -> dict[Any, str]:
    return sealed_under_the_old_key()


def all_rows() -> list[Any]:
    return [
        *UserCredential.objects.filter(api_key__isnull=False),
        *SystemCredential.objects.all(),
        *ConnectionTest.objects.all(),
    ]


def test_rotation_moves_every_row_and_then_the_old_key_may_go(keys: dict[Any, str], settings: Any) -> None:
    versions = {row.pk: row.version for row in UserCredential.objects.all()}
    settings.CREDENTIAL_KEYS = BOTH
    report = lines(run("--batch", "2"))
    assert report == [
        "CURRENT 9 sealed under n1",
        "EMPTY 1 without a key",
        "The key t1 may be dropped from CREDENTIAL_KEYS.",
        "9 re-sealed, 0 replaced by their owners meanwhile, 0 that do not open.",
    ]
    settings.CREDENTIAL_KEYS = NEW
    assert {row.pk: row.reveal() for row in all_rows()} == keys
    assert {row.api_key.key_id for row in all_rows()} == {"n1"}
    assert {row.pk: row.version for row in UserCredential.objects.all()} == versions
    assert canary.stranded_rows() == {}


def test_rotation_again_finds_nothing_to_do(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = BOTH
    run()
    before = [stored_text(row) for row in all_rows()]
    assert "0 re-sealed" in run()
    assert [stored_text(row) for row in all_rows()] == before


def test_dry_run_writes_nothing(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = BOTH
    before = [stored_text(row) for row in all_rows()]
    report = lines(run("--dry-run"))
    assert "OLD 9 sealed under t1" in report
    assert "The key t1 is still needed." in report
    assert "Nothing was written. 9 rows would be re-sealed." in report
    assert [stored_text(row) for row in all_rows()] == before
    assert list(KeyringCanary.objects.values_list("key_id", flat=True)) == ["t1"]


def test_rotation_goes_on_where_it_was_broken_off(
    keys: dict[Any, str], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CREDENTIAL_KEYS = BOTH
    done = 0

    def killed_after_four(rows: int) -> None:
        nonlocal done
        done += rows
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotation.rotate(batch=2, tell=killed_after_four)
    assert rotation.figures().old == {"t1": 5}
    assert {row.pk: row.reveal() for row in all_rows()} == keys
    run()
    assert rotation.figures().old == {}
    assert {row.pk: row.reveal() for row in all_rows()} == keys


def test_rotation_leaves_a_key_that_its_owner_replaced_meanwhile(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = BOTH
    row = UserCredential.objects.filter(api_key__isnull=False).first()
    assert row is not None
    services.credential_save(user=row.user, provider=row.provider, api_key="sk-replaced-meanwhile-0123456789")
    moved = rotation.Moved()
    (column,) = [each for each in sealed_columns() if each.model is UserCredential]
    rotation._move(column, [row], moved)
    assert (moved.resealed, moved.changed_meanwhile) == (0, 1)
    assert UserCredential.objects.get(pk=row.pk).reveal() == "sk-replaced-meanwhile-0123456789"


def test_rotation_quarantines_what_does_not_open_and_leaves_its_bytes(keys: dict[Any, str], settings: Any) -> None:
    broken, fine = UserCredential.objects.filter(api_key__isnull=False)[:2]
    put_text(broken, stored_text(fine))
    before = stored_text(broken)
    settings.CREDENTIAL_KEYS = BOTH
    report = lines(run())
    assert "UNREADABLE 1 sealed under t1" in report
    assert "8 re-sealed, 0 replaced by their owners meanwhile, 1 that do not open." in report
    assert "The key t1 may be dropped from CREDENTIAL_KEYS." in report
    broken.refresh_from_db()
    assert (broken.status, broken.status_detail) == ("needs_reentry", rotation.QUARANTINED)
    assert stored_text(broken) == before
    settings.CREDENTIAL_KEYS = NEW
    assert canary.stranded_rows() == {}


def test_verify_finds_tampered_rows_under_the_current_key_too(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = BOTH
    run()
    broken, fine = UserCredential.objects.filter(api_key__isnull=False)[:2]
    put_text(broken, stored_text(fine))
    report = lines(run("--verify"))
    assert "Verified: 1 rows do not open." in report
    assert UserCredential.objects.get(pk=broken.pk).status == "needs_reentry"
    assert UserCredential.objects.get(pk=fine.pk).status == "unverified"


def test_rotation_refuses_when_a_key_has_left_the_ring(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = NEW
    with pytest.raises(CommandError, match="9 rows are sealed under 't1', which CREDENTIAL_KEYS does not hold"):
        run()
    assert not UserCredential.objects.filter(status="needs_reentry").exists()


def test_lost_key_given_up_and_found_again(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = NEW
    assert "UNREADABLE 9 sealed under t1" in lines(run("--give-up-lost"))
    assert UserCredential.objects.filter(status="needs_reentry").count() == 7
    settings.CREDENTIAL_KEYS = BOTH
    run()
    assert not UserCredential.objects.filter(status="needs_reentry").exists()
    assert {row.pk: row.reveal() for row in all_rows()} == keys


def test_rotation_refuses_a_replaced_key_under_the_same_id(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = NEW.replace("n1:", "t1:")
    for args in ((), ("--give-up-lost",), ("--dry-run",)):
        with pytest.raises(CommandError, match="is not the one that this database was sealed with"):
            run(*args)
    assert not UserCredential.objects.filter(status="needs_reentry").exists()


@pytest.mark.parametrize(
    ("ring", "args"), [("", ()), ("nonsense", ()), (BOTH, ("--batch", "0")), (BOTH, ("--batch", "x"))]
)
def test_rotation_bad_input_is_a_clear_error(db: Any, settings: Any, ring: str, args: tuple[str, ...]) -> None:
    settings.CREDENTIAL_KEYS = ring
    with pytest.raises(CommandError) as caught:
        run(*args)
    assert "nonsense" not in str(caught.value)


def test_check_deploy_refuses_a_ring_that_would_strand_rows(keys: dict[Any, str], settings: Any) -> None:
    settings.CREDENTIAL_KEYS = NEW
    ids = {message.id for message in run_checks(include_deployment_checks=True)}
    assert "llm_credentials.E004" in ids
    settings.CREDENTIAL_KEYS = BOTH
    ids = {message.id for message in run_checks(include_deployment_checks=True)}
    assert "llm_credentials.E004" not in ids


def test_rotation_takes_second_factors_along(db: Any, alice: Any, settings: Any) -> None:
    """Or whoever has one could not log in any more once the old key is dropped."""
    settings.CREDENTIAL_KEYS = OLD
    totp = Authenticator.objects.create(user=alice, type="totp", data={"secret": encrypt("totp-secret")})
    codes = {"seed": encrypt("seed"), "used_mask": 3, "migrated_codes": [encrypt("code-1"), encrypt("code-2")]}
    recovery = Authenticator.objects.create(user=alice, type="recovery_codes", data=codes)
    settings.CREDENTIAL_KEYS = NEW
    assert canary.stranded_rows() == {"t1": 2}
    settings.CREDENTIAL_KEYS = BOTH
    assert rotation.kept_elsewhere() == {"t1"}
    call_command("rotate_credential_keys", stdout=io.StringIO())
    settings.CREDENTIAL_KEYS = NEW
    totp.refresh_from_db()
    recovery.refresh_from_db()
    assert decrypt(totp.data["secret"]) == "totp-secret"
    assert [decrypt(code) for code in recovery.data["migrated_codes"]] == ["code-1", "code-2"]
    assert (decrypt(recovery.data["seed"]), recovery.data["used_mask"]) == ("seed", 3)
    assert canary.stranded_rows() == {}


def test_rotation_says_that_a_key_is_needed_by_a_factor_that_does_not_open(db: Any, alice: Any, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = OLD
    broken = encrypt("totp-secret")[:-8] + "AAAAAAA="
    Authenticator.objects.create(user=alice, type="totp", data={"secret": broken})
    settings.CREDENTIAL_KEYS = BOTH
    out = io.StringIO()
    call_command("rotate_credential_keys", stdout=out)
    assert "The key t1 is still needed." in out.getvalue()
    assert Authenticator.objects.get().data == {"secret": broken}


def test_rotation_takes_audit_keys_along(db: Any, alice: Any, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = OLD
    services.settings_update(user=alice, alerts=False)
    settings.CREDENTIAL_KEYS = BOTH
    call_command("rotate_credential_keys", stdout=io.StringIO())
    settings.CREDENTIAL_KEYS = NEW
    services.settings_update(user=alice, alerts=True)
    assert verify().holds


# Who is told, and what two at once do


def mails_to(user: Any, mailoutbox: list[Any]) -> list[Any]:
    """About keys that must be entered again."""
    return [mail for mail in mailoutbox if mail.to == [user.email] and "entered again" in mail.subject]


@pytest.mark.django_db(transaction=True)
def test_owner_is_told_once_that_a_key_must_be_entered_again(
    alice: Any, bob: Any, settings: Any, mailoutbox: list[Any], celery_worker_thread: Any
) -> None:
    for user in (alice, bob):
        services.credential_save(user=user, provider="openai", api_key=f"sk-told-{user.pk}-0123456789")
    broken = UserCredential.objects.get(user=alice)
    put_text(broken, stored_text(UserCredential.objects.get(user=bob)))
    settings.CREDENTIAL_KEYS = BOTH
    for _ in range(3):
        run("--verify")
    (mail,) = wait_until(lambda: mails_to(alice, mailoutbox), "the mail")
    assert "OpenAI" in mail.subject
    assert mails_to(bob, mailoutbox) == []
    assert AuditEvent.objects.filter(action="credential.quarantine").count() == 1


def test_owner_who_was_told_by_use_is_not_told_again(
    alice: Any, settings: Any, mailoutbox: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    services.credential_save(user=alice, provider="openai", api_key="sk-told-0123456789")
    row = UserCredential.objects.get(user=alice)
    put_text(row, "v1:t1:cut")
    UserCredential.objects.update(status="needs_reentry", status_detail="as use said")
    settings.CREDENTIAL_KEYS = BOTH
    with django_capture_on_commit_callbacks(execute=True):
        run()
    assert mails_to(alice, mailoutbox) == []
    assert not AuditEvent.objects.filter(action="credential.quarantine").exists()
    assert UserCredential.objects.get().status_detail == rotation.QUARANTINED


def test_rotation_takes_along_what_is_removed_and_may_come_back(keys: dict[Any, str], settings: Any) -> None:
    removed = UserCredential.objects.filter(api_key__isnull=False)[3]
    UserCredential.objects.filter(pk=removed.pk).update(removed_at=timezone.now())
    settings.CREDENTIAL_KEYS = BOTH
    run()
    settings.CREDENTIAL_KEYS = NEW
    assert UserCredential.with_removed.get(pk=removed.pk).reveal() == keys[removed.pk]


def test_no_sealed_text_is_left_anywhere_in_the_database(keys: dict[Any, str], alice: Any, settings: Any) -> None:
    """Columns that nobody thought of would show here; the canary of the old key is what it is."""
    Authenticator.objects.create(user=alice, type="totp", data={"secret": encrypt("totp-secret")})
    settings.CREDENTIAL_KEYS = BOTH
    run()
    assert places_of("v1:t1:") == {"keyring_canaries"}
    assert places_of("v1:n1:") > {"user_llm_credentials", "system_llm_credentials", "mfa_authenticator", "audit_keys"}


def test_bar_is_drawn_on_a_terminal_and_ends_its_line_once(
    keys: dict[Any, str], settings: Any, monkeypatch: Any
) -> None:
    settings.CREDENTIAL_KEYS = BOTH
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    err = io.StringIO()
    call_command("rotate_credential_keys", "--batch", "4", stdout=io.StringIO(), stderr=err)
    assert err.getvalue().endswith(f"Re-sealing {'#' * 40} 9/9\n")
    assert err.getvalue().count("\n") == 1
    assert "Re-sealing #################" in err.getvalue().split("\r")[1]
