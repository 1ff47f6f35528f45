-- Runs that are executed with the results of others.

BEGIN IMMEDIATE;

PRAGMA user_version = 3;

ALTER TABLE runs ADD COLUMN inputs INTEGER NOT NULL DEFAULT 0;    -- how many it has
ALTER TABLE runs ADD COLUMN waits_for INTEGER NOT NULL DEFAULT 0; -- how many have not succeeded yet
ALTER TABLE runs ADD COLUMN is_input INTEGER NOT NULL DEFAULT 0;  -- whether others may have it
ALTER TABLE runs ADD COLUMN blames TEXT;                          -- the input for which it failed

-- Both are keys of `runs`. An input is there before the run that has it.
CREATE TABLE inputs (
    seq   INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    input INTEGER NOT NULL REFERENCES runs (seq),
    PRIMARY KEY (seq, input)
) WITHOUT ROWID;

CREATE INDEX inputs_by_input ON inputs (input);

DROP VIEW current_runs;
DROP VIEW run_rows;

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
    runs.inputs,
    runs.waits_for,
    runs.is_input,
    runs.blames,
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
    runs.inputs,
    runs.waits_for,
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
