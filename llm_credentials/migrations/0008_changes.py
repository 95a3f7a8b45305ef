import django.db.models.functions.datetime
from django.db import migrations, models


def add_xid(apps, schema_editor):
    """The transaction that wrote a row: what commits late carries an early number, and is found all the same."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "ALTER TABLE llm_changes ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()"
        )
        schema_editor.execute("CREATE INDEX llm_changes_xid ON llm_changes (xid)")


class Migration(migrations.Migration):

    dependencies = [
        ('llm_credentials', '0007_removed_index'),
    ]

    operations = [
        migrations.CreateModel(
            name='Change',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('subject', models.CharField(blank=True, db_default='', default='', max_length=64)),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), db_index=True)),
            ],
            options={
                'db_table': 'llm_changes',
            },
        ),
        migrations.RunPython(add_xid, migrations.RunPython.noop),
    ]
