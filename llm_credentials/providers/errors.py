"""The errors of a call to a provider.

    LLMError
    ├── NotConfigured            no usable candidate
    ├── SiteUnavailable          503: our own database does not answer; nothing was sent
    ├── CredentialUnreadable     encrypted with a lost key, or moved
    ├── EgressBlocked            destination not allowed
    ├── BudgetExceeded
    ├── RequestRejected          400 404 413 422
    │   ├── ModelNotFound  ContextLengthExceeded  ContentFiltered  UnsupportedContent
    │   └── SecretInRequest      contains a stored key; never sent
    ├── AuthenticationFailed     bad or revoked key
    ├── PermissionDenied         403: says nothing about the key
    ├── QuotaExhausted           402, spent credit
    ├── RateLimited              429
    ├── ProviderUnavailable      5xx 529 409
    │   ├── ConnectionFailed     (also a cut before the first content)
    │   └── DeadlineExceeded     (also 408)
    ├── BadProviderResponse      not JSON, HTML, empty, 204, 3xx, wrong shape
    └── StreamInterrupted        cut after the first content; carries the partial answer
        └── AccessWithdrawn      cut by us, at any time: its key, token or account is disabled

No message quotes a provider's text or contains a key: messages are our own text. Of a provider's codes and ids only
those that match ``[a-zA-Z0-9_.-]{1,64}`` are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from llm_credentials.providers.messages import LLMResponse


class LLMError(Exception):
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed a moment later."""
    user_message: ClassVar[str] = "The request could not be completed."

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        status_code: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message or self.user_message)
        self.provider = provider
        self.status_code = status_code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.code = code
        """The provider's own error code, only if it looks like one: ``[a-zA-Z0-9_.-]{1,64}``."""
        self.receipt: Any = None
        """Set by routing: the attempts and who would have paid."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__ | {"__cause__": None}))


def _rebuild(cls: type[LLMError], args: tuple[Any, ...], state: dict[str, Any]) -> LLMError:
    error = cls.__new__(cls, *args)
    Exception.__init__(error, *args)
    state.pop("__cause__", None)
    error.__dict__.update(state)
    return error


class NotConfigured(LLMError):
    user_message = "No usable key. Add one on the providers page of your settings."


class SiteUnavailable(LLMError):
    retryable = True
    user_message = "This site cannot reach its own records just now. Nothing was sent; try again in a moment."

    def __init__(self, message: str = "", **context: Any) -> None:
        super().__init__(message, **{"status_code": 503, "retry_after_s": 2.0, **context})


class CredentialUnreadable(LLMError):
    user_message = "This key can no longer be opened. Enter it again."


class EgressBlocked(LLMError):
    user_message = "This address is not allowed."


class BudgetExceeded(LLMError):
    user_message = "The budget for this is used up."


class RequestRejected(LLMError):
    user_message = "The provider rejected the request."

    param: str | None = None
    """The path of the fault in the request, if known."""


class ModelNotFound(RequestRejected):
    user_message = "The provider does not know this model, or this key may not use it."


class ContextLengthExceeded(RequestRejected):
    user_message = "The conversation is longer than this model can read."


class ContentFiltered(RequestRejected):
    user_message = "The provider's safety system refused this request."


class UnsupportedContent(RequestRejected):
    user_message = "This provider or model cannot take this kind of content."


class SecretInRequest(RequestRejected):
    user_message = "The request contains a stored key; it was not sent."


class AuthenticationFailed(LLMError):
    user_message = "The provider refused this key. It may be mistyped or revoked."


class PermissionDenied(LLMError):
    user_message = "The provider does not allow this key to do that: a region, model or feature is closed to it."


class QuotaExhausted(LLMError):
    user_message = "The account behind this key has no credit or quota left."


class RateLimited(LLMError):
    retryable = True
    user_message = "The provider asks for fewer requests just now."


class ProviderUnavailable(LLMError):
    retryable = True
    user_message = "The provider is not available just now."


class ConnectionFailed(ProviderUnavailable):
    user_message = "No connection to the provider."

    answered = False
    """Whether the provider had accepted the request and begun to answer, and so may charge for it."""


class DeadlineExceeded(ProviderUnavailable):
    retryable = False
    user_message = "The provider did not answer in time."


class BadProviderResponse(LLMError):
    retryable = True
    user_message = "The provider's answer could not be understood."


class StreamInterrupted(LLMError):
    user_message = "The answer broke off before its end."

    def __init__(self, message: str = "", *, partial: LLMResponse | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.partial = partial
        """What had arrived when the stream broke."""


class AccessWithdrawn(StreamInterrupted):
    user_message = "This was ended: the key, the access token or the account that it rested on is out of use."

    def __init__(self, message: str = "", *, what: str = "", **context: Any) -> None:
        super().__init__(message, **context)
        self.what = what
        """``user``, ``session``, ``token`` or ``key``: what was withdrawn."""
