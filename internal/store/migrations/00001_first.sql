-- +goose Up
-- Times are milliseconds since 1970, UTC.
CREATE TABLE orgs (
    id      TEXT PRIMARY KEY,
    slug    TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id        TEXT PRIMARY KEY,
    org       TEXT REFERENCES orgs (id), -- null for a personal token
    name      TEXT NOT NULL,
    prefix    TEXT NOT NULL,
    hash      BLOB NOT NULL UNIQUE,      -- sha256 of the whole token
    created   INTEGER NOT NULL,
    last_used INTEGER,
    revoked   INTEGER
) STRICT;

CREATE TABLE sandboxes (
    id        TEXT PRIMARY KEY,
    org       TEXT NOT NULL REFERENCES orgs (id),
    region    TEXT NOT NULL,
    labels    TEXT NOT NULL,             -- JSON object
    memory    INTEGER NOT NULL,          -- MiB
    isolation TEXT NOT NULL,
    status    TEXT NOT NULL,             -- creating, running, stopping, stopped
    created   INTEGER NOT NULL,
    stop_at   INTEGER,                   -- null for the lifetime "session"
    stopped   INTEGER,
    reason    TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX sandboxes_by_org ON sandboxes (org, created);
CREATE INDEX sandboxes_live ON sandboxes (status) WHERE status <> 'stopped';
CREATE INDEX sandboxes_by_stop ON sandboxes (stopped) WHERE status = 'stopped';

-- +goose Down
DROP TABLE sandboxes;
DROP TABLE tokens;
DROP TABLE orgs;
