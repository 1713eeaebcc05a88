-- Files, without their bytes.
CREATE TABLE file (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 'grows', 'sealed' or 'hidden'.
    state TEXT NOT NULL DEFAULT 'grows',
    -- The opening in whose hands it grows. NULL: a batch's, or nobody's any more.
    owner INTEGER,
    -- '' is nobody.
    tenant TEXT NOT NULL,
    purpose TEXT NOT NULL,
    name TEXT,
    bytes INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER,
    expires_at INTEGER
) STRICT;
CREATE INDEX file_listed ON file (tenant, id) WHERE state = 'sealed';
CREATE INDEX file_expiring ON file (expires_at) WHERE state = 'sealed';
CREATE INDEX file_held ON file (owner) WHERE state = 'grows';
CREATE INDEX file_hidden ON file (state) WHERE state = 'hidden';

-- Their bytes, by where they begin. Each has a checksum, of its file's id, of that and of itself.
CREATE TABLE piece (
    file INTEGER NOT NULL,
    at INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX piece_of_file ON piece (file, at);
