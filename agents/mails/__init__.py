"""What agents need that write mails. Django-free."""
