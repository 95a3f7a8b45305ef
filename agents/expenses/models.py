"""Expenses: what users confirmed of their receipts. Every row belongs to one user."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.urls import reverse

from agents.expenses.values import PLACES, Category, money_words

if TYPE_CHECKING:
    from django.contrib.auth.models import User

DIGITS = 15
"""Digits of an amount: as many as SQLite stores exactly."""


class ExpenseQuerySet(models.QuerySet["Expense"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def newest_first(self) -> Self:
        return self.order_by("-date", "-created_at")

    def with_words(self, query: str) -> Self:
        """Expenses that contain all these words in vendor, lines or note."""
        from agents.text_search import words_of  # it imports the models

        found = self
        for word in words_of(query):
            found = found.filter(search_text__contains=word)
        return found

    def of_month(self, first_day: dt.date) -> Self:
        after = (first_day.replace(day=28) + dt.timedelta(days=4)).replace(day=1)
        return self.filter(date__gte=first_day.replace(day=1), date__lt=after)


class Expense(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="expenses")
    run = models.OneToOneField(
        "agents.AgentRun", null=True, blank=True, on_delete=models.SET_NULL, related_name="expense"
    )
    """The run that read the receipt; at most one expense is kept per run."""
    attachment = models.ForeignKey(
        "agents.Attachment", null=True, blank=True, on_delete=models.SET_NULL, related_name="expenses"
    )
    """The receipt itself, or its first page."""
    vendor = models.CharField(max_length=200)
    date = models.DateField()
    currency = models.CharField(max_length=3)
    tax = models.DecimalField(max_digits=DIGITS, decimal_places=PLACES, null=True, blank=True)
    tax_included = models.BooleanField(default=True)
    """Whether the amounts of the lines include tax."""
    total = models.DecimalField(max_digits=DIGITS, decimal_places=PLACES)
    category = models.CharField(max_length=20, choices=Category, default=Category.OTHER)
    note = models.TextField(blank=True)
    search_text = models.TextField(blank=True)
    """Searchable text in lower case; see ``agents.text_search``."""
    version = models.PositiveIntegerField(default=1)
    """Incremented with each change; callers may pass the version they have seen."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ExpenseQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "-date"])]

    def __str__(self) -> str:
        return f"Expense {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("agents:expense-detail", args=[self.pk])

    @property
    def total_words(self) -> str:
        return money_words(self.total, self.currency)


class ExpenseLine(models.Model):
    expense = models.ForeignKey(Expense, on_delete=models.CASCADE, related_name="lines")
    position = models.PositiveSmallIntegerField()
    description = models.CharField(max_length=300)
    quantity = models.DecimalField(max_digits=DIGITS, decimal_places=PLACES, null=True, blank=True)
    unit_price = models.DecimalField(max_digits=DIGITS, decimal_places=PLACES, null=True, blank=True)
    amount = models.DecimalField(max_digits=DIGITS, decimal_places=PLACES)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["expense", "position"], name="one_line_a_position")]

    def __str__(self) -> str:
        return f"Line {self.position} of expense {self.expense_id}"
