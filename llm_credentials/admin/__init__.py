"""The admin: staff see that a key exists and its state, never the key. Each page registers itself."""

from llm_credentials.admin import (
    audit,
    configuration,
    credentials,
    egress,
    policies,
    records,
    system_credentials,
    usage,
)

__all__ = ["audit", "configuration", "credentials", "egress", "policies", "records", "system_credentials", "usage"]
