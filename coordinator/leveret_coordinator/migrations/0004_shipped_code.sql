-- Code that callers ship, and which of it a run is executed by. Times are seconds since the Unix
-- epoch.

BEGIN IMMEDIATE;

PRAGMA user_version = 4;

-- Opaque here: signed by who shipped it, and loaded by workers alone.
CREATE TABLE code (
    project    TEXT NOT NULL,
    digest     TEXT NOT NULL,
    body       BLOB NOT NULL,
    shipped_at REAL NOT NULL,
    PRIMARY KEY (project, digest)
);

ALTER TABLE definitions ADD COLUMN code TEXT;       -- what was shipped last, as JSON
ALTER TABLE definitions ADD COLUMN shipped_at REAL;

CREATE INDEX definitions_shipped ON definitions (project, id) WHERE code IS NOT NULL;

-- What was shipped when the run was asked for. Another revision's is not this one's.
CREATE TABLE run_code (
    seq        INTEGER PRIMARY KEY NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    definition TEXT NOT NULL,
    code       TEXT NOT NULL
);

ALTER TABLE workers ADD COLUMN accepts_code INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker_definitions ADD COLUMN shipped INTEGER NOT NULL DEFAULT 0;

COMMIT;
