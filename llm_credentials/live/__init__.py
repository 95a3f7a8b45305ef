"""Keeps caches correct: a change takes effect everywhere within a second; work that lost its access ends within five.

A process caches what it read (routes, tokens, clients) for as long as it is sure that it is current. The modules:

=============  ===================================================================================================
``watched``    tables whose changes count. Triggers log each change in ``llm_changes``, in the transaction of the
               change, including ``QuerySet.update()`` and manual SQL; a rolled-back change leaves no row
``changes``    announces a change, locally at once and to other processes through Valkey, and invalidates caches
``listener``   one thread per process: listens to Valkey, and reads ``llm_changes`` every 0.4 s in any case
``calls``      running work in this process, and whether it may continue
=============  ===================================================================================================

Valkey only reduces latency: a lost message costs 0.4 s. Cached data is used only if the last read of ``llm_changes``
began less than 0.7 s ago; otherwise the database is queried as if nothing were cached.

**To make a route, a permission or an address list depend on a new table**, call ``watched.watch(Model,
user="user_id")`` when the app gets ready (without ``user`` for a table of the site), and nothing else: the next
``migrate`` creates the triggers. **For a dependency that is in no table**, call ``changes.site_changed()`` or
``changes.user_changed(user_id)`` after each change.
"""
