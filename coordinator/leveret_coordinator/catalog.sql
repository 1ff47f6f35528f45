-- Every statement of the catalog. Lists are JSON arrays, so that one statement serves a batch.
-- A statement that changes a run names the attempt and the state it expects to find.

-- name: application_id()$
PRAGMA application_id;

-- name: schema_version()$
PRAGMA user_version;

-- name: table_count()$
SELECT count(*) FROM sqlite_schema;

-- name: configure#
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA busy_timeout = 1000;

-- name: begin()!
BEGIN IMMEDIATE;

-- name: commit()!
COMMIT;

-- definitions -------------------------------------------------------------------------------------

-- name: definitions_wanted(ids, names)
SELECT id, project, kind, name, version, fingerprint, module, qualname, description, registered_at
FROM definitions
WHERE id IN (SELECT value FROM json_each(:ids)) OR name IN (SELECT value FROM json_each(:names));

-- name: all_names()
SELECT DISTINCT project, name FROM definitions;

-- name: all_queues()
SELECT project, name, version FROM definitions;

-- name: put_definition*!
INSERT INTO definitions (
    id, project, kind, name, version, revision, fingerprint, module, qualname, description,
    registered_at
) VALUES (
    :id, :project, :kind, :name, :version, :revision, :fingerprint, :module, :qualname,
    :description, :registered_at
)
ON CONFLICT (id) DO UPDATE SET
    fingerprint = excluded.fingerprint,
    module = excluded.module,
    qualname = excluded.qualname,
    description = excluded.description;

-- name: definition_rows(project, alive_since)
SELECT id, project, kind, name, version, description, registered_at, (
    SELECT count(*)
    FROM worker_definitions
    JOIN workers ON workers.id = worker_definitions.worker
    WHERE worker_definitions.definition = definitions.id AND workers.heartbeat_at >= :alive_since
) AS workers
FROM definitions
WHERE :project IS NULL OR project = :project;

-- workers -----------------------------------------------------------------------------------------

-- name: definitions_served(ids, alive_since)
SELECT value AS definition
FROM json_each(:ids)
WHERE EXISTS (
    SELECT 1
    FROM worker_definitions
    JOIN workers ON workers.id = worker_definitions.worker
    WHERE worker_definitions.definition = json_each.value AND workers.heartbeat_at >= :alive_since
);

-- name: put_worker*!
INSERT INTO workers (id, project, host, pid, slots, busy, started_at, heartbeat_at)
VALUES (:worker, :project, :host, :pid, :slots, :busy, :started_at, :now)
ON CONFLICT (id) DO UPDATE SET
    slots = excluded.slots,
    busy = excluded.busy,
    heartbeat_at = excluded.heartbeat_at;

-- name: withdraw_definitions*!
DELETE FROM worker_definitions
WHERE worker = :worker AND definition NOT IN (SELECT value FROM json_each(:definitions));

-- name: serve_definitions*!
INSERT OR IGNORE INTO worker_definitions (definition, worker)
SELECT id, :worker FROM definitions WHERE id IN (SELECT value FROM json_each(:definitions));

-- name: forget_workers(ids, silent_since)!
DELETE FROM workers
WHERE id IN (SELECT value FROM json_each(:ids)) OR heartbeat_at < :silent_since;

-- name: worker_rows(project, alive_since)
SELECT id, project, host, pid, slots, busy, started_at, heartbeat_at, (
    SELECT json_group_array(
        definitions.project || ':' || definitions.name || ':' || definitions.version
    )
    FROM worker_definitions
    JOIN definitions ON definitions.id = worker_definitions.definition
    WHERE worker_definitions.worker = workers.id
) AS definitions
FROM workers
WHERE heartbeat_at >= :alive_since AND (:project IS NULL OR project = :project)
ORDER BY started_at, id;

-- runs: what a decision needs ---------------------------------------------------------------------

-- name: runs_named(ids)
SELECT id, project, definition, root, parent, state, attempt
FROM runs
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: runs_below(ids)
-- Each run asked for and all below it, ended ones too: a run may be made below one that has ended.
WITH RECURSIVE below (top, seq, id) AS (
    SELECT id, seq, id FROM runs WHERE id IN (SELECT value FROM json_each(:ids))
    UNION
    SELECT below.top, child.seq, child.id FROM below JOIN runs AS child ON child.parent = below.id
)
SELECT
    below.top, runs.id, runs.project, runs.definition, runs.root, runs.parent, runs.state,
    runs.attempt
FROM below
JOIN runs ON runs.seq = below.seq
ORDER BY runs.seq;

-- name: waiters_of(ids)
SELECT run_id, session FROM waiters WHERE run_id IN (SELECT value FROM json_each(:ids));

-- name: ended(ids)
SELECT
    runs.id, runs.state, results.result, results.error, runs.failure_type, runs.failure_message,
    results.failure_traceback
FROM runs
LEFT JOIN results ON results.seq = runs.seq
WHERE runs.id IN (SELECT value FROM json_each(:ids)) AND runs.finished_at IS NOT NULL;

-- runs: what a decision writes --------------------------------------------------------------------

-- name: insert_runs*!
INSERT INTO runs (
    id, project, definition, root, parent, identity, ordinal, asked_for, state, attempt, created_at,
    finished_at
) VALUES (
    :id, :project, :definition, :root, :parent, :identity, :ordinal, :asked_for, :state, :attempt,
    :created_at, :finished_at
);

-- name: insert_arguments*!
INSERT INTO arguments (seq, body) SELECT seq, :arguments FROM runs WHERE id = :id;

-- name: insert_waiters*!
INSERT OR IGNORE INTO waiters (run_id, session) VALUES (:run, :session);

-- name: start_runs*!
UPDATE runs SET state = 'running', started_at = coalesce(started_at, :started_at)
WHERE id = :run AND attempt = :attempt AND finished_at IS NULL;

-- name: start_attempts*!
INSERT INTO attempts (seq, number, worker, host, pid, state, started_at)
SELECT runs.seq, :attempt, :worker, workers.host, workers.pid, 'running', :started_at
FROM runs LEFT JOIN workers ON workers.id = :worker
WHERE runs.id = :run
ON CONFLICT (seq, number) DO UPDATE SET
    worker = excluded.worker,
    host = excluded.host,
    pid = excluded.pid,
    started_at = excluded.started_at
WHERE state = 'running';

-- name: finish_runs*!
UPDATE runs SET
    state = :state,
    started_at = coalesce(:started_at, started_at),
    finished_at = :finished_at,
    failure_type = :failure_type,
    failure_message = :failure_message
WHERE id = :run AND attempt = :attempt AND finished_at IS NULL;

-- name: insert_results*!
INSERT INTO results (seq, result, error, failure_traceback)
SELECT seq, :result, :error, :failure_traceback FROM runs WHERE id = :run;

-- name: finish_attempts*!
INSERT INTO attempts (
    seq, number, worker, host, pid, state, started_at, finished_at, failure_type, failure_message
)
SELECT
    runs.seq, :attempt, :worker, workers.host, workers.pid, :state, :started_at, :finished_at,
    :failure_type, :failure_message
FROM runs LEFT JOIN workers ON workers.id = :worker
WHERE runs.id = :run
ON CONFLICT (seq, number) DO UPDATE SET
    worker = excluded.worker,
    host = coalesce(excluded.host, host),
    pid = coalesce(excluded.pid, pid),
    state = excluded.state,
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    failure_type = excluded.failure_type,
    failure_message = excluded.failure_message;

-- name: end_attempts*!
-- An end that no worker tells ends the attempt that executes; of one that never started there is
-- no row.
UPDATE attempts SET
    state = :state,
    finished_at = :finished_at,
    failure_type = :failure_type,
    failure_message = :failure_message
WHERE seq = (SELECT seq FROM runs WHERE id = :run) AND number = :attempt AND state = 'running';

-- runs: the outbox --------------------------------------------------------------------------------

-- name: confirm_published*!
UPDATE runs SET state = 'queued'
WHERE id = :run AND attempt = :attempt AND state = 'pending';

-- name: remove_waiters*!
DELETE FROM waiters WHERE run_id = :run AND session = :session;

-- name: pending_runs(created_at, seq, most)
-- The oldest after the place given.
SELECT
    runs.created_at, runs.seq, runs.id, runs.project, runs.definition, runs.root, runs.parent, runs.state, runs.attempt,
    definitions.project AS queue_project, definitions.name, definitions.version, arguments.body
FROM runs
JOIN definitions ON definitions.id = runs.definition
JOIN arguments ON arguments.seq = runs.seq
WHERE runs.state = 'pending' AND (runs.created_at, runs.seq) > (:created_at, :seq)
ORDER BY runs.created_at, runs.seq
LIMIT :most;

-- name: unanswered(run, session, most)
-- The first after the place given.
SELECT waiters.run_id, waiters.session
FROM waiters
JOIN runs ON runs.id = waiters.run_id
WHERE (waiters.run_id, waiters.session) > (:run, :session) AND runs.finished_at IS NOT NULL
ORDER BY waiters.run_id, waiters.session
LIMIT :most;

-- name: forget_published()!
-- For a broker that went away with all it held.
UPDATE runs SET state = 'pending' WHERE state IN ('queued', 'running');

-- runs: listings ----------------------------------------------------------------------------------
-- Newest first. Each begins with the one condition that has an index in this order; the others only
-- filter.

-- name: runs_of_definitions(definitions, project, state, since, roots_only, most)
SELECT run_rows.*
FROM json_each(:definitions) AS wanted
JOIN run_rows ON run_rows.seq IN (
    SELECT seq
    FROM runs
    WHERE
        definition = wanted.value
        AND created_at >= :since
        AND (:project IS NULL OR project = :project)
        AND (:state IS NULL OR state = :state)
        AND (NOT :roots_only OR parent IS NULL)
    ORDER BY created_at DESC, seq DESC
    LIMIT :most
)
ORDER BY run_rows.created_at DESC, run_rows.seq DESC
LIMIT :most;

-- name: runs_in_state(state, project, since, roots_only, most)
SELECT *
FROM run_rows
WHERE
    state = :state
    AND created_at >= :since
    AND (:project IS NULL OR project = :project)
    AND (NOT :roots_only OR parent IS NULL)
ORDER BY created_at DESC, seq DESC
LIMIT :most;

-- name: root_runs(project, since, most)
SELECT *
FROM run_rows
WHERE parent IS NULL AND created_at >= :since AND (:project IS NULL OR project = :project)
ORDER BY created_at DESC, seq DESC
LIMIT :most;

-- name: runs_of_project(project, since, most)
SELECT *
FROM run_rows
WHERE project = :project AND created_at >= :since
ORDER BY created_at DESC, seq DESC
LIMIT :most;

-- name: recent_runs(since, most)
SELECT *
FROM run_rows
WHERE created_at >= :since
ORDER BY created_at DESC, seq DESC
LIMIT :most;

-- name: tree(run)
-- A child is always accepted after its parent, so the order of acceptance is the one wanted.
WITH RECURSIVE below (seq, id) AS (
    SELECT seq, id FROM runs WHERE id = :run
    UNION
    SELECT child.seq, child.id FROM below JOIN runs AS child ON child.parent = below.id
)
SELECT run_rows.*, results.failure_traceback
FROM below
JOIN run_rows ON run_rows.seq = below.seq
LEFT JOIN results ON results.seq = below.seq
ORDER BY below.seq;
