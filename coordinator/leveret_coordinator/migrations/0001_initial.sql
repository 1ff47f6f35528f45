-- The first tables. Times are seconds since the Unix epoch.

BEGIN IMMEDIATE;

-- 'lvrt': by this a catalog is told from other SQLite files.
PRAGMA application_id = 1819701876;
PRAGMA user_version = 1;

CREATE TABLE definitions (
    id            TEXT PRIMARY KEY NOT NULL,
    project       TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('task', 'workflow')),
    name          TEXT NOT NULL,
    version       TEXT NOT NULL,
    revision      INTEGER,            -- a workflow's version as a number
    fingerprint   TEXT NOT NULL,      -- a hash of the code's syntax tree
    module        TEXT NOT NULL,
    qualname      TEXT NOT NULL,
    description   TEXT NOT NULL,
    registered_at REAL NOT NULL,
    UNIQUE (project, name, version)
);

CREATE INDEX definitions_by_name ON definitions (name);

-- `seq` is the order of acceptance, and what the tables beside this one are keyed by.
CREATE TABLE runs (
    seq             INTEGER PRIMARY KEY NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    project         TEXT NOT NULL,
    definition      TEXT NOT NULL REFERENCES definitions (id),
    root            TEXT NOT NULL,    -- its own id for a root run
    parent          TEXT,
    identity        TEXT NOT NULL,    -- what a child run's id is derived from, with the ordinal
    ordinal         INTEGER NOT NULL,
    asked_for       TEXT NOT NULL,    -- the identifier or name by which the caller meant it
    state           TEXT NOT NULL CHECK (
        state IN ('pending', 'queued', 'running', 'succeeded', 'failed', 'cancelled')
    ),
    attempt         INTEGER NOT NULL, -- the number of the latest attempt
    created_at      REAL NOT NULL,
    started_at      REAL,
    finished_at     REAL,             -- set in the states that nothing leads out of
    failure_type    TEXT,
    failure_message TEXT,
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled')))
);

CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_by_project ON runs (project, created_at);
CREATE INDEX runs_by_definition ON runs (definition, created_at);
CREATE INDEX runs_by_state ON runs (state, created_at);
CREATE INDEX runs_roots ON runs (created_at) WHERE parent IS NULL;
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;

-- Payloads stand beside the runs, so that listing and changing runs never touches them.
CREATE TABLE arguments (
    seq  INTEGER PRIMARY KEY NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
);

CREATE TABLE results (
    seq               INTEGER PRIMARY KEY NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    result            BLOB,
    error             BLOB,
    failure_traceback TEXT
);

-- A row from the first news of an attempt on.
CREATE TABLE attempts (
    seq             INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    number          INTEGER NOT NULL,
    worker          TEXT,
    host            TEXT,
    pid             INTEGER,
    state           TEXT NOT NULL CHECK (
        state IN ('running', 'succeeded', 'failed', 'cancelled')
    ),
    started_at      REAL,
    finished_at     REAL,
    failure_type    TEXT,
    failure_message TEXT,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;

-- The sessions that want to hear how a run ends; a row goes when the answer is confirmed.
CREATE TABLE waiters (
    run_id  TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    session TEXT NOT NULL,
    PRIMARY KEY (run_id, session)
) WITHOUT ROWID;

CREATE TABLE workers (
    id           TEXT PRIMARY KEY NOT NULL,
    project      TEXT NOT NULL,
    host         TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    slots        INTEGER NOT NULL,
    busy         INTEGER NOT NULL,
    started_at   REAL NOT NULL,
    heartbeat_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE worker_definitions (
    definition TEXT NOT NULL REFERENCES definitions (id) ON DELETE CASCADE,
    worker     TEXT NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
    PRIMARY KEY (definition, worker)
) WITHOUT ROWID;

CREATE INDEX worker_definitions_by_worker ON worker_definitions (worker);

CREATE VIEW run_rows AS
SELECT
    runs.seq,
    runs.id,
    runs.project,
    definitions.project || ':' || definitions.name || ':' || definitions.version AS definition,
    runs.definition AS definition_id,
    definitions.kind,
    runs.state,
    runs.attempt,
    runs.root,
    runs.parent,
    runs.ordinal,
    runs.asked_for,
    runs.created_at,
    runs.started_at,
    runs.finished_at,
    attempts.worker,
    attempts.host,
    runs.failure_type,
    runs.failure_message
FROM runs
JOIN definitions ON definitions.id = runs.definition
LEFT JOIN attempts ON attempts.seq = runs.seq AND attempts.number = runs.attempt;

COMMIT;
