#!/usr/bin/env python
"""Django's command line."""

import sys

from project.env import use_settings


def main() -> None:
    use_settings("project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
