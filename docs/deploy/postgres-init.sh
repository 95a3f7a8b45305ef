#!/bin/sh
# A role that owns the site's tables and is above nothing: row-level security holds for it.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$KEYSWITCH_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE keyswitch LOGIN PASSWORD :'password';
CREATE DATABASE keyswitch OWNER keyswitch;
SQL
