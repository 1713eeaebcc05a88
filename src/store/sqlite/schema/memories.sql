-- What was learned, under a name.
CREATE TABLE memory (
    name TEXT PRIMARY KEY,
    crc INTEGER NOT NULL,
    what BLOB NOT NULL
) STRICT;

-- Answers kept for callers' idempotency keys.
CREATE TABLE answer (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    status INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX answer_key ON answer (tenant, key);
CREATE INDEX answer_expiring ON answer (expires_at);
