-- Jobs, without what is large. Names, not numbers, where that costs no speed: somebody will read this at 3 a.m.
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 0: it waits here. A number: the opening in whose hands it is. NULL: it has ended.
    owner INTEGER DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'queued',
    queue TEXT NOT NULL,
    -- 0 is the first.
    priority INTEGER NOT NULL,
    due INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    counted INTEGER NOT NULL DEFAULT 0,
    at_most_once INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    -- '' is nobody.
    tenant TEXT NOT NULL,
    key TEXT,
    digest BLOB,
    webhook TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    input_tokens INTEGER,
    cached_input_tokens INTEGER,
    output_tokens INTEGER,
    total_tokens INTEGER,
    cost_usd REAL,
    batch INTEGER,
    line INTEGER,
    custom_id TEXT,
    has_body INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX job_ready ON job (queue, priority, due) WHERE owner = 0;
CREATE INDEX job_expiring ON job (expires_at) WHERE owner = 0;
CREATE INDEX job_held ON job (owner) WHERE owner > 0;
CREATE UNIQUE INDEX job_key ON job (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX job_listed ON job (tenant, status) WHERE batch IS NULL;
CREATE UNIQUE INDEX job_line ON job (batch, line) WHERE batch IS NOT NULL;
-- What age will remove: bodies, then all of it, but for lines, which go with their batch.
CREATE INDEX job_ended ON job (has_body, finished_at) WHERE owner IS NULL AND (has_body = 1 OR batch IS NULL);

-- Requests' bodies. Each large thing has a checksum, of its job's id and all of its row.
CREATE TABLE payload (
    job INTEGER PRIMARY KEY,
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- What jobs ended with: the upstream's answer, or an error.
CREATE TABLE result (
    job INTEGER PRIMARY KEY,
    is_error INTEGER NOT NULL,
    status INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Every attempt that was made or may have been, in the order of their beginnings. They outlive their jobs.
CREATE TABLE attempt (
    place INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    number INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    key INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    status INTEGER,
    failure TEXT,
    maybe_billed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER,
    cached_input_tokens INTEGER,
    output_tokens INTEGER,
    total_tokens INTEGER,
    cost_usd REAL
) STRICT;
CREATE UNIQUE INDEX attempt_of_job ON attempt (job, number);
