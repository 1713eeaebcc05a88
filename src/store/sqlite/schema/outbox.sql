-- Webhooks that are still to be delivered.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    url TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_due ON outbox (due);
CREATE INDEX outbox_job ON outbox (job);
