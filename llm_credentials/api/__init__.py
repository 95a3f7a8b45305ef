"""The REST API for programs: bearer tokens, or the browser's session with its CSRF token."""

from __future__ import annotations

from ninja import Swagger

from llm_credentials.api.account import router as account
from llm_credentials.api.alerts import router as alerts
from llm_credentials.api.audit import router as audit
from llm_credentials.api.auth import SessionUser, TokenUser
from llm_credentials.api.body import StrictJSON
from llm_credentials.api.catalogue import router as catalogue
from llm_credentials.api.chain import router as chain
from llm_credentials.api.comparison import router as comparison
from llm_credentials.api.credentials import router as credentials
from llm_credentials.api.document import DocumentedAPI
from llm_credentials.api.errors import install_error_handlers
from llm_credentials.api.models import router as models
from llm_credentials.api.preferences import router as preferences
from llm_credentials.api.search import router as search
from llm_credentials.api.site import router as site
from llm_credentials.api.tokens import router as tokens
from llm_credentials.api.transfer import router as transfer
from llm_credentials.api.usage import router as usage

api = DocumentedAPI(
    title="Keyswitch",
    version="1",
    description=(
        "Everybody's own LLM keys: store, test and use them.\n\n"
        "Two headers are taken beside the parameters. `If-Match`, with an `ETag` of an earlier answer, on changes of "
        "what has one: if somebody else was faster the answer is 412 and nothing is changed. `Idempotency-Key`, of "
        "your own making and new for each thing that you want done, on posts that start runs, messages and tests of "
        "keys: sent twice within a day they have one effect."
    ),
    auth=[TokenUser(), SessionUser()],
    parser=StrictJSON(),
    docs=Swagger(settings={"persistAuthorization": False}),
    urls_namespace="api",
)
install_error_handlers(api)
api.add_router("/user/llm-credentials", models, tags=["credentials"])
api.add_router("/user/llm-credentials", credentials, tags=["credentials"])
api.add_router("/user/llm-transfer", transfer, tags=["settings"])
api.add_router("/user/search-credentials", search, tags=["search"])
api.add_router("/user/tokens", tokens, tags=["tokens"])
api.add_router("/user/audit-events", audit, tags=["audit"])
api.add_router("/user", preferences, tags=["settings"])
api.add_router("/user", chain, tags=["settings"])
api.add_router("/user", alerts, tags=["alerts"])
api.add_router("/user", account, tags=["account"])
api.add_router("/providers", catalogue, tags=["providers"])
api.add_router("/providers", comparison, tags=["providers"])
api.add_router("/settings/ai", site, tags=["site"])
api.add_router("/usage", usage, tags=["usage"])
