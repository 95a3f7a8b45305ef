"""The site's models in the admin: for completions, for embeddings, and for picking agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import embeddings, site_settings, stepup
from llm_credentials.admin.bases import UNCONFIRMED
from llm_credentials.connection_tests import QueueUnavailable, TestBusy, expire_abandoned, from_catalogue
from llm_credentials.models import ConnectionTest
from llm_credentials.policies import may_change_site, may_see_site
from llm_credentials.preferences import MAX_TEMPERATURE, MAX_TOKENS
from llm_credentials.providers import ModelInfo, ProviderSpec, provider_choices, spec_or_none
from llm_credentials.site_settings import SiteChoice, SiteSettings, Use
from llm_credentials.tasks import enqueue_connection_test

PAGE: Final = "admin:llm_credentials_site_models"
View: TypeAlias = Callable[..., HttpResponse]


class _UseForm(forms.Form):
    """Provider, key, address where one is needed, and model. Service errors are shown beside their fields."""

    use: Use
    provider = forms.ChoiceField()
    api_key = forms.CharField(
        label=_("API key"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    endpoint = forms.CharField(label=_("Address"), required=False, help_text=_("Another address needs the key again."))
    model = forms.CharField(required=False, help_text=_("Empty: the provider's default."))

    def __init__(self, data: Any = None, *, settled: SiteChoice, shown: str = "") -> None:
        """``shown``: the provider to display, if it is not the stored one."""
        provider = (data or {}).get("provider") or shown or settled.provider
        moved = provider != settled.provider
        initial: dict[str, Any] = {"max_tokens": settled.max_tokens, "temperature": settled.temperature}
        if not settled.provider:
            initial = {"max_tokens": site_settings.FIRST_MAX_TOKENS, "temperature": site_settings.FIRST_TEMPERATURE}
        if not moved:
            initial |= {"model": settled.model, "endpoint": settled.endpoint}
        super().__init__(data, initial={**initial, "provider": provider}, prefix=None, auto_id=f"{self.use}-%s")
        self.spec = spec_or_none(provider)
        cast("forms.ChoiceField", self.fields["provider"]).choices = [("", _("Not settled")), *self.providers()]
        stored = settled.masked_key if not moved else ""
        self.fields["api_key"].widget.attrs["placeholder"] = stored
        self.fields["api_key"].help_text = _("Leave it empty to keep the stored key.") if stored else ""
        for name in ("api_key", "endpoint", "model"):
            self.fields[name].widget.attrs["class"] = "vTextField"
        self.fields["api_key"].widget.attrs |= _loads_models(self.use)
        self.fields["model"].widget.attrs |= {"list": f"{self.use}-models", "autocomplete": "off"}
        if not (self["endpoint"].initial or (self.spec and _asks_for_address(self.spec))):
            del self.fields["endpoint"]

    def providers(self) -> list[tuple[str, str]]:
        return provider_choices()

    def typed(self, *names: str) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in names if name in self.cleaned_data}

    def take(self, error: ValidationError) -> None:
        for name, texts in error.message_dict.items():
            self.add_error(name if name in self.fields else None, texts)

    def save(self) -> None:
        raise NotImplementedError


def _loads_models(use: Use) -> dict[str, str]:
    """Entering a key loads its models, as the button does."""
    return {
        "hx-post": reverse("admin:llm_credentials_site_models_load", args=[use]),
        "hx-trigger": "change",
        "hx-target": f"#{use}-list",
        "hx-select": f"#{use}-list",
        "hx-swap": "outerHTML",
    }


def _asks_for_address(spec: ProviderSpec) -> bool:
    return spec.needs_base_url or (spec.self_hosted and spec.base_url_editable)


class CompletionsForm(_UseForm):
    use = "completions"
    max_tokens = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_TOKENS,
        label=_("Most tokens of an answer"),
        help_text=_("Empty: not settled here."),
    )
    temperature = forms.FloatField(
        required=False,
        min_value=0,
        max_value=MAX_TEMPERATURE,
        widget=forms.NumberInput(attrs={"step": "0.1"}),
        help_text=_("0 to 2. Empty: not settled here."),
    )

    def save(self) -> None:
        names = ("provider", "api_key", "endpoint", "model", "max_tokens", "temperature")
        site_settings.completions_set(**self.typed(*names))


class EmbeddingsForm(_UseForm):
    use = "embeddings"
    same_key_as_completions = forms.BooleanField(
        required=False,
        label=_("Use the same key as completions"),
        help_text=_("Embeddings keep that key when completions move to another provider."),
    )
    field_order = ("provider", "same_key_as_completions", "api_key", "endpoint", "model")

    def providers(self) -> list[tuple[str, str]]:
        return [(spec.slug, spec.label) for spec in site_settings.embedding_providers()]

    def save(self) -> None:
        names = ("provider", "api_key", "endpoint", "model", "same_key_as_completions")
        site_settings.embeddings_set(**self.typed(*names))


class SupervisorForm(forms.Form):
    provider = forms.ChoiceField(required=False)
    model = forms.CharField(required=False, help_text=_("Empty: the provider's default."))

    def __init__(self, data: Any = None, *, found: SiteSettings) -> None:
        chosen = found.supervisor
        initial = {"provider": chosen.provider, "model": chosen.model}
        super().__init__(data, initial=initial, auto_id="supervisor-%s")
        cast("forms.ChoiceField", self.fields["provider"]).choices = [
            ("", _("Left to the program")),
            *provider_choices(),
        ]


FORMS: Final[dict[str, type[_UseForm]]] = {"completions": CompletionsForm, "embeddings": EmbeddingsForm}
TITLES: Final[dict[str, dict[str, Any]]] = {
    "completions": {
        "title": _("Completions"),
        "save": _("Save completions"),
        "saved": _("Completions are saved."),
    },
    "embeddings": {
        "title": _("Embeddings"),
        "save": _("Save embeddings"),
        "saved": _("Embeddings are saved."),
    },
}


def _forms(found: SiteSettings, shown: dict[str, str] | None = None) -> dict[str, Any]:
    """Unbound forms with the stored values."""
    shown = shown or {}
    completions = CompletionsForm(settled=found.completions, shown=shown.get("completions", ""))
    first = site_settings.default_embedding_provider() if not found.embeddings.provider else ""
    embedding = EmbeddingsForm(settled=found.embeddings, shown=shown.get("embeddings", first))
    fits = not found.embeddings.provider and found.completions.provider == first != ""
    embedding.initial["same_key_as_completions"] = found.same_key or fits
    return {"completions": completions, "embeddings": embedding, "supervisor": SupervisorForm(found=found)}


def _known(form: _UseForm) -> list[ModelInfo]:
    wanted = "embeddings" if form.use == "embeddings" else "chat"
    listed = from_catalogue(form.spec).models if form.spec else ()
    return [info for info in listed if wanted in info.capabilities]


class _Pages:
    def __init__(self, owner: ModelAdmin[Any]) -> None:
        self.owner = owner

    def show(self, request: HttpRequest, status: int = 200, **changed: Any) -> HttpResponse:
        found = site_settings.read()
        forms_shown = {**_forms(found), **changed.pop("forms", {})}
        models = {use: _known(forms_shown[use]) for use in FORMS} | changed.pop("models", {})
        sections = [{"use": use, **TITLES[use], "form": forms_shown[use], "models": models[use]} for use in FORMS]
        context = {
            **self.owner.admin_site.each_context(request),
            **{"title": _("Models of this site"), "opts": self.owner.opts, "found": found},
            **{"sections": sections, "supervisor": forms_shown["supervisor"]},
            "index": embeddings.standing(),
            "may_change": may_change_site(_person(request)),
            **changed,
        }
        return TemplateResponse(request, "admin/llm_credentials/systemconfig/models.html", context, status=status)

    def page(self, request: HttpRequest) -> HttpResponse:
        """``?use=…&provider=…``: show one section for another provider; ``?test=…``: show a test's progress."""
        if not may_see_site(_person(request)):
            raise PermissionDenied
        if may_change_site(_person(request)) and not stepup.is_recent(request):
            return stepup.lead(request, reverse(PAGE))
        shown = {request.GET.get("use", ""): request.GET.get("provider", "")}
        return self.show(request, forms=_forms(site_settings.read(), shown), test=_test_of(request))

    def save(self, request: HttpRequest, use: str) -> HttpResponse:
        if refusal := self._refusal(request):
            return refusal
        form = _bound(request, use)
        if form.is_valid():
            try:
                form.save()
            except ValidationError as error:
                form.take(error)
            else:
                self.owner.message_user(request, TITLES[use]["saved"], messages.SUCCESS)
                return HttpResponseRedirect(reverse(PAGE))
        return self.show(request, 422, forms={use: form})

    def load(self, request: HttpRequest, use: str) -> HttpResponse:
        """Ask the provider for the models that the typed or stored key may use."""
        if refusal := self._refusal(request):
            return refusal
        form = _bound(request, use)
        if form.is_valid():
            try:
                typed = form.typed("provider", "api_key", "endpoint")
                found = site_settings.models_for(user=_person(request), use=form.use, **typed)
            except ValidationError as error:
                form.take(error)
            else:
                return self.show(request, forms={use: form}, models={use: found}, loaded=use)
        return self._refuse(request, form, "list")

    def test(self, request: HttpRequest, use: str) -> HttpResponse:
        if refusal := self._refusal(request):
            return refusal
        form = _bound(request, use)
        if form.is_valid():
            try:
                typed = form.typed("provider", "api_key", "endpoint", "model")
                test = site_settings.test_begin(user=_person(request), use=form.use, **typed)
                enqueue_connection_test(test)
            except ValidationError as error:
                form.take(error)
            except (TestBusy, QueueUnavailable) as reason:
                form.add_error(None, str(reason))
            else:
                return HttpResponseRedirect(f"{reverse(PAGE)}?test={test.pk}")
        return self._refuse(request, form, "test")

    def _refuse(self, request: HttpRequest, form: _UseForm, place: str) -> HttpResponse:
        """Shows the errors beside their fields and in the element that htmx swaps."""
        texts = [text for errors in form.errors.values() for text in errors]
        return self.show(
            request, 422, forms={form.use: form}, refused={"use": form.use, "place": place, "texts": texts}
        )

    def supervisor(self, request: HttpRequest) -> HttpResponse:
        if refusal := self._refusal(request):
            return refusal
        form = SupervisorForm(request.POST, found=site_settings.read())
        if form.is_valid():
            try:
                site_settings.supervisor_set(**form.cleaned_data)
            except ValidationError as error:
                form.add_error(None, error.messages)
            else:
                self.owner.message_user(request, _("The supervisor's model is saved."), messages.SUCCESS)
                return HttpResponseRedirect(reverse(PAGE))
        return self.show(request, 422, forms={"supervisor": form})

    def index(self, request: HttpRequest) -> HttpResponse:
        """Rebuild the index with the currently chosen model."""
        if refusal := self._refusal(request):
            return refusal
        if embeddings.remake() is None:
            self.owner.message_user(request, _("The index is up to date."), messages.INFO)
        else:
            text = _("The index is being made anew. Search goes on with the one in use until it is done.")
            self.owner.message_user(request, text, messages.SUCCESS)
        return HttpResponseRedirect(reverse(PAGE))

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        """Redirects to step-up where it is due. Raises PermissionDenied."""
        if not may_change_site(_person(request)):
            raise PermissionDenied
        if stepup.is_recent(request):
            return None
        self.owner.message_user(request, UNCONFIRMED, messages.WARNING)
        return stepup.lead(request, reverse(PAGE))


def _person(request: HttpRequest) -> AbstractBaseUser:
    return cast("AbstractBaseUser", request.user)


def _bound(request: HttpRequest, use: str) -> _UseForm:
    if use not in FORMS:
        raise Http404
    return FORMS[use](request.POST, settled=getattr(site_settings.read(), use))


def _test_of(request: HttpRequest) -> ConnectionTest | None:
    """The caller's own test named in the address."""
    try:
        test_id = UUID(request.GET.get("test", ""))
    except ValueError:
        return None
    expire_abandoned(_person(request))
    return ConnectionTest.objects.for_user(_person(request)).filter(pk=test_id, for_site=True).first()


def site_model_urls(owner: ModelAdmin[Any]) -> list[URLPattern]:
    pages, secret = _Pages(owner), sensitive_post_parameters("api_key")

    def post(view: View) -> View:
        return owner.admin_site.admin_view(require_POST(secret(view)))

    return [
        path("models/", owner.admin_site.admin_view(require_GET(pages.page)), name="llm_credentials_site_models"),
        path("models/supervisor/", post(pages.supervisor), name="llm_credentials_site_supervisor"),
        path("models/index/", post(pages.index), name="llm_credentials_site_index"),
        path("models/<slug:use>/save/", post(pages.save), name="llm_credentials_site_models_save"),
        path("models/<slug:use>/load/", post(pages.load), name="llm_credentials_site_models_load"),
        path("models/<slug:use>/test/", post(pages.test), name="llm_credentials_site_models_test"),
    ]
