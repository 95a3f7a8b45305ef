"""What a caller may send as ``model``.

``auto``: the user's own order for the task "gateway" · ``task:<slug>``: the order for that task · ``provider/model`` ·
``provider/auto``: the provider's default · a bare model name, which goes to a key whose provider offers it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_credentials.gateway.errors import Refused
from llm_credentials.providers import UnknownProvider, get_spec
from llm_credentials.providers.calls import model_id_fault
from llm_credentials.routing import kinds

TASK = "gateway"
AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    task: str = TASK
    provider: str | None = None
    model: str | None = None


def read_model(name: object) -> Named:
    """Raises Refused."""
    if not isinstance(name, str) or not name:
        raise Refused(400, "invalid_request", "model: Name a model, or «auto» for your own order.", param="model")
    if name == AUTO:
        return Named()
    if name.startswith("task:"):
        slug = name.removeprefix("task:")
        if kinds.get(slug) is None:
            known = ", ".join(f"task:{kind.slug}" for kind in kinds.all())
            raise Refused(404, "model_not_found", f"There is no such task. There are: {known}.", param="model")
        return Named(task=slug)
    if fault := model_id_fault(name):
        raise Refused(400, "invalid_request", f"model: {fault}", param="model")
    provider, slash, model = name.partition("/")
    if slash and _is_provider(provider):
        return Named(provider=provider, model=None if model == AUTO else model)
    return Named(model=name)


def _is_provider(slug: str) -> bool:
    try:
        get_spec(slug)
    except UnknownProvider:
        return False
    return True
