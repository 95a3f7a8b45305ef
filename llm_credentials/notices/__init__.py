"""Mail to owners about their keys and accounts. Callers use ``notify``. A notice is a text in
``templates/llm_credentials/mail/`` whose first line is the subject.
"""

from __future__ import annotations

from llm_credentials.notices.kinds import Kind
from llm_credentials.notices.sending import deliver, notify

__all__ = ["Kind", "deliver", "notify"]
