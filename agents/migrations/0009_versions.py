from django.db import migrations, models

NOTHING = -1


def fill(apps, schema_editor):
    """Questions that were put differently follow the one before the first that was set aside."""
    messages = apps.get_model("agents", "StoredMessage").objects
    changed = messages.filter(role="user", is_aside=True).values_list("conversation_id", flat=True).distinct()
    for conversation in list(changed):
        asked = messages.filter(conversation_id=conversation, role="user").order_by("position")
        last, was_aside = NOTHING, False
        for row in asked.only("pk", "position", "is_aside"):
            if was_aside and not row.is_aside:
                messages.filter(pk=row.pk).update(follows=last)
            last = last if row.is_aside else row.position
            was_aside = row.is_aside


class Migration(migrations.Migration):

    dependencies = [("agents", "0008_expenses")]

    operations = [
        migrations.AddField("storedmessage", "chosen", models.PositiveSmallIntegerField(default=0)),
        migrations.AddField("storedmessage", "follows", models.IntegerField(blank=True, null=True)),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
