#!/usr/bin/env python
"""Django's command line."""

import sys

from django.core.exceptions import ImproperlyConfigured

from project.env import use_settings


def main() -> None:
    use_settings("project.settings")
    from django.core.management import execute_from_command_line

    from llm_credentials.wall import open_for

    try:
        # For the operator; servers that a command starts answer in other threads and processes.
        with open_for("manage.py"):
            execute_from_command_line(sys.argv)
    except ImproperlyConfigured as problem:
        sys.exit(f"manage.py: {problem}")


if __name__ == "__main__":
    main()
