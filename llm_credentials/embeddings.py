"""Embeds texts with the embedding model that staff chose.

Vectors of different models are not comparable, so each vector belongs to an ``EmbeddingIndex`` with a pinned model and
dimension. When staff choose another model, the active index keeps answering until they request a new one and it is
built. An app that stores vectors registers itself with ``holds``.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import IntegrityError, transaction

from llm_credentials.audit import Action, note, target_of
from llm_credentials.factory import client_for
from llm_credentials.models import EmbeddingIndex, PersonalAccessToken, SystemConfig
from llm_credentials.providers import BadProviderResponse, spec_or_none
from llm_credentials.routing.run_budget import RunBudget
from llm_credentials.routing.snapshot import Person, system_choice
from llm_credentials.wall import open_for

TASK: Final = "embeddings"
MAX_TEXTS: Final = 64
MAX_BATCH_CHARS: Final = 60_000
State = EmbeddingIndex.State


@dataclass(frozen=True, slots=True)
class Holder:
    count: Callable[[EmbeddingIndex], int]
    """The number of vectors in an index."""
    begin: Callable[[EmbeddingIndex], None]
    """Enqueue the job that rebuilds the index; raises what the queue raises."""


_holders: list[Holder] = []


def holds(holder: Holder) -> None:
    _holders.append(holder)


def settled() -> tuple[str, str] | None:
    """(provider, model) as staff chose them; None without a usable choice."""
    config = SystemConfig.objects.filter(category="llm", key="embeddings_config").first()
    choice = system_choice(config.value if config else None)
    spec = spec_or_none(choice.provider)
    if spec is None:
        return None
    model = choice.model or spec.default_embedding_model
    return (spec.slug, model) if model else None


def index_in_use() -> EmbeddingIndex | None:
    """The active index, created at first use; None where no embedding model is chosen."""
    chosen = settled()
    if chosen is None:
        return None
    active = EmbeddingIndex.objects.filter(state=State.ACTIVE).first()
    if active is not None:
        return active
    try:
        with transaction.atomic():
            return EmbeddingIndex.objects.create(provider=chosen[0], model=chosen[1])
    except IntegrityError:  # another process created it first
        return EmbeddingIndex.objects.filter(state=State.ACTIVE).first()


@dataclass(frozen=True, slots=True)
class Standing:
    """State of the indexes, for the staff page."""

    active: EmbeddingIndex
    vectors: int
    building: EmbeddingIndex | None
    made: int
    provider: str
    """With ``model``: what staff have chosen now."""
    model: str

    @property
    def is_outdated(self) -> bool:
        """Whether to ask staff to build a new index."""
        made_by = self.building or self.active
        return (made_by.provider, made_by.model) != (self.provider, self.model)


def standing() -> Standing | None:
    """None when there is no active index or no embedding model is chosen."""
    chosen = settled()
    rows = {row.state: row for row in EmbeddingIndex.objects.filter(state__in=(State.ACTIVE, State.BUILDING))}
    active, building = rows.get(State.ACTIVE), rows.get(State.BUILDING)
    if chosen is None or active is None:
        return None
    made = _count(building) if building else 0
    return Standing(active, _count(active), building, made, *chosen)


def _count(index: EmbeddingIndex) -> int:
    return sum(holder.count(index) for holder in _holders)


def remake() -> EmbeddingIndex | None:
    """Start or resume building the index for the chosen model; the active one answers until it is done.

    The caller has checked that this is staff. None where there is nothing to build.
    """
    chosen = settled()
    with open_for("beginning an index anew"), transaction.atomic():
        rows = list(EmbeddingIndex.objects.select_for_update().exclude(state=State.RETIRED))
        building = next((row for row in rows if row.state == State.BUILDING), None)
        active = next((row for row in rows if row.state == State.ACTIVE), None)
        if chosen is None or active is None:
            return None
        if building is not None and (building.provider, building.model) != chosen:
            building.delete()
            building = None
        if building is None:
            if (active.provider, active.model) == chosen:
                return None
            building = EmbeddingIndex.objects.create(provider=chosen[0], model=chosen[1], state=State.BUILDING)
            note(action=Action.CONFIG_CHANGE, subject="system", target=target_of("config", "llm", "index"), result="ok")
    for holder in _holders:
        holder.begin(building)
    return building


def put_in_use(index: EmbeddingIndex) -> None:
    """Activate a finished index. The previous one is retired, for its holders to remove."""
    with transaction.atomic():
        rows = EmbeddingIndex.objects.select_for_update()
        if any(row.pk == index.pk and row.state == State.BUILDING for row in rows):
            rows.filter(state=State.ACTIVE).update(state=State.RETIRED)
            rows.filter(pk=index.pk).update(state=State.ACTIVE, heartbeat_at=None)


async def embed_texts(
    user: Person,
    texts: Sequence[str],
    *,
    index: EmbeddingIndex,
    token: PersonalAccessToken | None = None,
    run_budget: RunBudget | None = None,
) -> list[bytes]:
    """One vector of length 1 per text, packed as little-endian float32. Batches are sent one after the other.

    Uses the user's own key for the index's provider, else the site's, if policy allows it; budgets and the ledger apply
    as to every call. Raises LLMError, and BadProviderResponse for vectors that do not fit the index.
    """
    client = client_for(
        user, task=TASK, provider=index.provider, model=index.model, needs={"embeddings"}, token=token
    ).only_at(index.provider)
    client = client if run_budget is None else client.with_run_budget(run_budget)
    packed: list[bytes] = []
    for batch in _batches(texts):
        found = await client.embed(batch)
        dimension = await _dimension(index, len(found.vectors[0]) if found.vectors else 0)
        if len(found.vectors) != len(batch) or any(len(vector) != dimension for vector in found.vectors):
            raise BadProviderResponse(provider=found.provider)
        packed += [pack(vector) for vector in found.vectors]
    return packed


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == MAX_TEXTS or size + len(text) > MAX_BATCH_CHARS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


async def _dimension(index: EmbeddingIndex, first: int) -> int:
    """The pinned dimension; the first vectors of an index pin it."""
    if index.dimension is None and first:
        index.dimension = await sync_to_async(_pinned)(index.pk, first)
    return index.dimension or 0


def _pinned(pk: UUID, dimension: int) -> int:
    EmbeddingIndex.objects.filter(pk=pk, dimension=None).update(dimension=dimension)
    return EmbeddingIndex.objects.values_list("dimension", flat=True).get(pk=pk) or 0


def pack(vector: Sequence[float]) -> bytes:
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    numbers = array("f", (value / length for value in vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def similarity(one: bytes, other: bytes) -> float:
    """Cosine similarity of two packed vectors of length 1."""
    return float(sum(map(mul, unpack(one), unpack(other))))


def unpack(packed: bytes) -> array[float]:
    numbers: array[float] = array("f")
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
