"""``/v1``: the gateway for clients of OpenAI's or Anthropic's API, on a user's own keys, order, budget and ledger.

``wires/`` translates requests and answers between an API's wire format and our types; ``app`` serves them.
"""
