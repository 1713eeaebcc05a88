-- Batches. Their lines are jobs until what came of them is written to their files.
CREATE TABLE batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- '' is nobody.
    tenant TEXT NOT NULL,
    key TEXT,
    digest BLOB,
    input INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    metadata BLOB,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- Milliseconds, where the caller has said so.
    keep_files_for INTEGER,
    status TEXT NOT NULL DEFAULT 'validating',
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    cancelling_at INTEGER,
    ended_at INTEGER,
    model TEXT,
    errors BLOB,
    -- Lines that ask something; how many of them have become jobs, or never will, and where in the input the next one stands.
    total INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0,
    taken_bytes INTEGER NOT NULL DEFAULT 0,
    -- Lines that are in the files, and how long these are.
    written INTEGER NOT NULL DEFAULT 0,
    has_expired INTEGER NOT NULL DEFAULT 0,
    output INTEGER,
    output_bytes INTEGER NOT NULL DEFAULT 0,
    error INTEGER,
    error_bytes INTEGER NOT NULL DEFAULT 0,
    -- What came of its lines so far.
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    total_tokens INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batch_listed ON batch (tenant, id);
CREATE UNIQUE INDEX batch_key ON batch (tenant, key) WHERE key IS NOT NULL;
-- Open ones are those that have not ended.
CREATE INDEX batch_ended ON batch (ended_at);
CREATE INDEX batch_reads ON batch (input) WHERE ended_at IS NULL;
-- Lines that are not being called.
CREATE INDEX job_waiting_line ON job (batch, line) WHERE batch IS NOT NULL AND owner IS NOT NULL AND status <> 'running';
