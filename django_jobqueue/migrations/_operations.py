"""Operations that migrations share. No migration itself: Django passes by modules with an underscore in front."""

from django.db import migrations


class OnDatabase(migrations.RunSQL):
    """SQL for one kind of database, a no-op on the others. Backwards it does nothing unless told to: what it changes in
    a table that the same migration has made goes with that table.
    """

    def __init__(self, vendor, sql, reverse_sql=migrations.RunSQL.noop):
        self.vendor = vendor
        super().__init__(sql, reverse_sql)

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == self.vendor:
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == self.vendor:
            super().database_backwards(app_label, schema_editor, from_state, to_state)
