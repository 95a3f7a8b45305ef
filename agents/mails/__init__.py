"""What agents need that write mails. Django-free."""


def one_line(text: str) -> str:
    """For a subject: one with a line break would end the head of the mail early."""
    return " ".join(text.split())
