"""Staff's rules: policies of groups, allowances of users and of the site."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _

from llm_credentials import limits, services
from llm_credentials.admin.bases import AuditedConfiguration, Trace
from llm_credentials.audit import Action, target_of
from llm_credentials.ledger import budgets
from llm_credentials.models import GroupPolicy, SystemConfig, UserAllowance
from llm_credentials.policies import clean_patterns
from llm_credentials.providers import provider_choices
from llm_credentials.templatetags.keyswitch import money

if TYPE_CHECKING:
    _PolicyForm = forms.ModelForm[GroupPolicy]
else:
    _PolicyForm = forms.ModelForm

RATE_PREFIX = "rate_"


class GroupPolicyForm(_PolicyForm):
    """Lists as checkboxes and lines, with a field for each kind of limit."""

    allowed_providers = forms.MultipleChoiceField(
        choices=provider_choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label=_("Providers"),
        help_text=_("None checked: all, those that come later included."),
    )
    allowed_models = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false", "placeholder": "openai/gpt-5*\n*/llama-*"}),
        label=_("Models"),
        help_text=_("One pattern a line, provider/model with * and ?. Empty: all."),
    )

    class Meta:
        model = GroupPolicy
        fields = ("group", "own_keys", "custom_addresses", "system_keys", "system_daily_usd")
        labels: ClassVar[dict[str, str]] = {
            "own_keys": "Users may use keys of their own",
            "custom_addresses": "Keys of their own may go to addresses of their own",
            "system_keys": "The site's keys may stand behind",
            "system_daily_usd": "A day on the site's keys, in US dollars",
        }
        help_texts: ClassVar[dict[str, str]] = {
            "group": "Empty: everybody.",
            "system_daily_usd": "Each user. Empty: as the allowance of all users says.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["allowed_providers"] = self.instance.allowed_providers
        self.initial["allowed_models"] = "\n".join(self.instance.allowed_models)
        for kind, words in limits.KINDS.items():
            self.fields[RATE_PREFIX + kind] = forms.CharField(
                label=words[0].upper() + words[1:],
                required=False,
                max_length=20,
                initial=self.instance.rates.get(kind, ""),
                widget=forms.TextInput(attrs={"size": 8, "placeholder": "no further"}),
            )

    def clean_allowed_models(self) -> list[str]:
        return clean_patterns(self.cleaned_data["allowed_models"].splitlines())

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for kind in limits.KINDS:
            try:
                if rate := cleaned.get(RATE_PREFIX + kind):
                    limits.check_rate(rate)
            except ValueError as error:
                self.add_error(RATE_PREFIX + kind, str(error))
        return cleaned

    def save(self, commit: bool = True) -> GroupPolicy:
        self.instance.allowed_providers = self.cleaned_data["allowed_providers"]
        self.instance.allowed_models = self.cleaned_data["allowed_models"]
        given = {kind: self.cleaned_data.get(RATE_PREFIX + kind, "") for kind in limits.KINDS}
        self.instance.rates = {kind: rate for kind, rate in given.items() if rate}
        return super().save(commit)


@admin.register(GroupPolicy)
class GroupPolicyAdmin(AuditedConfiguration):
    form = GroupPolicyForm
    list_display = ("__str__", "providers", "model_patterns", "own_keys", "custom_addresses", "system_keys", "daily")
    list_select_related = ("group",)
    ordering = ("group__name", "created_at")
    fieldsets = (
        (
            None,
            {
                "fields": ("group",),
                "description": "Without a group a policy holds for everybody. A user for whom several hold may do what "
                "each of them allows, and of limits every one counts: a further group never opens anything.",
            },
        ),
        ("Providers and models", {"fields": ("allowed_providers", "allowed_models")}),
        ("Keys", {"fields": ("own_keys", "custom_addresses", "system_keys", "system_daily_usd")}),
        (
            "Limits",
            {
                "fields": tuple(RATE_PREFIX + kind for kind in limits.KINDS),
                "description": "Each user, beside the limits of the site: a count and a period, such as 10/m, 500/h or "
                "1000/d. Empty: only the site's.",
            },
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: GroupPolicy | None = None) -> Any:
        """Users with only view permission see the raw columns."""
        if self.has_change_permission(request, obj):
            return self.fieldsets
        columns = ("allowed_providers", "allowed_models", *self.fieldsets[2][1]["fields"], "rates")
        return ((None, {"fields": ("group", *columns)}),)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        # Form fields that are not model columns must not be requested from the model.
        return super().get_form(request, obj, change, **{**kwargs, "fields": GroupPolicyForm.Meta.fields})

    @admin.display(description=_("providers"))
    def providers(self, row: GroupPolicy) -> str:
        return ", ".join(row.allowed_providers) or "all"

    @admin.display(description=_("models"))
    def model_patterns(self, row: GroupPolicy) -> str:
        return ", ".join(row.allowed_models) or "all"

    @admin.display(description=_("a day on the site's keys"))
    def daily(self, row: GroupPolicy) -> str:
        return "no limit" if row.system_daily_usd is None else money(row.system_daily_usd)

    def trace_of(self, obj: GroupPolicy) -> Trace:
        return {"action": Action.CONFIG_CHANGE, "subject": "system", "target": target_of("policy", obj.pk)}


class SiteAllowanceForm(forms.Form):
    """Spending limits for all users on the site's keys; empty is no limit."""

    daily_usd_per_user = forms.DecimalField(
        required=False, min_value=0, max_digits=10, decimal_places=2, label=_("A day and user, in US dollars")
    )
    daily_usd_total = forms.DecimalField(
        required=False,
        min_value=0,
        max_digits=12,
        decimal_places=2,
        label=_("A day, all users together, in US dollars"),
    )
    unpriced_models = forms.BooleanField(
        required=False,
        label=_("Allow models whose price is unknown"),
        help_text=_("What they cost is counted by nobody."),
    )


@admin.register(UserAllowance)
class UserAllowanceAdmin(AuditedConfiguration):
    """Exceptions for single users; shown above them: the rule for all, and today's heaviest users."""

    change_list_template = "admin/llm_credentials/userallowance/change_list.html"
    list_display = ("user", "allowance", "used_today", "note", "updated_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email", "note")
    autocomplete_fields = ("user",)
    fields = ("user", "daily_usd", "note")
    ordering = ("user__username",)

    def get_readonly_fields(self, request: HttpRequest, obj: UserAllowance | None = None) -> tuple[str, ...]:
        return ("user",) if obj is not None else ()

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows: models.QuerySet[Any] = super().get_queryset(request).annotate(spent_usd=budgets.spent_today_subquery())
        return rows

    @admin.display(description=_("a day"), ordering="daily_usd")
    def allowance(self, row: UserAllowance) -> str:
        return money(row.daily_usd)

    @admin.display(description=_("used today"), ordering="spent_usd")
    def used_today(self, row: Any) -> str:
        return money(row.spent_usd or Decimal(0))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        config = SystemConfig.objects.filter(category="llm", key="system_allowance").values_list("value", flat=True)
        extra = {
            "allowance": budgets.limits_from(None, config.first()),
            "spent_total_usd": budgets.spent_usd("total", None),
            "spenders": budgets.spenders_today(),
            "may_change_site": request.user.has_perm("llm_credentials.change_systemconfig"),
        }
        return super().changelist_view(request, extra | (extra_context or {}))

    def get_urls(self) -> list[URLPattern]:
        page = path("site/", self.admin_site.admin_view(self.site_view), name="llm_credentials_site_allowance")
        return [page, *super().get_urls()]

    def site_view(self, request: HttpRequest) -> HttpResponse:
        """The limits for all users."""
        if not request.user.has_perm("llm_credentials.change_systemconfig"):
            raise PermissionDenied
        stored = SystemConfig.objects.filter(category="llm", key="system_allowance").first()
        value = stored.value if stored and isinstance(stored.value, dict) else {}
        form = SiteAllowanceForm(request.POST if request.method == "POST" else None, initial=value)
        if form.is_valid():
            try:
                services.site_allowance_set(**form.cleaned_data)
            except ValidationError as error:
                form.add_error(None, error)
            else:
                self.message_user(request, _("The allowance of the site is saved."), messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:llm_credentials_userallowance_changelist"))
        context = self.admin_site.each_context(request) | {
            "title": "Allowance on the site's keys",
            "opts": self.opts,
            "form": form,
        }
        return TemplateResponse(request, "admin/llm_credentials/userallowance/site.html", context)

    def trace_of(self, obj: UserAllowance) -> Trace:
        return {"action": Action.CONFIG_CHANGE, "subject": str(obj.user_id), "target": target_of("allowance")}
