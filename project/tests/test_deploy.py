"""The production path: the commands and settings of docs/deploy/compose.yaml, started by hand and walked to its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import psycopg
import pytest
import yaml

from project.env import BASE_DIR
from project.tests import servers
from project.tests.checkout import bare_environment, copy_checkout
from project.tests.servers import free_port, wait_until

pytestmark = pytest.mark.slow

DEPLOY = BASE_DIR / "docs/deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
SECRETS = {
    "SECRET_KEY": "not-for-anything-else-" * 3,
    "CREDENTIAL_KEYS": "k1:wfqD7Z87gX4iXXmU5YMk9OfaPiYCgd/Im8L/FpU8QwQ=",
    "ALLOWED_HOSTS": "keys.example.com,127.0.0.1",
    "METRICS_TOKEN": "for-the-watcher",
}
THROUGH_PROXY = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "Host": "keys.example.com"}


class Deployment:
    """One folder, one database, one Valkey, and the processes that run on them."""

    def __init__(self, folder: Path, stack: ExitStack, *, pooled: bool) -> None:
        self.root = copy_checkout(folder / "srv")
        self.folder = folder
        self.port, self.metrics_port = free_port(), free_port()
        self.database = f"test_keyswitch_{os.getpid()}_deployed"
        self.server = servers._embedded_postgres_url()
        self._sql(f'CREATE DATABASE "{self.database}"')
        stack.callback(self._sql, f'DROP DATABASE "{self.database}" WITH (FORCE)')
        valkey = stack.enter_context(servers.running_valkey())
        self.here = {
            "REDIS_URL": valkey,
            "METRICS_DIR": str(folder / "metrics"),
            "METRICS_PORT": str(self.metrics_port),
        }
        straight = self.server.replace("/postgres?", f"/{self.database}?")
        pooler = stack.enter_context(running_pooler(folder, self.server)) if pooled else ""
        self.databases = {"postgres": straight, "pooler": f"{pooler}/{self.database}?" if pooled else straight}
        self.extra: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self.kill)

    def _sql(self, statement: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement)

    def environment(self, service: str) -> dict[str, str]:
        """What the compose file gives it, with the addresses of this machine."""
        named = {name: str(value) for name, value in SERVICES[service]["environment"].items()}
        ours = {*self.here, "DATABASE_URL", "TRUSTED_PROXY_COUNT", "POSTGRES_SUPERUSER_PASSWORD"}
        assert named.keys() <= ours, "a setting that this does not know"
        found = re.search(r"@(\w+):5432/keyswitch(?:\?(.+))?$", named["DATABASE_URL"])
        assert found
        here = {name: self.here[name] for name in named if name in self.here}
        here["DATABASE_URL"] = f"{self.databases[found[1]]}&{found[2] or ''}"
        return bare_environment(**SECRETS, **named | here, **self.extra)

    def command(self, service: str) -> list[str]:
        program, *rest = SERVICES[service]["command"]
        own = {"0.0.0.0": "127.0.0.1", "8000": str(self.port), "/tmp/beat": str(self.folder / "beat")}
        arguments = [own.get(each, each) for each in rest]
        return [sys.executable, *arguments] if program == "python" else [sys.executable, "-m", program, *arguments]

    def run(self, *command: str, service: str = "web") -> str:
        environment = self.environment(service)
        done = subprocess.run(
            [sys.executable, *command], cwd=self.root, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def start(self, service: str) -> None:
        with self.log(service).open("wb") as log:
            self.running[service] = subprocess.Popen(
                self.command(service),
                cwd=self.root,
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def said(self) -> str:
        return "\n".join(f"== {name}\n{self.log(name).read_text()[-3000:]}" for name in self.running)

    def stop(self, service: str) -> int:
        self.running[service].send_signal(signal.SIGTERM)
        return self.running[service].wait(60)

    def kill(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}", headers=THROUGH_PROXY | headers, timeout=20)


@contextmanager
def running_pooler(folder: Path, server: str) -> Iterator[str]:
    """PgBouncer as the compose file sets it, before the tests' cluster; its address, without a database."""
    at, _, socket = server.partition("/postgres?host=")
    role, port = at.removeprefix("postgresql://").rstrip("@"), free_port()
    given = SERVICES["pooler"]["environment"]
    asked = {name.lower(): value for name, value in given.items() if name not in ("DATABASE_URL", "AUTH_TYPE")}
    lines = [
        *("[databases]", f"* = host={socket} user={role}", "[pgbouncer]", "auth_type = any", "unix_socket_dir ="),
        *("listen_addr = 127.0.0.1", f"listen_port = {port}"),
        *(f"{name} = {value}" for name, value in asked.items()),
    ]
    (folder / "pooler.ini").write_text("\n".join(lines) + "\n")
    # It does not run as root, and the socket is its server's.
    who = ["-u", Path(socket).owner()] if os.geteuid() == 0 else []
    process = subprocess.Popen(["pgbouncer", "-q", *who, str(folder / "pooler.ini")], stderr=subprocess.DEVNULL)
    address = f"postgresql://{role}@127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{address}/postgres"), "the pooler")
        yield address
    finally:
        process.terminate()
        process.wait(20)


def answers(database: str) -> bool:
    try:
        psycopg.connect(database).close()
    except psycopg.OperationalError:
        return False
    return True


PATHS = [
    "straight",
    pytest.param(
        "pooled", marks=pytest.mark.skipif(not shutil.which("pgbouncer"), reason="PgBouncer is not installed")
    ),
]


@pytest.fixture(params=PATHS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ks-")))
        yield Deployment(folder, stack, pooled=request.param == "pooled")


def test_compose_commands_carry_a_key_to_an_answer(deployment: Deployment, sandbox_server: str) -> None:
    site = deployment
    site.extra = {"SANDBOX_URL": sandbox_server, "LLM_EGRESS_ALLOW": sandbox_server.removeprefix("http://")}
    site.run("manage.py", "collectstatic", "--noinput")
    site.run(*SERVICES["migrate"]["command"][1:], service="migrate")
    for service in ("web", "worker", "clock"):
        site.start(service)
    try:
        wait_until(lambda: ready(site), "web, worker and clock", limit_s=90)
        walk(site)
    except Exception:
        print(site.said())
        raise
    site.run("manage.py", "check", "--deploy", "--database", "default", "--fail-level", "WARNING")
    for service in ("clock", "worker", "web"):
        assert site.stop(service) in (0, -signal.SIGTERM), site.said()
    for name in site.running:
        assert not re.search(r"Traceback|sbx-good|not-for-anything", site.log(name).read_text()), site.said()


def ready(site: Deployment) -> bool:
    for name, process in site.running.items():
        assert process.poll() is None, f"{name} ended\n{site.said()}"
    try:
        state = site.get("/readyz").json()
        return bool(state["ready"] and not state["degraded"]) and "beat: Starting" in site.log("clock").read_text()
    except httpx2.HTTPError:
        return False


def walk(site: Deployment) -> None:
    code = (
        "from django.contrib.auth.models import User; User.objects.create_user('ada', 'ada@example.com', 'x');"
        "from django.core.management import call_command; call_command('token_create', 'ada')"
    )
    token = site.run("manage.py", "shell", "-v", "0", "-c", code).split()[-1]
    who = {"Authorization": f"Bearer {token}"}
    plain = httpx2.get(f"http://127.0.0.1:{site.port}/accounts/login/", headers={"Host": "keys.example.com"})
    login = site.get("/accounts/login/")
    assert login.status_code == 200
    assert "strict-transport-security" in login.headers
    assert "strict-transport-security" not in plain.headers
    sheet = re.search(r'href="(/static/css/keyswitch\.[0-9a-f]+\.css)"', login.text)
    assert sheet, "static files are not collected"
    assert "immutable" in site.get(sheet[1]).headers["cache-control"]

    def post(path: str, body: dict[str, Any]) -> Any:
        address = f"http://127.0.0.1:{site.port}{path}"
        answer = httpx2.post(address, json=body, headers=THROUGH_PROXY | who, timeout=60)
        assert answer.status_code < 300, f"{path} {answer.status_code} {answer.text}"
        return answer.json()

    post(
        "/api/user/llm-credentials",
        {"provider": "sandbox", "api_key": "sbx-good-0123456789", "model": "sandbox-instant"},
    )
    stored = "/api/user/llm-credentials/sandbox"
    wait_until(lambda: site.get(stored, **who).json()["status"] == "valid", "the worker's verdict", limit_s=60)
    run = post("/api/agents/conversation/runs", {"input": "say the word marmalade"})
    wait_until(
        lambda: site.get(f"/api/runs/{run['id']}", **who).json()["state"] == "done", "the worker's answer", limit_s=60
    )
    asked = {"model": "auto", "messages": [{"role": "user", "content": "say the word marmalade"}]}
    assert "marmalade" in json.dumps(post("/v1/chat/completions", asked))
    watched = site.get("/metrics", Authorization="Bearer for-the-watcher").text
    assert re.search(r'keyswitch_calls_total\{task="gateway"\} 1\.0', watched)
    assert re.search(r"keyswitch_workers 1\.0", watched)
    assert site.get("/metrics").status_code == 403
    by_worker = httpx2.get(f"http://127.0.0.1:{site.metrics_port}/metrics").text
    assert 'keyswitch_calls_total{task="conversation"} 1.0' in by_worker


UNITS = {"web": "web", "worker": "worker", "clock": "clock"}


@pytest.mark.parametrize("service", UNITS)
def test_units_and_cluster_start_what_the_compose_file_starts(service: str) -> None:
    unit = (DEPLOY / f"keyswitch-{service}.service").read_text()
    started = re.search(r"^ExecStart=/srv/keyswitch/\.venv/bin/(.+)$", unit, re.MULTILINE)
    assert started
    cluster = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    found = next(one for one in cluster if one["metadata"]["name"] == f"keyswitch-{service}")
    pod = found["spec"]["template"]["spec"]["containers"][0]["command"]
    composed = SERVICES[service]["command"]
    assert shape(started[1].split()) == shape(composed) == shape(pod)


def test_nothing_of_the_site_runs_as_root_or_writes_where_its_code_lies() -> None:
    for name in ("migrate", *UNITS):
        service = SERVICES[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["environment"]["POSTGRES_SUPERUSER_PASSWORD"] == "", "what is above row-level security"
        assert {"privileged", "user", "ports", "volumes"}.isdisjoint(service), name
    for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        if one["kind"] == "Service":
            continue
        pod = one["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 999)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    image = (DEPLOY / "Dockerfile").read_text()
    assert "--uid 999" in image
    assert re.findall(r"^USER (\w+)$", image, re.MULTILINE) == ["keyswitch"]


def test_image_holds_what_the_site_needs_and_no_secret(tmp_path: Path) -> None:
    """Named one by one: what lies in a checkout besides, such as .env, a database or .git, never gets in."""
    lines = [line for line in (BASE_DIR / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    taken = [line[1:] for line in lines if line.startswith("!")]
    tracked = subprocess.run(["git", "ls-files"], cwd=BASE_DIR, capture_output=True, text=True, check=False).stdout
    assert all(re.fullmatch(r"[a-z_-]+(\.py|\.txt)?", each) for each in taken)
    assert not tracked or set(taken) <= {line.partition("/")[0] for line in tracked.splitlines()}
    left_out = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    for each in taken:
        source = BASE_DIR / each
        if source.is_dir():
            shutil.copytree(source, tmp_path / each, ignore=shutil.ignore_patterns(*left_out))
        else:
            shutil.copy(source, tmp_path / each)
    collect = [sys.executable, "manage.py", "collectstatic", "--noinput"]
    environment = bare_environment(SECRET_KEY="for-collecting-only")
    done = subprocess.run(collect, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def shape(command: list[str]) -> list[str]:
    """Without where it listens, how many it is and where it keeps its file."""
    own = {"--host", "--port", "--uds", "--workers", "--concurrency", "--schedule"}
    kept, after = [], ""
    for word in command:
        if after not in own and word not in own:
            kept.append(word)
        after = word
    return kept


def test_dashboard_and_alerts_name_metrics_that_there_are() -> None:
    from llm_credentials import metrics as counted
    from project import metrics as site

    there = set(
        re.findall(r'"(keyswitch_\w+)"', Path(str(counted.__file__)).read_text() + Path(str(site.__file__)).read_text())
    )
    for name in ("alerts.yaml", "grafana.json"):
        used = {
            re.sub(r"_(total|bucket|count|sum)$", "", one)
            for one in re.findall(r"keyswitch_\w+", (DEPLOY / name).read_text())
        }
        assert used, name
        assert used <= there, f"{name}: {used - there}"


def test_deployment_files_are_named_in_the_page() -> None:
    page = (BASE_DIR / "docs/deploy.md").read_text()
    unnamed = [path.name for path in DEPLOY.iterdir() if path.name not in page and path.suffix != ".sh"]
    assert [name for name in unnamed if not name.startswith("keyswitch-")] == []
    assert shutil.which("sh")
