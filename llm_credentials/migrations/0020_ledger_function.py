"""One group of the ledger, written by a function on PostgreSQL: a session keeps the plans of its statements, which take
longer to make than to execute. It says of the same what ``ledger.batches`` says step by step, and fails as a whole where a
row is not open or a counter has no room."""

from __future__ import annotations

from typing import Any

from django.db import migrations

_FUNCTION = """
CREATE FUNCTION keyswitch_ledger_write(closed json, used json, moved json, opened json) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM json_to_recordset(closed) AS c (id uuid, state varchar, input_tokens bigint,
        output_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint, reasoning_tokens bigint,
        cost_usd numeric, price_source varchar, latency_ms integer, ttft_ms integer, outcome varchar)
    LOOP
        UPDATE llm_usage_records AS t SET state = r.state, input_tokens = r.input_tokens,
            output_tokens = r.output_tokens, cache_read_tokens = r.cache_read_tokens,
            cache_write_tokens = r.cache_write_tokens, reasoning_tokens = r.reasoning_tokens, cost_usd = r.cost_usd,
            price_source = r.price_source, latency_ms = r.latency_ms, ttft_ms = r.ttft_ms, outcome = r.outcome
        WHERE t.id = r.id AND (t.state = 'reserved' OR (t.state = 'estimated' AND t.outcome = 'lost'));
        IF NOT FOUND THEN
            RAISE EXCEPTION 'a row of the ledger is not open' USING ERRCODE = '22KS1';
        END IF;
    END LOOP;
    FOR r IN SELECT * FROM json_to_recordset(used) AS u (table_name text, id uuid, count integer, at timestamptz)
    LOOP
        IF r.table_name = 'user_llm_credentials' THEN
            UPDATE user_llm_credentials AS t SET request_count = t.request_count + r.count, last_used_at = r.at
            WHERE t.id = r.id;
        ELSE
            UPDATE system_llm_credentials AS t SET request_count = t.request_count + r.count, last_used_at = r.at
            WHERE t.id = r.id;
        END IF;
    END LOOP;
    FOR r IN SELECT * FROM json_to_recordset(moved) AS m (id varchar, before bigint, asked bigint, newest bigint,
        most bigint)
    LOOP
        IF r.asked IS NULL THEN
            UPDATE llm_budget_counters AS t SET used_e8 = t.used_e8 + r.before WHERE t.id = r.id;
        ELSE
            UPDATE llm_budget_counters AS t SET used_e8 = t.used_e8 + r.before + r.asked
            WHERE t.id = r.id AND t.set_at >= r.newest AND t.used_e8 + r.before < r.most
                AND t.used_e8 + r.before + r.asked <= r.most;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'a budget has no room' USING ERRCODE = '22KS2';
            END IF;
        END IF;
    END LOOP;
    INSERT INTO llm_usage_records (id, call_id, user_id, task, provider, model, credential_id, key_owner, token_id,
        state, input_tokens, reserved_usd, price_source, outcome, at)
    SELECT * FROM json_to_recordset(opened) AS o (id uuid, call_id uuid, user_id bigint, task varchar,
        provider varchar, model varchar, credential_id uuid, key_owner varchar, token_id uuid, state varchar,
        input_tokens bigint, reserved_usd numeric, price_source varchar, outcome varchar, at timestamptz);
END
$$
"""


def _make(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(_FUNCTION, params=None)


def _drop(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP FUNCTION keyswitch_ledger_write", params=None)


class Migration(migrations.Migration):
    dependencies = [("llm_credentials", "0019_embedding_index")]
    operations = [migrations.RunPython(_make, _drop)]
