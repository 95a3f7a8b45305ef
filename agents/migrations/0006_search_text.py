from django.db import migrations

from agents.services import searchable
from llm_credentials.providers import TextPart

BATCH = 500


def fill(apps, schema_editor):
    messages = apps.get_model("agents", "StoredMessage").objects.exclude(role="tool").only("pk", "parts").order_by("pk")
    batch = list(messages[:BATCH])
    while batch:
        for row in batch:
            row.search_text = searchable("".join(part.text for part in row.parts if isinstance(part, TextPart)))
        messages.model.objects.bulk_update(batch, ["search_text"])
        batch = list(messages.filter(pk__gt=batch[-1].pk)[:BATCH])


class Migration(migrations.Migration):

    dependencies = [("agents", "0005_branches")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
