"""What was changed anywhere holds everywhere within a second; what lost its right to go on is ended within five.

A process remembers what it read (routes, tokens, clients) for as long as it can be sure of it. Three parts see to that:

=============  ===================================================================================================
``watched``    tables whose changes count. Triggers note each change in ``llm_changes``, in the transaction of the
               change: also one by ``QuerySet.update()`` or by hand, and none that is rolled back
``changes``    tells a change, here at once and elsewhere through Valkey, and lets go of what is remembered
``listener``   one thread a process: hears Valkey, and reads ``llm_changes`` every 0.4 s whether it hears or not
``calls``      what is under way in this process, and whether it may go on
=============  ===================================================================================================

So Valkey only makes it quicker: a lost message costs 0.4 s. Nothing remembered is used unless the last look at the
database began less than 0.7 s ago; when it did not, the database is asked as if nothing were remembered.

**When a route, a permission or an address list is to depend on a new table**: ``watched.watch(Model, user="user_id")``
(without ``user``: it is the site's) where the app gets ready, and nothing else: the triggers are made by the next
``migrate``. **When it depends on something that is in no table**, call ``changes.site_changed()`` or
``changes.user_changed(user_id)`` after each change.
"""
