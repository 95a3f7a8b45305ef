from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from llm_credentials.models import UserCredential
from llm_credentials.routing import health
from llm_credentials.tests.fault_matrix import ADAPTERS, SMALL, Findings, make_chain, run_case

PATIENCE_S = 30.0
"""None of the faults in small waits for a deadline, and other tests may keep the machine busy."""


@pytest.mark.django_db
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_faults_end_in_an_answer_or_in_the_right_error(
    alice: User, sandbox_url: str, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "failed", lambda destination: None)
    monkeypatch.setattr(health, "rest", lambda target, seconds: None)
    first = make_chain(alice, adapter, sandbox_url)
    findings = Findings()
    for fault in SMALL:
        UserCredential.objects.filter(pk=first.pk).update(model=f"sandbox-fast~fault={fault}")
        for stream in (False, True):
            async_to_sync(run_case)(alice, adapter, fault, stream, findings, PATIENCE_S)
    assert findings == Findings(runs=2 * len(SMALL))
