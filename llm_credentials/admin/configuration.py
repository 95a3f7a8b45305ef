"""The site's configuration rows, and the page of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.urls import URLPattern

from llm_credentials.admin.bases import AuditedConfiguration, KeylessLookups, Trace
from llm_credentials.admin.site_models import site_model_urls
from llm_credentials.audit import Action, target_of
from llm_credentials.models import SystemConfig
from llm_credentials.validation import clean_config

if TYPE_CHECKING:
    _ConfigForm = forms.ModelForm[SystemConfig]
else:
    _ConfigForm = forms.ModelForm


class SystemConfigForm(_ConfigForm):
    class Meta:
        model = SystemConfig
        fields = ("category", "key", "value")

    def clean_value(self) -> Any:
        return clean_config(self.cleaned_data["value"])


@admin.register(SystemConfig)
class SystemConfigAdmin(AuditedConfiguration, KeylessLookups):
    form = SystemConfigForm
    change_list_template = "admin/llm_credentials/systemconfig/change_list.html"
    list_display = ("category", "key", "updated_at")
    list_filter = ("category",)
    ordering = ("category", "key")

    def get_urls(self) -> list[URLPattern]:
        return [*site_model_urls(self), *super().get_urls()]

    def trace_of(self, obj: SystemConfig) -> Trace:
        target = target_of("config", obj.category, obj.key)
        return {"action": Action.CONFIG_CHANGE, "subject": "system", "target": target}
