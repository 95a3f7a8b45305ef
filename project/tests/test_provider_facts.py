from project.tests import provider_facts


def test_document_says_of_providers_what_the_registry_says() -> None:
    """Otherwise: ``python -m project.tests.provider_facts``."""
    assert provider_facts.in_document() == provider_facts.facts()
