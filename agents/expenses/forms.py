"""Forms of the page on which an expense is checked and corrected. They show and pass on fields; services validate."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from agents.expenses.services import DIFFERENCE, DUPLICATE
from agents.expenses.values import MAX_LINES, Category

SPARE_LINES = 3
AMOUNT = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"})


class ExpenseForm(forms.Form):
    vendor = forms.CharField(label=_("Vendor"), required=False)
    date = forms.CharField(label=_("Date"), required=False, widget=forms.DateInput(attrs={"type": "date"}))
    currency = forms.CharField(
        label=_("Currency"),
        required=False,
        max_length=20,
        widget=forms.TextInput(attrs={"list": "currencies", "autocomplete": "off", "spellcheck": "false"}),
    )
    category = forms.CharField(label=_("Category"), required=False, widget=forms.Select(choices=Category.choices))
    tax = forms.CharField(label=_("Tax"), required=False, widget=AMOUNT)
    total = forms.CharField(label=_("Total"), required=False, widget=AMOUNT)
    tax_included = forms.BooleanField(label=_("The lines contain the tax"), required=False)
    note = forms.CharField(label=_("Note"), required=False, widget=forms.Textarea(attrs={"rows": 2}))
    version = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1, widget=forms.HiddenInput)
    accept_difference = forms.BooleanField(label=_("Keep it as the receipt says"), required=False)
    accept_duplicate = forms.BooleanField(label=_("Keep it all the same: it is another one"), required=False)

    def accepted(self) -> set[str]:
        return {name for name in (DIFFERENCE, DUPLICATE) if self.cleaned_data.get(f"accept_{name}")}

    def fields_given(self) -> dict[str, Any]:
        names = ("vendor", "date", "currency", "category", "tax", "total", "tax_included", "note")
        return {name: self.cleaned_data.get(name) for name in names}

    def tell(self, error: ValidationError) -> dict[str, list[str]]:
        """Attach a service's errors to their fields; returns those that belong to no field."""
        others = {}
        for name, texts in error.message_dict.items():
            if name in self.fields:
                self.add_error(name, texts)
            else:
                others[name] = texts
        return others


class LineForm(forms.Form):
    description = forms.CharField(label=_("What"), required=False)
    quantity = forms.CharField(label=_("Quantity"), required=False, widget=AMOUNT)
    unit_price = forms.CharField(label=_("Price"), required=False, widget=AMOUNT)
    amount = forms.CharField(label=_("Amount"), required=False, widget=AMOUNT)


LineForms = forms.formset_factory(LineForm, extra=SPARE_LINES, max_num=MAX_LINES, absolute_max=MAX_LINES + 50)


def forms_of(data: Any = None, initial: Mapping[str, Any] | None = None) -> tuple[ExpenseForm, Any]:
    """The form and its line forms: bound to submitted data, or filled from an expense."""
    if data is not None:
        return ExpenseForm(data), LineForms(data, prefix="line")
    fields = {name: _shown(value) for name, value in (initial or {}).items()}
    lines = [{name: _shown(value) for name, value in line.items()} for line in fields.pop("lines", None) or []]
    return ExpenseForm(initial={"tax_included": True} | fields), LineForms(initial=lines, prefix="line")


def _shown(value: Any) -> Any:
    """Amounts without the trailing zeros that the database adds."""
    if not isinstance(value, Decimal):
        return value
    places = max(0, -int(value.normalize().as_tuple().exponent))
    return format(round(value, 2) if places <= 2 and places else value.normalize(), "f")
