"""Resolves ``$ref`` within a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from llm_credentials.providers.schema.values import JSON


class References:
    """Resolves the references of one document."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._named: dict[str, str] | None = None
        self._recursive: dict[str, bool] = {}

    def find(self, reference: str) -> tuple[Any, str] | None:
        """The schema and its place, a JSON pointer; None if the document does not contain it."""
        place = self.place(reference)
        if place is None:
            return None
        node = self.root
        for step in place.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            else:
                return None
        return node, place

    def place(self, reference: str) -> str | None:
        document, _, fragment = reference.partition("#")
        fragment = unquote(fragment)
        base = ""
        if document:
            found = self.named().get(document)
            if found is None:
                return None
            base = found
        if not fragment or fragment.startswith("/"):
            return base + fragment
        return self.named().get(f"#{fragment}")

    def named(self) -> dict[str, str]:
        """Places by ``$id`` and, after a #, by ``$anchor``."""
        if self._named is None:
            self._named = {}
            for place, node in walk(self.root):
                for name, mark in (("$id", ""), ("$anchor", "#")):
                    if isinstance(value := node.get(name), str):
                        self._named.setdefault(mark + value.removesuffix("#"), place)
        return self._named

    def recursive(self, place: str) -> bool:
        """Whether following it can lead back to it."""
        if place not in self._recursive:
            seen: set[str] = set()
            todo = [place]
            while todo:
                found = self.find(f"#{todo.pop()}")
                for _, node in walk(found[0]) if found else ():
                    target = self.place(node["$ref"]) if isinstance(node.get("$ref"), str) else None
                    if target is not None and target not in seen:
                        seen.add(target)
                        todo.append(target)
            self._recursive[place] = place in seen
        return self._recursive[place]


def walk(node: Any, place: str = "") -> Iterator[tuple[str, JSON]]:
    todo = [(place, node)]
    while todo:
        place, node = todo.pop()
        if isinstance(node, dict):
            yield place, node
            todo += [(f"{place}/{escaped(name)}", value) for name, value in node.items()]
        elif isinstance(node, list):
            todo += [(f"{place}/{number}", value) for number, value in enumerate(node)]


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
