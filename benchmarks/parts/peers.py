"""LiteLLM's proxy beside the gateway, in an environment of its own under the system's folder for what is temporary."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.parts.load import SERVER_CORE, Target, free_port, running

HOME = Path(tempfile.gettempdir()) / "keyswitch-peers" / "litellm"
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


def install() -> str | None:
    """Its version; None where it does not install."""
    python = HOME / "bin" / "python"
    if not (HOME / "bin" / "litellm").exists():
        HOME.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        made = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "litellm[proxy]"], check=False)
        if made.returncode:
            return None
    asked = "import importlib.metadata as m; print(m.version('litellm'))"
    return subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def litellm(folder: Path, url: str) -> Iterator[Target]:
    """One worker, no database, logging as it comes."""
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(CONFIG.format(url=url, key=KEY))
    command = [str(HOME / "bin" / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with running(
        [*command, "--num_workers", "1"], SERVER_CORE, {"LITELLM_LOG": "ERROR"}, port, starts_within_s=180
    ) as process:
        yield Target(
            "LiteLLM", port, process, "/v1/chat/completions", {"authorization": f"Bearer {KEY}"}, model="gpt-4o-mini"
        )
