"""Where a user's calls would go now, and why not elsewhere. Calls nobody and opens no key."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from llm_credentials.factory import Route, explain_route
from llm_credentials.policies import policy_of
from llm_credentials.routing import kinds, snapshot_cache


class Command(BaseCommand):
    help = "Explain where a user's calls would go: the chosen key and model, the chain after it, and what is left out."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--task", help="only this kind of task (default: calls of no kind, and every kind)")
        parser.add_argument("--provider", help="as if the call named this provider")
        parser.add_argument("--model", help="as if the call named this model")
        parser.add_argument("--need", action="append", default=[], choices=sorted(kinds.NEEDS), help="may be repeated")

        parser.add_argument(
            "--without",
            action="append",
            default=[],
            metavar="KEY",
            help="as if this had failed: a provider, provider:name, or system; may be repeated",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()
        try:
            user = users._default_manager.get_by_natural_key(options["username"])
        except users.DoesNotExist:
            raise CommandError(f"There is no user called {options['username']!r}.") from None
        task: str | None = options["task"]
        known = [kind.slug for kind in kinds.all()]
        if task and task not in known:
            raise CommandError(f"There is no task called {task!r}; there are: {', '.join(known) or 'none'}.")
        if rules := policy_of(user).words:
            self.stdout.write("policy of the organisation:")
            for rule in rules:
                self.stdout.write(f"  {rule}")
        snapshot = snapshot_cache.load(user).snapshot
        for named in options["without"]:
            if not snapshot.refs(named):
                raise CommandError(f"{named!r} names no key here: give a provider, provider:name, or system.")
        for each in [task] if task else [None, *known]:
            route = explain_route(
                user,
                task=each,
                provider=options["provider"],
                model=options["model"],
                needs=options["need"],
                without=options["without"],
            )
            self.stdout.write(f"{each or 'any call'}:")
            for line in _lines(route):
                self.stdout.write(f"  {line}")


def _lines(route: Route) -> list[str]:
    if route.problem:
        return [route.problem]
    tried = [
        f"{number}. {each.key.title} with {each.model}: {each.reason}"
        for number, each in enumerate(route.candidates, 1)
    ]
    return [
        *(tried or ["no key can be used"]),
        *(f"-  {each.key.title}: {each.words}" for each in route.dropped),
    ]
