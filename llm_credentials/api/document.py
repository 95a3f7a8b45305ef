"""The API's OpenAPI document is put together once a while: it takes most of a second, and everybody may ask for it."""

from __future__ import annotations

import threading
import time
from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

KEPT_S = 300.0
"""Which providers and models are in it may change with the site's catalogue."""


class DocumentedAPI(NinjaAPI):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._documenting = threading.Lock()
        self._documents: dict[str, tuple[float, OpenAPISchema]] = {}

    def forget_document(self) -> None:
        """Whoever asks next gets one as the catalogue stands then."""
        with self._documenting:
            self._documents.clear()

    def get_openapi_schema(
        self, *, path_prefix: str | None = None, path_params: dict[str, Any] | None = None
    ) -> OpenAPISchema:
        prefix = self.get_root_path(path_params or {}) if path_prefix is None else path_prefix
        with self._documenting:  # who comes meanwhile waits, instead of doing the same
            made_at, document = self._documents.get(prefix, (0.0, None))
            if document is None or time.monotonic() - made_at >= KEPT_S:
                document = super().get_openapi_schema(path_prefix=prefix)
                self._documents[prefix] = time.monotonic(), document
        return document
