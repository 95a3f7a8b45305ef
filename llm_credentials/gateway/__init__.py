"""``/v1``: the door for tools that speak OpenAI's or Anthropic's wire, on a user's own keys, order, budget and ledger.

``wires/`` turns requests of a wire into our vocabulary and answers back; ``app`` serves them.
"""
