"""The second wall: with the first one taken away, nothing of others comes out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.db import DatabaseError, connection, models, transaction
from django.test import Client

from agents.models import AgentRun, Conversation, StoredMessage
from agents.tests.factories import ConversationFactory, StoredMessageFactory
from llm_credentials import services
from llm_credentials.models import (
    PersonalAccessToken,
    UserCredential,
)
from llm_credentials.tests.factories import (
    UserCredentialFactory,
)
from llm_credentials.wall import WallClosed, acting_for, open_for, policies, statements, tables
from project.tests import walled_rows
from project.tests.servers import nothing_open
from project.tests.walled_rows import MODELS, on_postgresql

pytestmark = pytest.mark.django_db
alices = walled_rows.alices  # the fixture


# The registry


def test_every_model_that_leads_to_a_user_is_behind_the_wall_or_left_out_by_name() -> None:
    assert tables.undecided() == [], "call wall.owned() or wall.leave_out() for these, beside the app's models"


def test_registry_notices_a_model_that_nobody_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tables._owned, "agents_agentrun")
    monkeypatch.delitem(tables._left_out, "admin.logentry")
    assert tables.undecided() == ["admin.LogEntry", "agents.AgentRun"]


@on_postgresql
def test_every_owned_table_has_its_policy() -> None:
    assert policies.missing(connection) == []
    assert not policies.role_passes_through(connection), "the role of the tests must be held to them"


def test_thread_begins_with_nothing_open(alice: User) -> None:
    refused = []

    def look() -> None:
        try:
            UserCredential.objects.count()
        except WallClosed as error:
            refused.append(error)
        finally:
            connection.close()

    with nothing_open():
        thread = threading.Thread(target=look)
        thread.start()
    thread.join()
    assert refused


@on_postgresql
def test_database_itself_shows_nothing_without_the_setting(
    alices: dict[type[models.Model], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "named_in", lambda sql: None)
    with connection.cursor() as cursor:
        # Within a test's one transaction, what earlier statements said would still count.
        cursor.execute("SELECT set_config('keyswitch.user_id', '', true)")
    assert [model._default_manager.count() for model in MODELS] == [0] * len(MODELS)


# Whose


@on_postgresql
@pytest.mark.parametrize("model", MODELS)
def test_rows_of_others_are_not_there(model: Any, alices: dict[Any, Any], alice: User, bob: User) -> None:
    """With no ``for_user`` at all: reading, changing and deleting by the very key."""
    rows = model._default_manager.filter(pk=alices[model].pk)
    with acting_for(bob.pk):
        assert not model._default_manager.exists()
        assert rows.update(**{rows.model._meta.pk.attname: alices[model].pk}) == 0
        assert rows.delete()[0] == 0
    with acting_for(alice.pk):
        assert rows.count() == 1


@on_postgresql
def test_row_cannot_be_made_for_another(alice: User, bob: User) -> None:
    with acting_for(bob.pk), pytest.raises(DatabaseError, match="row-level security"), transaction.atomic():
        ConversationFactory(user=alice)


@on_postgresql
def test_row_cannot_be_given_to_another(alices: dict[Any, Any], alice: User, bob: User) -> None:
    with acting_for(alice.pk), pytest.raises(DatabaseError, match="row-level security"), transaction.atomic():
        Conversation.objects.update(user=bob)


@on_postgresql
def test_message_cannot_be_put_into_anothers_conversation(alices: dict[Any, Any], bob: User) -> None:
    with acting_for(bob.pk), pytest.raises(DatabaseError, match="row-level security"), transaction.atomic():
        StoredMessageFactory(conversation=alices[Conversation])


def test_what_is_done_for_one_user_cannot_turn_to_another(alice: User, bob: User) -> None:
    with acting_for(alice.pk):
        with acting_for(alice.pk):
            pass
        with pytest.raises(WallClosed), acting_for(bob.pk):
            pass
    with open_for("a sweep"), acting_for(bob.pk):
        pass


@pytest.mark.parametrize("odd", ["1'; DROP TABLE llm_settings; --", "*", "1 OR true", "x" * 65])
def test_owner_is_an_id_and_nothing_else(odd: str) -> None:
    with pytest.raises(ValueError, match="no user's id"), acting_for(odd):
        pass


@on_postgresql
def test_tasks_of_one_loop_see_each_their_own(transactional_db: None, alice: User, bob: User) -> None:
    ConversationFactory(user=alice, title="a")
    ConversationFactory(user=bob, title="b")

    async def titles(user: User) -> set[str]:
        seen: set[str] = set()
        with acting_for(user.pk):
            for _ in range(10):
                seen |= set(await sync_to_async(lambda: list(Conversation.objects.values_list("title", flat=True)))())
                await asyncio.sleep(0)
        return seen

    async def both() -> list[set[str]]:
        return await asyncio.gather(titles(alice), titles(bob))

    assert async_to_sync(both)() == [{"a"}, {"b"}]


# The first wall taken away


@pytest.fixture
def without_for_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in MODELS:
        queryset = type(model._default_manager.all())
        if hasattr(queryset, "for_user"):
            monkeypatch.setattr(queryset, "for_user", lambda self, user: self.all())


@on_postgresql
@pytest.mark.parametrize(
    "address",
    ["/settings/llm/", "/conversations/", "/runs/", "/agents/", "/api/user/llm-credentials"],
)
def test_pages_show_nothing_of_others_without_for_user(
    address: str, alices: dict[Any, Any], bob: User, without_for_user: None, client: Client
) -> None:
    client.force_login(bob)
    answer = client.get(address, follow=True)
    assert answer.status_code == 200
    text = answer.content.decode()
    assert "lice" not in text
    assert alices[UserCredential].last4 not in text
    assert str(alices[Conversation].pk) not in text


@on_postgresql
def test_addresses_of_others_are_missing_without_for_user(
    alices: dict[Any, Any], bob: User, without_for_user: None, client: Client
) -> None:
    client.force_login(bob)
    for row in (alices[Conversation], alices[AgentRun]):
        assert client.get(row.get_absolute_url()).status_code == 404
    with pytest.raises(PersonalAccessToken.DoesNotExist), acting_for(bob.pk):
        services.token_revoke(user=bob, token_id=alices[PersonalAccessToken].pk)
    alices[PersonalAccessToken].refresh_from_db()
    assert alices[PersonalAccessToken].revoked_at is None


@on_postgresql
def test_api_shows_a_tokens_owner_their_own_without_for_user(
    alices: dict[Any, Any], bob: User, without_for_user: None, client: Client
) -> None:
    UserCredentialFactory(user=bob, name="bobs-own", provider="groq")
    _, secret = services.token_create(user=bob)
    answer = client.get("/api/user/llm-credentials", headers={"Authorization": f"Bearer {secret}"})
    assert [item["name"] for item in answer.json()["items"]] == ["bobs-own"]


@on_postgresql
def test_staff_see_others_in_the_admin_alone(
    alices: dict[Any, Any], staff: User, without_for_user: None, client: Client
) -> None:
    client.force_login(staff)
    assert "alices-own" in client.get("/admin/llm_credentials/usercredential/").content.decode()
    assert "alices-own" not in client.get("/settings/llm/").content.decode()


# The database's side


@on_postgresql
@pytest.mark.parametrize("in_transaction", [True, False])
def test_nothing_outlives_the_transaction(transactional_db: None, alice: User, bob: User, in_transaction: bool) -> None:
    """A pooler may give the same connection to anybody after each transaction."""
    ConversationFactory(user=alice, title="a")
    ConversationFactory(user=bob, title="b")
    for user, title in [(alice, "a"), (bob, "b")] * 3:
        with acting_for(user.pk):
            if in_transaction:
                with transaction.atomic():
                    assert Conversation.objects.get().title == title
            else:
                assert Conversation.objects.get().title == title
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('keyswitch.user_id', true)")
            assert cursor.fetchone()[0] in (None, "")


@on_postgresql
def test_savepoint_that_is_rolled_back_changes_nothing(alices: dict[Any, Any], bob: User) -> None:
    with acting_for(bob.pk), transaction.atomic():
        with open_for("looking"):
            transaction.savepoint_rollback(transaction.savepoint())
            assert Conversation.objects.count() == 1
        assert Conversation.objects.count() == 0


@on_postgresql
@pytest.mark.parametrize("in_transaction", [True, False])
def test_server_side_cursors_are_held_to_it(
    transactional_db: None, alice: User, bob: User, in_transaction: bool
) -> None:
    ConversationFactory(user=alice)
    mine = ConversationFactory(user=bob)

    def look() -> list[Any]:
        return [row.pk for row in Conversation.objects.iterator(chunk_size=1)]

    with acting_for(bob.pk):
        if in_transaction:
            with transaction.atomic():
                assert look() == [mine.pk]
        else:
            assert look() == [mine.pk]


@on_postgresql
def test_many_statements_at_once_are_held_to_it(alices: dict[Any, Any], alice: User, bob: User) -> None:
    sql = "UPDATE agents_conversation SET title = %s"
    for user, title in ((bob, "Bob was here"), (alice, "Mine")):
        with acting_for(user.pk), connection.cursor() as cursor:
            cursor.executemany(sql, [[title], [title]])
    alices[Conversation].refresh_from_db()
    assert alices[Conversation].title == "Mine"


def test_own_rows_go_with_what_hangs_on_them(alices: dict[Any, Any], alice: User) -> None:
    with acting_for(alice.pk):
        alices[Conversation].delete()
    assert not StoredMessage.objects.exists()


def test_constraints_count_rows_that_cannot_be_seen(alices: dict[Any, Any], alice: User) -> None:
    """Unique keys and foreign keys hold across the wall, as the database sees to them above it."""
    with acting_for(alice.pk), pytest.raises(DatabaseError), transaction.atomic():
        UserCredentialFactory(user=alice, name="alices-own")


@on_postgresql
def test_policies_go_and_come_back_with_the_setting(alices: dict[Any, Any], bob: User, settings: Any) -> None:
    connection.check_constraints()  # none waits any more for the end of this test's transaction
    settings.DATABASE_ROW_SECURITY = False
    assert len(policies.align(connection)) == len(tables.all_owned())
    with acting_for(bob.pk):
        assert Conversation.objects.count() == 1
    settings.DATABASE_ROW_SECURITY = True
    policies.align(connection)
    assert policies.align(connection) == []
    with acting_for(bob.pk):
        assert Conversation.objects.count() == 0


@on_postgresql
@pytest.mark.parametrize(
    "harm",
    [
        "ALTER TABLE llm_settings NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE llm_settings DISABLE ROW LEVEL SECURITY",
        'ALTER POLICY "{policy}" ON llm_settings RENAME TO keyswitch_owner_of_old',
        'DROP POLICY "{policy}" ON llm_settings',
    ],
)
def test_missing_policy_is_reported_and_mended_by_migrate(harm: str) -> None:
    policy = policies._policy(tables._owned["llm_settings"], connection)[0]
    with connection.cursor() as cursor:
        cursor.execute(harm.format(policy=policy))
    found = {message.id: message.msg for message in run_checks(databases=["default"])}
    assert "llm_settings" in found["llm_credentials.W021"]
    policies.after_migrate("default")
    assert policies.missing(connection) == []


@on_postgresql
def test_role_above_the_policies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "role_passes_through", lambda using: True)
    assert "llm_credentials.W020" in {message.id for message in run_checks(databases=["default"])}


# Entrances


@pytest.fixture
def seen_by_view(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str | None]]:
    from llm_credentials.wall import standing

    seen: list[str | None] = []
    monkeypatch.setattr(statements, "whose", lambda: seen.append(standing.whose()) or standing.whose())
    return lambda: seen


def test_request_opens_its_users_rows_and_leaves_nothing_open(
    alice: User, client: Client, seen_by_view: Callable[[], list[str | None]]
) -> None:
    client.force_login(alice)
    with nothing_open():
        assert client.get("/settings/llm/").status_code == 200
        assert set(seen_by_view()) == {str(alice.pk)}
        with pytest.raises(WallClosed):
            UserCredential.objects.count()


def test_process_of_an_operator_may_be_open_where_nothing_is_said(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_credentials.wall import open_process_for, standing

    monkeypatch.setattr(standing, "_unsaid", None)
    with nothing_open():
        open_process_for("a proof")
        assert UserCredential.objects.count() == 0
        with acting_for(alice.pk):
            assert standing.whose() == str(alice.pk)
