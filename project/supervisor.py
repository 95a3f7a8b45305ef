"""Starts and stops the processes of ``make run``: Valkey, the sandbox provider, the web server and the worker, in this
order.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from project import env, memory
from project.embedded import SOCKET_PATH_LIMIT, NoValkey, valkey_command
from project.env import BASE_DIR, RUN_DIR
from project.processes import Child, ChildStopped, Interrupted, Signals, stop_together

START_LIMIT_S = 90.0
RESTART_AFTER_S = 10.0
"""Long enough for a process that always fails at once not to flood the terminal and the machine."""
# At most 14 s in total: 15 s are promised for a stop.
STOP_WEB_AND_WORKER = [(signal.SIGTERM, 7.0), (signal.SIGQUIT, 2.0)]
"""SIGQUIT is Celery's cold shutdown: running tasks return to the queue."""
STOP_SANDBOX = [(signal.SIGTERM, 2.0)]
STOP_BROKER = [(signal.SIGTERM, 3.0)]


ACCOUNTS = RUN_DIR / "accounts.json"
"""Generated passwords not shown yet: the start may fail in between."""


class CannotStart(RuntimeError):
    """One clear line for the person who typed the command."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Supervisor:
    def __init__(self, say: Callable[[str], None], *, port: int, host: str = "127.0.0.1") -> None:
        self.say = say
        self.host, self.port = host, port
        self.signals = Signals()
        self.children: dict[str, Child] = {}
        self.ended: dict[str, float] = {}
        """Children that ended unexpectedly → when to restart them, on the monotonic clock."""
        self.extra: dict[str, str] = {"LOCAL": env.text("LOCAL") or "true", "PYTHONUNBUFFERED": "1"}
        self.stack = ExitStack()

    def run(self) -> int:
        """Start, serve until told to stop, then stop. Returns the exit code."""
        code = 1
        try:
            self._start()
            while True:
                self.signals.wait(1.0 if self.ended else 5.0)
                self._start_again(time.monotonic())
        except Interrupted:
            code = 0
        except (CannotStart, ChildStopped, NoValkey, TimeoutError) as problem:
            self.say(str(problem))
        finally:
            self._stop()
        return code

    def _start(self) -> None:
        RUN_DIR.mkdir(mode=0o700, exist_ok=True)
        self._take_lock()
        self._open_port()
        self._empty_metrics()
        self._start_valkey()
        self._start_sandbox()
        self._write_run_env()
        passwords = self._prepare()
        self._start_worker()
        self._start_web()
        self.signals.wait_until(self._ready, self.children.values(), START_LIMIT_S, "The site's first answer")
        self.say(self._welcome(passwords))
        ACCOUNTS.unlink()

    def _start_again(self, now: float) -> None:
        """Restart ended children after a pause; the rest of the site keeps running and reports what is missing."""
        for name, child in self.children.items():
            if child.running:
                continue
            if name not in self.ended:
                self.ended[name] = now + RESTART_AFTER_S
                self.say(f"{child.end()}; it is started again in {RESTART_AFTER_S:.0f} s. Its log: .run/{name}.log")
            elif now >= self.ended[name]:
                del self.ended[name]
                child.start_again()

    def _take_lock(self) -> None:
        """The kernel releases the lock when this process ends, however it ends."""
        lock = self.stack.enter_context((RUN_DIR / "lock").open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CannotStart(
                f"Keyswitch already runs in this folder (process {lock.read().strip() or 'unknown'}): stop it first."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()

    def _open_port(self) -> None:
        """Kept open and passed to the web server, so that no other program takes the port."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.door = self.stack.enter_context(socket.socket(family))
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.door.bind((self.host, self.port))
        except OverflowError:
            raise CannotStart(f"PORT must be between 1 and 65535, not {self.port}.") from None
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise CannotStart(f"Cannot listen on {self.host}, port {self.port}: {problem.strerror}.") from None
            raise CannotStart(
                f"Port {self.port} is taken by another program: stop that one, or choose another port with "
                f"PORT={self.port + 1} make run"
            ) from None

    def _spawn(self, name: str, command: list[str], pass_fds: Collection[int] = ()) -> Child:
        environment = env.child_environment(**self.extra)
        log = RUN_DIR / f"{name}.log"
        child = Child(name, command, log=log, env=environment, cwd=BASE_DIR, pass_fds=pass_fds)
        self.children[name] = child
        return child

    def _empty_metrics(self) -> None:
        """Counts start at zero: files of ended processes would only accumulate."""
        given, link = env.text("METRICS_DIR"), RUN_DIR / "metrics"
        self.extra["METRICS_DIR"] = given or str(memory.fresh_folder(link))
        if not given:
            self.stack.callback(memory.remove_folder, link)

    def _start_valkey(self) -> None:
        if given := env.secret("REDIS_URL"):
            self.extra["REDIS_URL"] = given
            self._answers(given)
            return
        directory = RUN_DIR / "valkey"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = RUN_DIR / "valkey.sock"
        if len(str(path)) < SOCKET_PATH_LIMIT:
            command, url = valkey_command(directory, socket=path), f"unix://{path}"
        else:
            port = free_port()
            command, url = valkey_command(directory, port=port), f"redis://127.0.0.1:{port}/0"
        self.extra["REDIS_URL"] = url
        valkey = self._spawn("valkey", command)
        self.signals.wait_until(lambda: self._pings(url), [valkey], 20, "Valkey's first answer")

    def _answers(self, url: str) -> None:
        if not self._pings(url):
            raise CannotStart("Nothing answers at REDIS_URL: start that server, or unset it to get one of your own.")

    @staticmethod
    def _pings(url: str) -> bool:
        try:
            with redis.Redis.from_url(url, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError, ValueError):
            return False

    def _start_sandbox(self) -> None:
        """It chooses a free port and writes it to its log."""
        sandbox = self._spawn("sandbox-provider", [sys.executable, "manage.py", "sandbox_provider", "--port", "0"])
        self.signals.wait_until(lambda: bool(_address(sandbox)), [sandbox], 30, "The sandbox provider's start")
        self.extra["SANDBOX_URL"] = url = _address(sandbox)
        # A restart must use the same port, which others know already.
        sandbox.command = [*sandbox.command[:-1], url.rpartition(":")[2]]
        self.extra["LLM_EGRESS_ALLOW"] = ",".join([*env.words("LLM_EGRESS_ALLOW"), url.removeprefix("http://")])

    def _write_run_env(self) -> None:
        """For other ``manage.py`` commands in this checkout while this process lives."""
        names = ("REDIS_URL", "SANDBOX_URL", "LLM_EGRESS_ALLOW", "LOCAL")
        text = "".join(f"{name}={self.extra[name]}\n" for name in names) + f"SUPERVISOR_PID={os.getpid()}\n"
        env.write_private(env.RUN_ENV_FILE, text)
        self.stack.callback(env.RUN_ENV_FILE.unlink, missing_ok=True)

    def _prepare(self) -> dict[str, str]:
        """Migrate and create the accounts in a process with the new settings; returns the passwords not shown yet."""
        command = [sys.executable, "manage.py", "prepare_site", "--accounts", str(ACCOUNTS)]
        child = self._spawn("setup", command)
        self.signals.wait_until(lambda: not child.running, [], START_LIMIT_S, "Setting the database up")
        if child.process.returncode != 0:
            child.check()
        del self.children["setup"]
        passwords: dict[str, str] = json.loads(ACCOUNTS.read_text())
        return passwords

    def _start_worker(self) -> None:
        beat = ["--beat", "--schedule", str(RUN_DIR / "beat")] if _has_schedule() else []
        options = ["--concurrency", "2", "--loglevel", "INFO", "--without-mingle", "--without-gossip"]
        self._spawn("worker", [sys.executable, "-m", "celery", "-A", "project", "worker", *options, *beat])

    def _start_web(self) -> None:
        door = self.door.fileno()
        self._spawn("web", [sys.executable, "-m", "project.serve", str(door)], pass_fds=[door])

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(self._reachable_host, self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            state = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
        return answer.status == 200 and state.get("worker") == "ok"

    @property
    def _reachable_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104

    def _welcome(self, passwords: dict[str, str]) -> str:
        shown = "localhost" if self._reachable_host == "127.0.0.1" else self._reachable_host
        lines = ["", f"Keyswitch is ready: http://{shown}:{self.port}/", ""]
        for name, what in (("demo", "a user"), ("staff", "may see /admin/")):
            if name in passwords:
                lines.append(f"  sign in as {name:<6} password {passwords[name]:<14} ({what})")
        if passwords:
            lines.append("  These passwords are shown this once and stored nowhere.")
        reset = [name for name in ("demo", "staff") if name not in passwords]
        if reset:
            lines.append(f"  Accounts: {' and '.join(reset)}. Passwords were shown at the first start; a new one:")
            lines += [f"    .venv/bin/python manage.py changepassword {name}" for name in reset]
        return "\n".join([*lines, "", *_FIRST_CLICKS, "", "Logs: .run/*.log. Ctrl-C stops everything."])

    def _stop(self) -> None:
        if self.children:
            self.say("Stopping.")
        groups = (
            (("web", "worker", "setup"), STOP_WEB_AND_WORKER),
            (("sandbox-provider",), STOP_SANDBOX),
            (("valkey",), STOP_BROKER),
        )
        for names, steps in groups:
            stop_together([self.children[name] for name in names if name in self.children], steps)
        self.stack.close()
        if self.children:
            self.say("Stopped.")


_FIRST_CLICKS = (
    "First three clicks:",
    '  1. Sign in as demo: the provider "Sandbox" already has a working key, and costs nothing.',
    "  2. Settings, Providers: open the Sandbox card and press Test key, or add a key of your own.",
    "  3. Agents, Conversation: write something and watch the answer come.",
)


def _address(sandbox: Child) -> str:
    """The address from its log; empty until it is there."""
    found = re.search(r"http://127\.0\.0\.1:\d+", sandbox.log.read_text(errors="replace"))
    return found[0] if found else ""


def _has_schedule() -> bool:
    from django.conf import settings

    return bool(getattr(settings, "CELERY_BEAT_SCHEDULE", None))
