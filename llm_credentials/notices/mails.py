"""Sends mails as plain text, with an HTML version of the same words."""

from __future__ import annotations

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

FRAME = "llm_credentials/mail/_frame.html"


def mail_send(text: str, *, to: str) -> None:
    """``text``: a rendered template; its first line is the subject, blank lines separate paragraphs. Raises one of
    ``MAIL_FAILURES``.
    """
    subject, _line, body = text.strip().partition("\n")
    shown = {"site": settings.SITE_NAME, "subject": subject.strip(), "paragraphs": body.strip().split("\n\n")}
    mail = EmailMultiAlternatives(f"{settings.SITE_NAME}: {shown['subject']}", body.strip() + "\n", None, [to])
    mail.attach_alternative(render_to_string(FRAME, shown), "text/html")
    mail.send()
