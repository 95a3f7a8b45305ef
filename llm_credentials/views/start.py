"""The first key in three steps: choose a provider, paste the key, see it work."""

from __future__ import annotations

from dataclasses import dataclass

from django import forms
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import stepup
from llm_credentials.policies import policy_of
from llm_credentials.providers import ProviderSpec
from llm_credentials.providers.registry import recognise, specs
from llm_credentials.services import credential_save, settings_update
from llm_credentials.views.answers import UserRequest, find_card, find_spec
from llm_credentials.views.cards import ProvidersPage, providers_page
from llm_credentials.views.credentials import test_new_key
from llm_credentials.views.shown_keys import DEFAULT_NAME, Card

PAGE = "llm_credentials/provider_start.html"


class StartForm(forms.Form):
    """An empty provider is detected from the key. Never renders a key."""

    provider = forms.CharField(required=False, max_length=40)
    api_key = forms.CharField(required=False, strip=False, widget=forms.PasswordInput(render_value=False))


@dataclass(frozen=True, kw_only=True)
class StartPage:
    providers: tuple[ProviderSpec, ...]
    """Providers that need only a key."""
    chosen: str
    saved: Card | None
    """The key that was just saved, shown in the third step."""
    system_labels: tuple[str, ...]
    form: StartForm
    own_keys: bool

    @property
    def step(self) -> int:
        return 3 if self.saved is not None else 2 if self.chosen else 1

    @property
    def refreshes(self) -> bool:
        return self.saved is not None and self.saved.is_testing

    @property
    def slots(self) -> list[tuple[str, list[str]]]:
        """Each field with its errors."""
        errors = self.form.errors if self.form.is_bound else {}
        return [(name, [str(text) for text in errors.get(name, [])]) for name in ("provider", "api_key")]


def needs_only_a_key(spec: ProviderSpec) -> bool:
    settled = all(not option.required or option.default for option in spec.options)
    return spec.key_required and not spec.needs_base_url and settled


@require_GET
@never_cache
@login_required
def provider_start(request: UserRequest) -> HttpResponse:
    """``saved``: the provider (and ``name``) of the saved key; ``provider``: a preselected one."""
    page = providers_page(request.user)
    saved = None
    if request.GET.get("saved"):
        saved = find_card(page, find_spec(request.GET["saved"]), request.GET.get("name", ""))
    if (saved is None or saved.credential is None) and not stepup.is_recent(request):
        # Step-up comes before any input, so that no key has to be kept meanwhile.
        return stepup.lead(request, reverse("llm_credentials:provider-start"))
    return _show(request, page, saved=saved if saved and saved.credential else None)


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
@sensitive_variables("form", "api_key")
def start_save(request: UserRequest) -> HttpResponse:
    """Store the key for the chosen or detected provider, and test it."""
    page = providers_page(request.user)
    form = StartForm(request.POST)
    if not form.is_valid():
        return _refuse(request, page, form)
    if not stepup.is_recent(request):
        return stepup.lead(request, reverse("llm_credentials:provider-start"))
    api_key = form.cleaned_data["api_key"].strip()
    try:
        spec = _provider(form.cleaned_data["provider"], api_key)
        saved = credential_save(
            user=request.user, provider=spec.slug, name=_free_name(page, spec), api_key=api_key
        ).credential
    except ValidationError as error:
        for name, texts in error.message_dict.items():
            for text in texts:
                form.add_error(name if name in form.fields else "api_key", text)
        return _refuse(request, page, form)
    test_new_key(request, saved)
    place = f"{reverse('llm_credentials:provider-start')}?saved={saved.provider}&name={saved.name}"
    return HttpResponse(headers={"HX-Redirect": place}) if request.htmx else redirect(place)


@require_POST
@never_cache
@login_required
def start_with_system(request: UserRequest) -> HttpResponse:
    """Continue without an own key; the organisation's may answer."""
    settings_update(user=request.user, fallback_to_system=True)
    return redirect("home")


@sensitive_variables("api_key")
def _provider(chosen: str, api_key: str) -> ProviderSpec:
    """Raises ValidationError if the provider cannot be detected, or the key clearly belongs to another one than was
    chosen.
    """
    found = recognise(api_key) if api_key else ()
    if not chosen:
        if len(found) == 1:
            return found[0]
        if not found:
            raise ValidationError({"provider": [_("The key does not tell whose it is. Choose its provider.")]})
        names = _(" or ").join(spec.label for spec in found)
        raise ValidationError({"provider": [_("Keys of %(names)s look like this. Choose one.") % {"names": names}]})
    spec = find_spec(chosen)
    if found and spec not in found and spec.key_shapes:
        words = _("This looks like a key of %(other)s. Choose %(other)s, or paste your %(provider)s key.")
        raise ValidationError({"api_key": [words % {"other": found[0].label, "provider": spec.label}]})
    return spec


def _free_name(page: ProvidersPage, spec: ProviderSpec) -> str:
    """A name that does not replace a stored key."""
    kin = [card for card in page.cards if card.spec.slug == spec.slug]
    return kin[0].further_name if any(card.name == DEFAULT_NAME for card in kin) else DEFAULT_NAME


def _refuse(request: UserRequest, page: ProvidersPage, form: StartForm) -> HttpResponse:
    if not request.htmx:
        return _show(request, page, form=form, status=422)
    response = _show(request, page, form=form, status=422, part="#errors_answer")
    response["HX-Reswap"] = "none"
    return response


def _show(
    request: UserRequest,
    page: ProvidersPage,
    *,
    saved: Card | None = None,
    form: StartForm | None = None,
    status: int = 200,
    part: str = "",
) -> HttpResponse:
    policy = policy_of(request.user)
    providers = tuple(spec for spec in specs() if needs_only_a_key(spec) and not policy.refusal_of_provider(spec))
    chosen = saved.spec.slug if saved else (form.data if form else request.GET).get("provider", "")
    start = StartPage(
        providers=providers,
        chosen=chosen if any(spec.slug == chosen for spec in providers) else "",
        saved=saved,
        system_labels=page.system_labels,
        form=form or StartForm(),
        own_keys=policy.own_keys,
    )
    return render(request, f"{PAGE}{part}", {"page": start, "card": saved}, status=status)
