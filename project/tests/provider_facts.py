"""What documents say of providers, from the registry; ``make fix`` writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llm_credentials.providers import ProviderSpec, registry

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Part:
    """Of a document: what lies between two lines of it."""

    path: str
    begin: str
    end: str
    written: Callable[[], str]

    def in_document(self) -> str:
        """What stands there now."""
        return self._text().partition(self.begin)[2].partition(self.end)[0]

    def write(self) -> None:
        before, _begin, rest = self._text().partition(self.begin)
        after = rest.partition(self.end)[2]
        (ROOT / self.path).write_text(f"{before}{self.begin}{self.written()}{self.end}{after}", encoding="utf-8")

    def _text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")


def facts() -> str:
    return "\n".join(_section(spec) for spec in registry.all_specs())


def _section(spec: ProviderSpec) -> str:
    lines = [f"### {spec.label}\n", f"{spec.description}\n", "| | |", "|---|---|", f"| slug | `{spec.slug}` |"]
    lines += [f"| {name} | {value} |" for name, value in _rows(spec) if value]
    return "\n".join(lines) + "\n"


def _rows(spec: ProviderSpec) -> list[tuple[str, str]]:
    address = f"`{spec.base_url}`" if spec.base_url else f"set by the operator ({spec.site_address_setting})"
    address = "each key names its own" if spec.needs_base_url else address
    names = [*spec.env_key_names, *(f"{spec.env_prefix}_{end}" for end in ("MODEL", "BASE_URL") if spec.env_prefix)]
    options = [f"`{option.name}` ({option.label}{', needed' if option.required else ''})" for option in spec.options]
    return [
        ("a key is made at", spec.key_url and f"<{spec.key_url}>"),
        ("a key looks like", f"`{spec.key_hint}`" if "…" in spec.key_hint else spec.key_hint),
        ("without a key", "" if spec.key_required else "works where the server asks for none"),
        ("address", address + (f". {spec.base_url_help}" if spec.base_url_help else "")),
        ("further fields", ", ".join(options)),
        ("usual model, cheapest model", ", ".join(f"`{model}`" for model in _models(spec))),
        ("embeddings", spec.default_embedding_model and f"`{spec.default_embedding_model}`"),
        ("in the site's environment", ", ".join(f"`{name}`" for name in names)),
        ("its own documentation", spec.docs_url and f"<{spec.docs_url}>"),
    ]


def _models(spec: ProviderSpec) -> list[str]:
    return [model for model in (spec.default_model, spec.cheapest_model) if model]


def variables() -> str:
    return "".join(_variables(spec) for spec in registry.all_specs() if spec.env_prefix)


def _variables(spec: ProviderSpec) -> str:
    key, *others = spec.env_key_names or ("",)
    remarks = [f"or {name}" for name in others]
    if spec.needs_base_url or not spec.key_required:
        remarks.append("needs its address")
    if spec.self_hosted:
        remarks.append("LLM_EGRESS_ALLOW must list it if it is private")
    names = [key, *(f"{spec.env_prefix}_{end}" for end in ("MODEL", "BASE_URL"))]
    names += [f"{spec.env_prefix}_{option.name.upper()}" for option in spec.options]
    head = f"# {spec.label}{': ' if remarks else ''}{'; '.join(remarks)}\n"
    return head + "".join(f"{name}=\n" for name in names if name)


PARTS = (
    Part(
        "docs/providers.md",
        "<!-- facts: written by `make fix` -->\n",
        "<!-- end of facts -->\n",
        facts,
    ),
    Part(".env.example", "# From here on written by `make fix`.\n", "# To here.\n", variables),
)


def main() -> None:
    for part in PARTS:
        part.write()


if __name__ == "__main__":
    main()
