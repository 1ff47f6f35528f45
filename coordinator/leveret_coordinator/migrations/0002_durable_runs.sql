-- Retries, leases, timers, steps. SQLite can't change a CHECK, so three tables are made anew; foreign
-- keys are not enforced while migrations run.

BEGIN IMMEDIATE;

PRAGMA user_version = 2;

DROP VIEW run_rows;

CREATE TABLE new_definitions (
    id            TEXT PRIMARY KEY NOT NULL,
    project       TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('task', 'workflow', 'step')),
    name          TEXT NOT NULL,
    version       TEXT NOT NULL,
    revision      INTEGER,            -- a workflow's version as a number
    fingerprint   TEXT NOT NULL,      -- a hash of the code's syntax tree
    module        TEXT NOT NULL,
    qualname      TEXT NOT NULL,
    description   TEXT NOT NULL,
    options       TEXT,               -- JSON, of runs that bring none; NULL for the usual ones
    registered_at REAL NOT NULL,
    UNIQUE (project, name, version)
);

INSERT INTO new_definitions
SELECT
    id, project, kind, name, version, revision, fingerprint, module, qualname, description, NULL,
    registered_at
FROM definitions;

DROP TABLE definitions;
ALTER TABLE new_definitions RENAME TO definitions;
CREATE INDEX definitions_by_name ON definitions (name);

CREATE TABLE new_runs (
    seq             INTEGER PRIMARY KEY NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    project         TEXT NOT NULL,
    definition      TEXT NOT NULL REFERENCES definitions (id),
    kind            TEXT NOT NULL CHECK (kind IN ('task', 'workflow', 'step')),
    root            TEXT NOT NULL,    -- its own id for a root run
    parent          TEXT,
    identity        TEXT NOT NULL,    -- what a child run's id is derived from, with the ordinal
    ordinal         INTEGER NOT NULL,
    key             TEXT,             -- what its caller named it by
    digest          TEXT,             -- a hash of the arguments, NULL if they have none
    asked_for       TEXT NOT NULL,    -- the identifier or name by which the caller meant it
    options         TEXT,             -- JSON; NULL for the usual ones
    state           TEXT NOT NULL CHECK (
        state IN (
            'pending', 'queued', 'running', 'waiting', 'parked', 'succeeded', 'failed', 'cancelled'
        )
    ),
    since           REAL NOT NULL,    -- when it came into this state
    attempt         INTEGER NOT NULL, -- the number of the latest attempt
    round           INTEGER NOT NULL, -- grows with retries, not with losses
    parent_round    INTEGER NOT NULL, -- the parent's round in which it was opened
    failures        INTEGER NOT NULL, -- attempts that failed since it was opened
    losses          INTEGER NOT NULL, -- attempts whose worker was lost since it was opened
    retried_by      TEXT,             -- the request by which a person opened it last
    stopped_by      INTEGER,          -- the attempt at its parent whose code stopped it
    created_at      REAL NOT NULL,
    started_at      REAL,
    finished_at     REAL,             -- set in the states in which a run has ended
    failure_type    TEXT,             -- of the latest attempt that failed
    failure_message TEXT,
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled')))
);

INSERT INTO new_runs
SELECT
    seq, id, project, definition,
    (SELECT kind FROM definitions WHERE definitions.id = runs.definition),
    root, parent, identity, ordinal, NULL, NULL, asked_for, NULL, state,
    coalesce(finished_at, started_at, created_at), attempt, 1, 1, 0, 0, NULL, NULL, created_at,
    started_at,
    finished_at, failure_type, failure_message
FROM runs;

DROP TABLE runs;
ALTER TABLE new_runs RENAME TO runs;

CREATE INDEX runs_by_time ON runs (created_at) WHERE kind != 'step';
CREATE INDEX runs_by_project ON runs (project, created_at) WHERE kind != 'step';
CREATE INDEX runs_by_definition ON runs (definition, created_at);
CREATE INDEX runs_by_state ON runs (state, created_at);
CREATE INDEX runs_roots ON runs (created_at) WHERE parent IS NULL;
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_queued ON runs (definition, since) WHERE state = 'queued';

CREATE TABLE new_attempts (
    seq               INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    number            INTEGER NOT NULL,
    worker            TEXT,
    host              TEXT,
    pid               INTEGER,
    state             TEXT NOT NULL CHECK (
        state IN (
            'running', 'succeeded', 'failed', 'cancelled', 'timed-out', 'lost', 'returned'
        )
    ),
    started_at        REAL,
    leased_at         REAL,           -- set once the worker holds no delivery of it any more
    finished_at       REAL,
    failure_type      TEXT,
    failure_message   TEXT,
    failure_traceback TEXT,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;

INSERT INTO new_attempts
SELECT
    seq, number, worker, host, pid, state, started_at, NULL, finished_at, failure_type,
    failure_message, NULL
FROM attempts;

DROP TABLE attempts;
ALTER TABLE new_attempts RENAME TO attempts;
CREATE INDEX attempts_running ON attempts (worker) WHERE state = 'running';

-- Whatever is due later. A row goes when it was due, or with what it was for.
CREATE TABLE timers (
    seq    INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    kind   TEXT NOT NULL CHECK (kind IN ('retry', 'sleep', 'total', 'queue')),
    due_at REAL NOT NULL,
    PRIMARY KEY (seq, kind)
) WITHOUT ROWID;

CREATE INDEX timers_by_time ON timers (due_at);

ALTER TABLE workers ADD COLUMN left_at REAL;
ALTER TABLE worker_definitions ADD COLUMN held INTEGER NOT NULL DEFAULT 0;

-- How often a coordinator has started on this catalog.
CREATE TABLE starts (
    number INTEGER NOT NULL
);

INSERT INTO starts VALUES (0);

-- A run as a decision needs it, with who executes its latest attempt.
CREATE VIEW current_runs AS
SELECT
    runs.seq,
    runs.id,
    runs.project,
    runs.definition,
    runs.kind,
    runs.root,
    runs.parent,
    runs.state,
    runs.since,
    runs.attempt,
    runs.round,
    runs.parent_round,
    runs.failures,
    runs.losses,
    runs.options,
    runs.key,
    runs.digest,
    runs.retried_by,
    runs.stopped_by,
    runs.created_at,
    runs.started_at,
    runs.finished_at,
    runs.failure_type,
    runs.failure_message,
    attempts.worker AS holder,
    attempts.started_at AS held_since,
    attempts.leased_at
FROM runs
LEFT JOIN attempts
    ON attempts.seq = runs.seq AND attempts.number = runs.attempt AND attempts.state = 'running';

CREATE VIEW run_rows AS
SELECT
    runs.seq,
    runs.id,
    runs.project,
    definitions.project || ':' || definitions.name || ':' || definitions.version AS definition,
    runs.definition AS definition_id,
    runs.kind,
    runs.state,
    runs.attempt,
    runs.root,
    runs.parent,
    runs.ordinal,
    runs.asked_for,
    runs.key,
    runs.created_at,
    runs.started_at,
    runs.finished_at,
    attempts.worker,
    attempts.host,
    runs.failure_type,
    runs.failure_message,
    CASE runs.state WHEN 'waiting' THEN (
        SELECT due_at FROM timers WHERE timers.seq = runs.seq AND timers.kind IN ('retry', 'sleep')
    ) END AS due_at
FROM runs
JOIN definitions ON definitions.id = runs.definition
LEFT JOIN attempts ON attempts.seq = runs.seq AND attempts.number = runs.attempt;

COMMIT;
