"""Form fields for how a run is made, beside the agent's own fields."""

from __future__ import annotations

from datetime import time
from decimal import Decimal
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.utils.translation import gettext_lazy as _

from agents.schedules import Every
from agents.turns import choice_parts

WEEKDAYS = (
    *((0, _("Monday")), (1, _("Tuesday")), (2, _("Wednesday")), (3, _("Thursday"))),
    *((4, _("Friday")), (5, _("Saturday")), (6, _("Sunday"))),
)
OPTION_PREFIX = "option"
"""Prefix of the agent's own fields, so that they cannot collide with these."""


class HowForm(forms.Form):
    choice = forms.CharField(required=False, max_length=300)
    max_cost_usd = forms.DecimalField(
        label=_("May cost at most, in US dollars"),
        required=False,
        min_value=Decimal("0.0001"),
        max_value=1000,
        max_digits=10,
        decimal_places=4,
        help_text=_("It ends before a call that would cost more. Empty: your budgets alone hold."),
        widget=forms.NumberInput(attrs={"inputmode": "decimal", "placeholder": "0.50"}),
    )
    mail_when_done = forms.BooleanField(label=_("Mail me when it has ended, or needs my yes"), required=False)
    webhook_when_done = forms.BooleanField(
        label=_("Tell my webhook when it has ended, or needs my yes"), required=False
    )

    def how(self) -> dict[str, Any]:
        """Arguments of ``runs.run_create``, once the form is valid."""
        provider, model = choice_parts(self.cleaned_data["choice"])
        names = ("max_cost_usd", "mail_when_done", "webhook_when_done")
        return {"provider": provider, "model": model, **{name: self.cleaned_data[name] for name in names}}


class WhenForm(forms.Form):
    every = forms.ChoiceField(label=_("Start it"), choices=Every, initial=Every.DAY)
    at = forms.TimeField(label=_("At"), initial=time(8), widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"))
    weekday = forms.TypedChoiceField(label=_("On"), choices=WEEKDAYS, coerce=int, initial=0)
    time_zone = forms.CharField(
        label=_("Time zone"), max_length=64, initial="UTC", widget=forms.TextInput(attrs={"list": "time-zones"})
    )


def time_zones() -> list[str]:
    names = (name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))
    return [*sorted(names), "UTC"]
