"""The peers, each in its own environment in the system's temporary folder; and LiteLLM's proxy."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.parts.load import SERVER_CORE, Target, free_port, running

HOME = Path(tempfile.gettempdir()) / "keyswitch-peers"
LITELLM = ("litellm", ("litellm[proxy]",), "litellm")
"""Its environment, packages to install, distribution whose version is shown."""
KEY = "sk-peer-0123456789"
CONFIG = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: {url}/v1
      api_key: {key}
litellm_settings:
  telemetry: false
general_settings:
  master_key: {key}
"""


def environment(name: str, packages: tuple[str, ...], shown: str) -> Path | None:
    """An interpreter with the packages, created with uv or pip if missing; None if they cannot be installed."""
    python = HOME / name / "bin" / "python"
    if version(python, shown):
        return python
    print(f"making an environment of {name}: once, a minute or two", file=sys.stderr, flush=True)
    HOME.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    add = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    for command in ([*make, str(HOME / name)], [*add, "--quiet", *packages, "uvloop"]):
        if subprocess.run(command, check=False).returncode:
            return None
    return python


def version(python: Path, distribution: str) -> str:
    """Of the installed distribution; empty if missing."""
    if not python.exists() or not distribution:
        return ""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def install() -> str | None:
    """Version of LiteLLM's proxy; None if it cannot be installed."""
    python = environment(*LITELLM)
    return version(python, "litellm") if python is not None else None


@contextmanager
def litellm(folder: Path, url: str) -> Iterator[Target]:
    """One worker, no database, default logging."""
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(CONFIG.format(url=url, key=KEY))
    program = HOME / "litellm" / "bin" / "litellm"
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with running(
        [*command, "--num_workers", "1"], SERVER_CORE, {"LITELLM_LOG": "ERROR"}, port, starts_within_s=180
    ) as process:
        yield Target(
            "LiteLLM", port, process, "/v1/chat/completions", {"authorization": f"Bearer {KEY}"}, model="gpt-4o-mini"
        )
