import pytest

from project.tests import provider_facts
from project.tests.provider_facts import Part


@pytest.mark.parametrize("part", provider_facts.PARTS, ids=lambda part: part.path)
def test_documents_say_of_providers_what_the_registry_says(part: Part) -> None:
    """Otherwise: ``make fix``."""
    assert part.in_document() == part.written()
