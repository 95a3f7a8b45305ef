"""Compiles one schema for one wire format. ``at`` is a place in the schema as a JSON pointer, for errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from llm_credentials.providers.errors import UnsupportedContent
from llm_credentials.providers.schema.joining import joined, rest_of
from llm_credentials.providers.schema.references import References, escaped, walk
from llm_credentials.providers.schema.rules import Rules
from llm_credentials.providers.schema.unions import NOTES, Node, alternatives, any_of, nullable, object_of, widened
from llm_credentials.providers.schema.values import JSON, kind_of, kinds_of, same, sound

MAX_NODES = 5_000
UNROLLED = 3
"""How often a recursive schema is inlined for a format without references."""

# In output order: the same request must be the same bytes in every process, or providers' prompt caches miss.
_KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "object": ("minProperties", "maxProperties"),
    "array": ("minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"),
}
_OF_TYPE: Mapping[str, frozenset[str]] = {
    **{kind: frozenset(names) for kind, names in _KEYWORDS.items()},
    "object": frozenset({*_KEYWORDS["object"], "properties", "patternProperties", "additionalProperties", "required"}),
    "array": frozenset({*_KEYWORDS["array"], "items", "prefixItems", "additionalItems"}),
}
_SPECIAL_PATTERN = re.compile(r"\(\?|\\[pPkKuxcZAzGbB1-9]|\[\[|&&")
"""Regular-expression syntax that other engines interpret differently or not at all."""


class Compiler:
    """``path`` in its methods: the references followed from the root."""

    def __init__(self, schema: Any, rules: Rules) -> None:
        self.schema = schema
        self.rules = rules
        draft = schema.get("$schema") if isinstance(schema, dict) else None
        self.references_alone = isinstance(draft, str) and "/draft-0" in draft
        """Whether keywords beside ``$ref`` are ignored, as up to draft 7."""
        self.references = References(schema)
        self.names: dict[str, str] = {}
        self.nodes = self.properties = self.enum_values = self.optional = self.unions = 0

    def root(self) -> JSON:
        found = self.node(self.schema, "", 0, ("",))
        if not isinstance(found, dict):
            raise self.fault("", "accepts nothing")
        root = self.as_object(found) if self.rules.object_root else found
        definitions = self.definitions(root)
        return {**root, "$defs": definitions} if definitions else root

    def definitions(self, root: JSON) -> dict[str, JSON]:
        """The targets of the root's references, and those of their references."""
        found: dict[str, JSON] = {}
        todo = [root]
        while todo:
            for reference in _references_in(todo.pop()):
                name = reference.rpartition("/")[2]
                where = next(where for where, given in self.names.items() if given == name)
                target = self.references.find(f"#{where}")
                if name in found or target is None:
                    continue
                body = self.node(target[0], where, 1, (where,), follow=True)
                found[name] = body if isinstance(body, dict) else {}
                todo.append(found[name])
        return found

    def fault(self, at: str, what: str) -> UnsupportedContent:
        place = f"at {at[:200]}" if at else "at its root"
        return UnsupportedContent(f"This JSON Schema cannot be used with this provider: {place} it {what}.")

    def node(self, schema: Any, at: str, depth: int, path: tuple[str, ...], *, follow: bool = False) -> Node:
        """The compiled form of one schema. ``follow``: inline a reference even if it is recursive."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.fault(at, "is too large once its references are in place")
        if depth > self.rules.max_depth:
            raise self.fault(at, "is nested too deeply")
        followed: list[str] = []
        head = self.head(schema, at, (), followed)
        if head is False:
            return False
        recursive = [where for where in followed if self.references.recursive(where)]
        if recursive:
            plain = depth > 0 and not follow and self.is_plain_reference(schema)
            if (again := self.again(recursive, at, head, path, plain=plain)) is not None:
                return again
        path = (*path, *followed)
        found = self.union(head, at, depth, path) if "anyOf" in head else self.by_type(head, at, depth, path)
        return _noted(found, head, self.rules) if isinstance(found, dict) else False

    def again(
        self, recursive: Sequence[str], at: str, head: JSON, path: tuple[str, ...], *, plain: bool
    ) -> JSON | None:
        """What replaces a recursive reference; None: inline it here."""
        rules = self.rules
        if rules.recursion == "refuse":
            raise self.fault(at, "refers to itself")
        where = next((one for one in recursive if one in path), recursive[0])
        if rules.recursion == "keep":
            return {"$ref": f"#/$defs/{self.name_of(where)}"} if plain or where in path else None
        if path.count(where) < UNROLLED:
            return None
        kinds = kinds_of(head)
        if kinds == ("object",) and "anyOf" not in head:
            return {"type": "object", "properties": {}}
        return {}

    def is_plain_reference(self, schema: Any) -> bool:
        real = {name: value for name, value in schema.items() if name not in ("title", "description", "default")}
        if self.references_alone and "$ref" in real:
            return True
        if list(real) == ["allOf"] and isinstance(real["allOf"], list) and len(real["allOf"]) == 1:
            return isinstance(real["allOf"][0], dict) and self.is_plain_reference(real["allOf"][0])
        return list(real) == ["$ref"]

    def name_of(self, where: str) -> str:
        if where not in self.names:
            wanted = re.sub(r"[^a-zA-Z0-9_-]", "_", where.rpartition("/")[2])[:60] or "root"
            name, number = wanted, 1
            while name in self.names.values():
                number += 1
                name = f"{wanted}_{number}"
            self.names[where] = name
        return self.names[where]

    # One level: references inlined, allOf merged, oneOf and const expressed by anyOf and enum

    def head(self, schema: Any, at: str, following: tuple[str, ...], followed: list[str]) -> JSON | Any:
        """A schema without ``$ref``, ``allOf``, ``oneOf`` and ``const``, or False. Its subschemas are not compiled."""
        if isinstance(schema, bool):
            return {} if schema else False
        if not isinstance(schema, dict):
            raise self.fault(at, "has something that is no schema")
        if "$dynamicRef" in schema or "$recursiveRef" in schema:
            raise self.fault(at, "has a reference that is resolved at run time")
        own: JSON = {name: value for name, value in schema.items() if sound(name, value)}
        parts: list[Any] = []
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self.followed(reference, at, following, followed))
            if self.references_alone:
                own = {name: own[name] for name in ("title", "description") if name in own}
        if "const" in schema and not (self.references_alone and "$ref" in schema):
            own["enum"] = [one for one in own.get("enum", [schema["const"]]) if same(one, schema["const"])]
        if "oneOf" in own:
            own.setdefault("anyOf", own["oneOf"])
        parts += [self.head(part, at, following, followed) for part in own.get("allOf", ())]
        found: Any = {name: value for name, value in own.items() if name not in ("allOf", "oneOf")}
        for part in parts:
            found = joined(found, part)
            if found is False:
                return False
        return found

    def followed(self, reference: str, at: str, following: tuple[str, ...], followed: list[str]) -> Any:
        target = self.references.find(reference)
        if target is None:
            what = "refers to something that it does not hold"
            raise self.fault(at, what if reference.startswith("#") else "refers to another document")
        schema, where = target
        if where in following:
            raise self.fault(at, "refers to itself and says nothing else")
        followed.append(where)
        return self.head(schema, at, (*following, where), followed)

    # Unions

    def union(self, head: JSON, at: str, depth: int, path: tuple[str, ...]) -> Node:
        base = {name: value for name, value in head.items() if name != "anyOf" and name not in NOTES}
        branches = ({"allOf": [base, branch]} if base else branch for branch in head["anyOf"])
        found = [self.node(branch, f"{at}/anyOf/{place}", depth, path) for place, branch in enumerate(branches)]
        return self.any_of(found)

    def any_of(self, options: Iterable[Node]) -> Node:
        found = any_of(options)
        self.unions += isinstance(found, dict) and "anyOf" in found
        if self.unions > self.rules.max_unions:
            raise self.fault("", "has more unions than are taken")
        return found

    def by_type(self, head: JSON, at: str, depth: int, path: tuple[str, ...]) -> Node:
        kinds = kinds_of(head)
        if kinds == ("none",):
            return False
        if "enum" in head:
            return self.listed(head["enum"], kinds, at, depth, path)
        if not kinds:
            return self.untyped(head, at, depth, path)
        return self.any_of([self.typed(kind, head, at, depth, path) for kind in kinds])

    def listed(self, values: Sequence[Any], kinds: tuple[str, ...], at: str, depth: int, path: tuple[str, ...]) -> Node:
        """Compiles ``enum``, one type at a time."""
        groups: dict[str, list[Any]] = {}
        for value in values:
            kind = kind_of(value)
            fits = not kinds or kind in kinds or (kind == "integer" and "number" in kinds)
            if not fits and not (kind == "number" and "integer" in kinds and value == int(value)):
                continue
            group = groups.setdefault(kind, [])
            if not any(same(value, one) for one in group):
                group.append(value)
        if "number" in groups and "integer" in groups:
            groups["number"] = [*groups.pop("integer"), *groups["number"]]
        self.enum_values += sum(map(len, groups.values()))
        if self.enum_values > self.rules.max_enum_values:
            raise self.fault(at, "lists more values than are taken")
        return self.any_of(
            [
                {"type": kind, "enum": group} if kind in self.rules.enums else self.typed(kind, {}, at, depth, path)
                for kind, group in groups.items()
            ]
        )

    def untyped(self, head: JSON, at: str, depth: int, path: tuple[str, ...]) -> Node:
        if self.rules.untyped == "refuse":
            raise self.fault(at, "does not say its type")
        concerned = [kind for kind, names in _OF_TYPE.items() if names & head.keys()]
        if not concerned:
            return {}
        if self.rules.untyped == "spell":
            kinds = ("object", "array", "string", "number", "boolean", "null")
            return self.any_of([self.typed(kind, head, at, depth, path) for kind in kinds])
        found: JSON = {}
        for kind in concerned:
            part = self.typed(kind, head, at, depth, path)
            if isinstance(part, dict):
                said = " ".join(filter(None, (found.get("description"), part.get("description"))))
                found |= {name: value for name, value in part.items() if name != "type" and value != {}}
                found |= {"description": said} if said else {}
        return found

    # Types

    def typed(self, kind: str, head: JSON, at: str, depth: int, path: tuple[str, ...]) -> Node:
        out: JSON = {"type": kind}
        if kind == "object":
            shape = self.object(head, at, depth, path)
        elif kind == "array":
            shape = self.array(head, at, depth, path)
        else:
            shape = {}
        if shape is False:
            return False
        dropped: list[str] = []
        for name in _KEYWORDS.get("number" if kind == "integer" else kind, ()):
            if name in head and not (name == "format" and head["format"] == kind):
                out |= self.kept(name, head[name], kind, dropped)
        said = [f"({', '.join(sorted(dropped))})"] if dropped else []
        said += [shape["description"]] if "description" in shape else []
        return {**out, **shape, **({"description": " ".join(said)} if said else {})}

    def kept(self, name: str, value: Any, kind: str, dropped: list[str]) -> JSON:
        """The keyword as this format accepts it; what it cannot express is added to ``dropped``."""
        rules = self.rules
        if self.takes(name, value):
            return {name: value}
        dropped.append(f"{name}: {value if isinstance(value, str) else orjson.dumps(value).decode()}"[:200])
        if name == "minItems" and name in rules.keywords:
            return {name: 1}
        if name in ("exclusiveMinimum", "exclusiveMaximum") and name.replace("exclusiveM", "m") in rules.keywords:
            return _inclusive(name, value, whole=kind == "integer")
        return {}

    def takes(self, name: str, value: Any) -> bool:
        rules = self.rules
        if name not in rules.keywords:
            return False
        if rules.formats is None:
            return True
        match name:
            case "format":
                return value in rules.formats
            case "pattern":
                return not _SPECIAL_PATTERN.search(value)
            case "minItems":
                return "maxItems" in rules.keywords or value <= 1
        return True

    def object(self, head: JSON, at: str, depth: int, path: tuple[str, ...]) -> Any:
        rules, required = self.rules, [*dict.fromkeys(head.get("required", ()))]
        given = head.get("properties", {})
        rest = rest_of(head)
        properties: dict[str, JSON] = {}
        for name in (*given, *(name for name in required if name not in given)):
            found = self.node(given.get(name, rest), f"{at}/properties/{escaped(name)}", depth + 1, path)
            if isinstance(found, dict):
                properties[name] = found
            elif name in required:
                return False
        self.properties += len(properties)
        self.optional += len(properties) - len(required)
        if self.properties > rules.max_properties or self.optional > rules.max_optional:
            raise self.fault(at, "has more properties than are taken")
        if rules.all_required:
            properties = {name: one if name in required else nullable(one) for name, one in properties.items()}
            required = list(properties)
        out: JSON = {"properties": properties}
        if required or rules.all_required:
            out["required"] = required
        return out | self.others(head, rest, at, depth, path)

    def others(self, head: JSON, rest: Any, at: str, depth: int, path: tuple[str, ...]) -> JSON:
        """The constraints on properties that are not listed by name."""
        rules = self.rules
        if rest is False:
            return {"additionalProperties": False}
        if rules.objects != "open":
            silent = not {"additionalProperties", "patternProperties"} & head.keys() and "properties" in head
            if rules.objects == "closed" or not silent:
                raise self.fault(at, "takes properties that it does not name")
            return {"additionalProperties": False}
        if rest is True or "additionalProperties" not in rules.keywords:
            return {}
        found = self.node(rest, f"{at}/additionalProperties", depth + 1, path)
        return {} if found == {} else {"additionalProperties": found}

    def array(self, head: JSON, at: str, depth: int, path: tuple[str, ...]) -> JSON:
        items = head.get("items", True)
        prefix = head.get("prefixItems", ())
        if isinstance(items, list):
            prefix, items = items, head.get("additionalItems", True)
        if prefix and items is not False and head.get("maxItems", len(prefix) + 1) <= len(prefix):
            items = False
        limit = {"maxItems": min(len(prefix), head.get("maxItems", len(prefix)))} if items is False else {}
        found = [self.node(one, f"{at}/prefixItems/{place}", depth + 1, path) for place, one in enumerate(prefix)]
        last = self.node(items, f"{at}/items", depth + 1, path) if items is not False else False
        out: JSON = {name: value for name, value in limit.items() if name in self.rules.keywords}
        if prefix and "prefixItems" in self.rules.keywords:
            out["prefixItems"] = [one if isinstance(one, dict) else {} for one in found]
            return out | {"items": last if isinstance(last, dict) else self.any_of(out["prefixItems"])}
        every = self.any_of([*found, last])
        if every is False:  # Only an empty list fits.
            every = {} if self.rules.untyped != "refuse" else {"type": "null"}
        said = {"description": f"(prefixItems: {orjson.dumps(found).decode()[:1000]})"} if prefix else {}
        return out | {"items": every} | said

    # The root

    def as_object(self, found: JSON) -> JSON:
        """Merges a union into one object, for formats without a union at the root."""
        given = found.get("anyOf", [found])
        options = [one for option in given if (one := object_of(option)) is not None]
        if not options or (self.rules.all_required and options != [found]):
            raise self.fault("", "is no object")
        if "anyOf" not in found:
            return options[0]
        notes = {name: found[name] for name in NOTES if name in found}
        return {**widened(options), **notes, "description": alternatives(options, found.get("description"))}


def _references_in(schema: JSON) -> list[str]:
    return [node["$ref"] for _, node in walk(schema) if isinstance(node.get("$ref"), str)]


def _noted(found: JSON, head: JSON, rules: Rules) -> JSON:
    """Adds title, description and default; dropped constraints are in ``found``'s description."""
    if "$ref" in found:
        return found
    notes = {name: head[name] for name in NOTES if name in head and name in rules.keywords}
    said = " ".join(dict.fromkeys(one for one in (head.get("description"), found.get("description")) if one))
    return {**found, **notes, **({"description": said} if said else {})}


def _inclusive(name: str, value: float, *, whole: bool) -> JSON:
    """Converts an exclusive bound to an inclusive one: exact for integers, wider by one number otherwise."""
    if name == "exclusiveMinimum":
        return {"minimum": int(value // 1) + 1 if whole else value}
    return {"maximum": -int(-value // 1) - 1 if whole else value}
