"""The facts of ``docs/providers.md``, from the registry; ``python -m project.tests.provider_facts`` writes them."""

from __future__ import annotations

from pathlib import Path

from llm_credentials.providers import ProviderSpec, registry

DOCUMENT = Path(__file__).parents[2] / "docs" / "providers.md"
BEGIN, END = "<!-- facts: written by project/tests/provider_facts.py -->\n", "<!-- end of facts -->\n"


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


def in_document() -> str:
    """What stands there now."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    before, _begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{facts()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
