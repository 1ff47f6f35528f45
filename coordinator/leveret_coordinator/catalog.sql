-- Every statement of the catalog. Lists are JSON arrays, so that one statement serves a batch.
-- A statement that changes a run names the attempt and the state it expects to find.

-- name: application_id()$
PRAGMA application_id;

-- name: schema_version()$
PRAGMA user_version;

-- name: page_count()$
PRAGMA page_count;

-- name: table_count()$
SELECT count(*) FROM sqlite_schema;

-- name: configure#
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA busy_timeout = 1000;

-- name: enforce_references#
-- After the migrations, which make tables anew that others refer to.
PRAGMA foreign_keys = ON;

-- name: count_start()!
UPDATE starts SET number = number + 1;

-- name: starts()$
SELECT number FROM starts;

-- name: begin()!
BEGIN IMMEDIATE;

-- name: commit()!
COMMIT;

-- definitions -------------------------------------------------------------------------------------

-- name: definitions_wanted(ids, names)
SELECT
    id, project, kind, name, version, fingerprint, module, qualname, description, options,
    registered_at, code, shipped_at
FROM definitions
WHERE id IN (SELECT value FROM json_each(:ids)) OR name IN (SELECT value FROM json_each(:names));

-- name: all_names()
SELECT DISTINCT project, name FROM definitions WHERE kind != 'step';

-- name: all_queues()
SELECT project, name, version FROM definitions WHERE kind != 'step';

-- name: put_definition*!
INSERT INTO definitions (
    id, project, kind, name, version, revision, fingerprint, module, qualname, description,
    options, registered_at, code, shipped_at
) VALUES (
    :id, :project, :kind, :name, :version, :revision, :fingerprint, :module, :qualname,
    :description, :options, :registered_at, :code, :shipped_at
)
ON CONFLICT (id) DO UPDATE SET
    fingerprint = excluded.fingerprint,
    module = excluded.module,
    qualname = excluded.qualname,
    description = excluded.description,
    options = excluded.options,
    code = excluded.code,
    shipped_at = excluded.shipped_at;

-- name: let_share(ids, most)!
UPDATE definitions SET together = max(together, :most)
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: definition_rows(project, alive_since)
SELECT id, project, kind, name, version, description, registered_at, (
    SELECT count(*)
    FROM worker_definitions
    JOIN workers ON workers.id = worker_definitions.worker
    WHERE
        worker_definitions.definition = definitions.id
        AND workers.heartbeat_at >= :alive_since
        AND workers.left_at IS NULL
) AS workers
FROM definitions
WHERE kind != 'step' AND (:project IS NULL OR project = :project);

-- code that was shipped ---------------------------------------------------------------------------

-- name: put_code*!
INSERT OR IGNORE INTO code (project, digest, body, shipped_at)
VALUES (:project, :digest, :body, :shipped_at);

-- name: code_body(project, digest)$
SELECT body FROM code WHERE project = :project AND digest = :digest;

-- name: code_of(definition)$
SELECT code FROM definitions WHERE id = :definition;

-- name: shipped_in_use(project, after, since, alive_since, most)
-- Shipped or called since then, or called and waiting; not what a worker serves with its own code.
SELECT id, project, kind, name, version, description, registered_at, code
FROM definitions
WHERE
    project = :project
    AND code IS NOT NULL
    AND id > :after
    AND (
        shipped_at >= :since
        OR EXISTS (
            SELECT 1
            FROM runs
            WHERE
                runs.definition = definitions.id AND is_root IN (0, 1) AND created_at >= :since
        )
        OR EXISTS (
            SELECT 1 FROM runs INDEXED BY runs_queued
            WHERE runs.definition = definitions.id AND state = 'queued'
        )
        OR id IN (
            SELECT definition FROM runs WHERE state = 'pending' AND finished_at IS NULL
        )
    )
    AND NOT EXISTS (
        SELECT 1
        FROM worker_definitions
        JOIN workers ON workers.id = worker_definitions.worker
        WHERE
            worker_definitions.definition = definitions.id
            AND NOT worker_definitions.shipped
            AND workers.heartbeat_at >= :alive_since
            AND workers.left_at IS NULL
    )
ORDER BY id
LIMIT :most;

-- name: insert_run_code*!
INSERT INTO run_code (seq, definition, code) SELECT seq, definition, :code FROM runs WHERE id = :id;

-- name: accepting_projects(alive_since)
SELECT DISTINCT project
FROM workers
WHERE accepts_code AND heartbeat_at >= :alive_since AND left_at IS NULL;

-- workers -----------------------------------------------------------------------------------------

-- name: definitions_served(ids, alive_since)
-- Each that a live worker serves, and whether one does so with code of its own.
SELECT worker_definitions.definition, min(worker_definitions.shipped) = 0 AS is_deployed
FROM json_each(:ids)
JOIN worker_definitions ON worker_definitions.definition = json_each.value
JOIN workers ON workers.id = worker_definitions.worker
WHERE workers.heartbeat_at >= :alive_since AND workers.left_at IS NULL
GROUP BY worker_definitions.definition;

-- name: put_worker*!
INSERT INTO workers (id, project, host, pid, slots, busy, started_at, heartbeat_at, accepts_code)
VALUES (:worker, :project, :host, :pid, :slots, :busy, :started_at, :now, :accepts_code)
ON CONFLICT (id) DO UPDATE SET
    slots = excluded.slots,
    busy = excluded.busy,
    heartbeat_at = excluded.heartbeat_at,
    left_at = NULL;

-- name: withdraw_definitions*!
DELETE FROM worker_definitions
WHERE worker = :worker AND definition NOT IN (SELECT value FROM json_each(:definitions));

-- name: serve_definitions*!
INSERT INTO worker_definitions (definition, worker, held, shipped)
SELECT definitions.id, :worker, coalesce((
    SELECT held.value FROM json_each(:held) AS held WHERE held.key = definitions.id
), 0), definitions.id IN (SELECT value FROM json_each(:shipped))
FROM definitions
WHERE id IN (SELECT value FROM json_each(:definitions)) AND project = :project
ON CONFLICT (definition, worker) DO UPDATE SET held = excluded.held, shipped = excluded.shipped;

-- name: dismiss_workers(ids, now)!
UPDATE workers SET left_at = :now WHERE id IN (SELECT value FROM json_each(:ids));

-- name: forget_workers(silent_since)!
-- Not while an attempt is theirs by name.
DELETE FROM workers
WHERE heartbeat_at < :silent_since AND NOT EXISTS (
    SELECT 1 FROM attempts WHERE attempts.worker = workers.id AND attempts.state = 'running'
);

-- name: workers_named(ids)
SELECT id, host, pid, heartbeat_at, left_at
FROM workers
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: worker_rows(project, alive_since)
SELECT id, project, host, pid, slots, busy, started_at, heartbeat_at, accepts_code, (
    SELECT json_group_array(
        definitions.project || ':' || definitions.name || ':' || definitions.version
    )
    FROM worker_definitions
    JOIN definitions ON definitions.id = worker_definitions.definition
    WHERE worker_definitions.worker = workers.id
) AS definitions
FROM workers
WHERE
    heartbeat_at >= :alive_since
    AND left_at IS NULL
    AND (:project IS NULL OR project = :project)
ORDER BY started_at, id;

-- runs: what a decision needs ---------------------------------------------------------------------

-- name: runs_named(ids)
SELECT * FROM current_runs WHERE id IN (SELECT value FROM json_each(:ids));

-- name: runs_below(ids)
-- Each run asked for and all below it that has not ended, though something between may have.
-- CROSS JOIN: from the few to their rows. Newer versions of SQLite would look at every run instead.
WITH RECURSIVE below (top, seq, id) AS (
    SELECT id, seq, id FROM runs WHERE id IN (SELECT value FROM json_each(:ids))
    UNION
    SELECT below.top, child.seq, child.id FROM below JOIN runs AS child ON child.parent = below.id
)
SELECT below.top, current_runs.*
FROM below
CROSS JOIN current_runs ON current_runs.seq = below.seq
WHERE current_runs.finished_at IS NULL OR current_runs.id = below.top
ORDER BY current_runs.seq;

-- name: lost_attempts(ids)
SELECT
    runs.id, attempts.number, attempts.host, attempts.finished_at, attempts.failure_message
FROM runs
JOIN attempts ON attempts.seq = runs.seq
WHERE runs.id IN (SELECT value FROM json_each(:ids)) AND attempts.state = 'lost'
ORDER BY attempts.number;

-- name: arguments_of(ids)
SELECT runs.id, arguments.body
FROM runs
JOIN arguments ON arguments.seq = runs.seq
WHERE runs.id IN (SELECT value FROM json_each(:ids));

-- name: foreseen_results(ids)
SELECT runs.id, results.result
FROM runs
JOIN results ON results.seq = runs.seq
WHERE runs.id IN (SELECT value FROM json_each(:ids));

-- name: waiters_of(ids)
SELECT run_id, session FROM waiters WHERE run_id IN (SELECT value FROM json_each(:ids));

-- name: ended(ids)
SELECT
    runs.id, runs.state, runs.attempt, runs.parent_round, runs.stopped_by, runs.blames,
    parents.finished_at IS NOT NULL AS has_parent_ended, results.result, results.error,
    runs.failure_type, runs.failure_message, results.failure_traceback
FROM runs
LEFT JOIN runs AS parents ON parents.id = runs.parent
LEFT JOIN results ON results.seq = runs.seq
WHERE runs.id IN (SELECT value FROM json_each(:ids)) AND runs.finished_at IS NOT NULL;

-- inputs ------------------------------------------------------------------------------------------
-- Each is only asked about runs that have inputs, or are some.

-- name: dependents_of(ids)
-- What waits for these runs.
SELECT made.id AS input, current_runs.*
FROM runs AS made
JOIN inputs ON inputs.input = made.seq
JOIN current_runs ON current_runs.seq = inputs.seq
WHERE made.id IN (SELECT value FROM json_each(:ids)) AND current_runs.waits_for > 0
ORDER BY current_runs.seq;

-- name: all_dependents_of(ids)
-- What waits for these runs, and what waits for that.
WITH RECURSIVE waiting (input, seq) AS (
    SELECT inputs.input, inputs.seq
    FROM runs AS made
    JOIN inputs ON inputs.input = made.seq
    JOIN runs ON runs.seq = inputs.seq
    WHERE made.id IN (SELECT value FROM json_each(:ids)) AND runs.waits_for > 0
    UNION
    SELECT inputs.input, inputs.seq
    FROM waiting
    JOIN inputs ON inputs.input = waiting.seq
    JOIN runs ON runs.seq = inputs.seq
    WHERE runs.waits_for > 0
)
SELECT made.id AS input, current_runs.*
FROM waiting
JOIN runs AS made ON made.seq = waiting.input
JOIN current_runs ON current_runs.seq = waiting.seq
ORDER BY current_runs.seq;

-- name: missing_inputs(ids)
-- The inputs of these runs that have not succeeded, and theirs.
WITH RECURSIVE missing (seq, input) AS (
    SELECT inputs.seq, inputs.input
    FROM runs
    JOIN inputs ON inputs.seq = runs.seq
    JOIN runs AS made ON made.seq = inputs.input
    WHERE runs.id IN (SELECT value FROM json_each(:ids)) AND made.state != 'succeeded'
    UNION
    SELECT inputs.seq, inputs.input
    FROM missing
    JOIN inputs ON inputs.seq = missing.input
    JOIN runs AS made ON made.seq = inputs.input
    WHERE made.state != 'succeeded'
)
SELECT dependent.id AS dependent, current_runs.*
FROM missing
JOIN runs AS dependent ON dependent.seq = missing.seq
JOIN current_runs ON current_runs.seq = missing.input
ORDER BY current_runs.seq;

-- name: input_results(ids, most)
-- The inputs of each of the runs, with their results if all of these have so many bytes at most.
WITH wanted (id, seq) AS (
    SELECT id, seq FROM runs WHERE id IN (SELECT value FROM json_each(:ids))
), sized (seq, bytes) AS (
    SELECT wanted.seq, sum(length(results.result))
    FROM wanted
    JOIN inputs ON inputs.seq = wanted.seq
    JOIN results ON results.seq = inputs.input
    GROUP BY wanted.seq
)
SELECT
    wanted.id AS dependent, made.id AS input,
    CASE WHEN sized.bytes <= :most THEN results.result END AS result
FROM wanted
JOIN inputs ON inputs.seq = wanted.seq
JOIN runs AS made ON made.seq = inputs.input
LEFT JOIN sized ON sized.seq = wanted.seq
LEFT JOIN results ON results.seq = inputs.input
ORDER BY wanted.seq, inputs.input;

-- name: input_ids(ids)
SELECT runs.id AS dependent, made.id AS input
FROM runs
JOIN inputs ON inputs.seq = runs.seq
JOIN runs AS made ON made.seq = inputs.input
WHERE runs.id IN (SELECT value FROM json_each(:ids))
ORDER BY runs.seq, inputs.input;

-- name: unended_inputs(run, most)
SELECT run_rows.*
FROM runs
JOIN inputs ON inputs.seq = runs.seq
JOIN run_rows ON run_rows.seq = inputs.input
WHERE runs.id = :run AND run_rows.finished_at IS NULL
ORDER BY run_rows.seq
LIMIT :most;

-- runs: what a decision writes --------------------------------------------------------------------

-- name: insert_runs*!
INSERT INTO runs (
    id, project, definition, kind, root, parent, identity, ordinal, key, digest, asked_for, options,
    state, since, attempt, round, parent_round, failures, losses, retried_by, stopped_by, inputs,
    waits_for, is_input, blames, created_at, started_at, finished_at, failure_type, failure_message
) VALUES (
    :id, :project, :definition, :kind, :root, :parent, :identity, :ordinal, :key, :digest,
    :asked_for, :options, :state, :since, :attempt, :round, :parent_round, :failures, :losses,
    :retried_by, :stopped_by, :inputs, :waits_for, :is_input, :blames, :created_at, :started_at,
    :finished_at, :failure_type, :failure_message
);

-- name: insert_inputs*!
INSERT INTO inputs (seq, input)
SELECT (SELECT seq FROM runs WHERE id = :run), seq
FROM runs
WHERE id IN (SELECT value FROM json_each(:inputs));

-- name: insert_arguments*!
INSERT INTO arguments (seq, body) SELECT seq, :arguments FROM runs WHERE id = :id;

-- name: insert_waiters*!
INSERT OR IGNORE INTO waiters (run_id, session) VALUES (:run, :session);

-- name: change_runs*!
UPDATE runs SET
    definition = :definition,
    state = :state,
    since = :since,
    attempt = :attempt,
    round = :round,
    parent_round = :parent_round,
    failures = :failures,
    losses = :losses,
    retried_by = :retried_by,
    stopped_by = :stopped_by,
    waits_for = :waits_for,
    is_input = :is_input,
    blames = :blames,
    started_at = :started_at,
    finished_at = :finished_at,
    failure_type = :failure_type,
    failure_message = :failure_message
WHERE id = :id AND attempt = :was_attempt AND (finished_at IS NOT NULL) = :had_ended;

-- name: put_attempts*!
INSERT INTO attempts (
    seq, number, worker, host, pid, state, started_at, leased_at, finished_at, failure_type,
    failure_message, failure_traceback
)
SELECT
    runs.seq, :number, :worker, workers.host, workers.pid, :state, :started_at, :leased_at,
    :finished_at, :failure_type, :failure_message, :failure_traceback
FROM runs LEFT JOIN workers ON workers.id = :worker
WHERE runs.id = :run
ON CONFLICT (seq, number) DO UPDATE SET
    worker = coalesce(excluded.worker, worker),
    host = coalesce(excluded.host, host),
    pid = coalesce(excluded.pid, pid),
    state = excluded.state,
    started_at = coalesce(excluded.started_at, started_at),
    leased_at = coalesce(excluded.leased_at, leased_at),
    finished_at = excluded.finished_at,
    failure_type = excluded.failure_type,
    failure_message = excluded.failure_message,
    failure_traceback = excluded.failure_traceback
WHERE attempts.state = 'running';

-- name: forget_results*!
DELETE FROM results WHERE seq = (SELECT seq FROM runs WHERE id = :run);

-- name: put_results*!
INSERT OR REPLACE INTO results (seq, result, error, failure_traceback)
SELECT seq, :result, :error, :failure_traceback FROM runs WHERE id = :run;

-- timers ------------------------------------------------------------------------------------------

-- name: clear_timers*!
DELETE FROM timers
WHERE seq = (SELECT seq FROM runs WHERE id = :run) AND (:kind IS NULL OR kind = :kind);

-- name: set_timers*!
INSERT OR REPLACE INTO timers (seq, kind, due_at) SELECT seq, :kind, :due_at FROM runs WHERE id = :run;

-- name: next_due()$
SELECT min(due_at) FROM timers;

-- name: timers_due(now, kinds, most)
SELECT runs.id AS run, timers.kind, timers.due_at
FROM timers
JOIN runs ON runs.seq = timers.seq
WHERE timers.due_at <= :now AND timers.kind IN (SELECT value FROM json_each(:kinds))
ORDER BY timers.due_at
LIMIT :most;

-- runs: the outbox --------------------------------------------------------------------------------

-- name: confirm_published*!
UPDATE runs SET state = 'queued', since = :now
WHERE id = :run AND attempt = :attempt AND state = 'pending';

-- name: remove_waiters*!
DELETE FROM waiters WHERE run_id = :run AND session = :session;

-- name: pending_runs(created_at, seq, most)
-- The oldest after the place given.
SELECT
    current_runs.*, definitions.project AS queue_project, definitions.name, definitions.version,
    arguments.body, coalesce(run_code.code, definitions.code) AS code
FROM current_runs
JOIN definitions ON definitions.id = current_runs.definition
JOIN arguments ON arguments.seq = current_runs.seq
LEFT JOIN run_code
    ON run_code.seq = current_runs.seq AND run_code.definition = current_runs.definition
WHERE
    current_runs.state = 'pending'
    AND current_runs.finished_at IS NULL
    AND (current_runs.created_at, current_runs.seq) > (:created_at, :seq)
ORDER BY current_runs.created_at, current_runs.seq
LIMIT :most;

-- name: pending_named(ids)
-- The plus: by the ids, not through all that is pending.
SELECT
    current_runs.*, definitions.project AS queue_project, definitions.name, definitions.version,
    arguments.body, coalesce(run_code.code, definitions.code) AS code
FROM current_runs
JOIN definitions ON definitions.id = current_runs.definition
JOIN arguments ON arguments.seq = current_runs.seq
LEFT JOIN run_code
    ON run_code.seq = current_runs.seq AND run_code.definition = current_runs.definition
WHERE
    current_runs.id IN (SELECT value FROM json_each(:ids))
    AND +current_runs.state = 'pending'
ORDER BY current_runs.created_at, current_runs.seq;

-- name: unanswered(run, session, most)
-- The first after the place given.
SELECT waiters.run_id, waiters.session
FROM waiters
JOIN runs ON runs.id = waiters.run_id
WHERE (waiters.run_id, waiters.session) > (:run, :session) AND runs.finished_at IS NOT NULL
ORDER BY waiters.run_id, waiters.session
LIMIT :most;

-- name: forget_attempts(now)!
-- For a broker that went away with all it held, and with all workers: their attempts are over.
UPDATE attempts SET state = 'returned', finished_at = :now WHERE state = 'running';

-- name: forget_published(now)!
UPDATE runs SET state = 'pending', since = :now, attempt = attempt + 1
WHERE state IN ('queued', 'running') AND finished_at IS NULL;

-- name: dismiss_all_workers(now)!
UPDATE workers SET left_at = :now WHERE left_at IS NULL;

-- runs: what went wrong unheard -------------------------------------------------------------------

-- name: orphans(alive_since, gone, most)
-- Attempts whose worker left, fell silent, or was found to be gone.
SELECT runs.id AS run, runs.attempt, attempts.worker
FROM attempts
JOIN runs ON runs.seq = attempts.seq AND runs.attempt = attempts.number
LEFT JOIN workers ON workers.id = attempts.worker
WHERE
    attempts.state = 'running'
    AND (
        workers.id IS NULL
        OR workers.left_at IS NOT NULL
        OR workers.heartbeat_at < :alive_since
        OR workers.id IN (SELECT value FROM json_each(:gone))
    )
LIMIT :most;

-- name: late_holders(heard_since)
-- Workers with attempts that have missed a heartbeat or two.
SELECT DISTINCT attempts.worker
FROM attempts
JOIN workers ON workers.id = attempts.worker
WHERE attempts.state = 'running' AND workers.heartbeat_at < :heard_since;

-- name: old_in_queues(before, alive_since)
-- Definitions with runs that were published a while ago: how many messages there must be of them,
-- and how many of those the workers that live have. Each part is a walk along an index of what is
-- under way; runs that have ended are not looked at.
WITH waiting (definition, number) AS (
    SELECT definition, count(*)
    FROM runs INDEXED BY runs_queued
    WHERE state = 'queued' AND since < :before
    GROUP BY definition
), executing (definition, number) AS (
    SELECT running.definition, count(*)
    FROM attempts
    JOIN runs AS running ON running.seq = attempts.seq AND running.attempt = attempts.number
    WHERE attempts.state = 'running' AND attempts.leased_at IS NULL
    GROUP BY running.definition
)
SELECT
    definitions.id, definitions.project, definitions.name, definitions.version,
    definitions.together, waiting.number + coalesce(executing.number, 0) AS published,
    coalesce((
        SELECT sum(worker_definitions.held)
        FROM worker_definitions
        JOIN workers ON workers.id = worker_definitions.worker
        WHERE
            worker_definitions.definition = definitions.id
            AND workers.left_at IS NULL
            AND workers.heartbeat_at >= :alive_since
    ), 0) AS held
FROM waiting
JOIN definitions ON definitions.id = waiting.definition
LEFT JOIN executing ON executing.definition = waiting.definition;

-- name: queued_before(definition, before, most)
SELECT id AS run, attempt
FROM runs
WHERE state = 'queued' AND definition = :definition AND since < :before
ORDER BY since
LIMIT :most;

-- name: pending_before(before)$
SELECT count(*) FROM (
    SELECT 1
    FROM runs
    WHERE state = 'pending' AND finished_at IS NULL AND since < :before
    LIMIT 1
);

-- runs: listings ----------------------------------------------------------------------------------
-- Newest first, those before a place. What is asked for is put together of slices, in each of which
-- an index has the runs in this order: of each the first are taken, and of these the first. Slices
-- are JSON arrays: of [project, is_root] or [definition, is_root].

-- name: projects()
SELECT DISTINCT project FROM definitions;

-- name: place_of(run)
SELECT project, created_at, seq FROM runs WHERE id = :run;

-- name: runs_of_projects(slices, since, created_at, seq, most)
WITH newest (seq, created_at) AS (
    SELECT runs.seq, runs.created_at
    FROM json_each(:slices) AS slice
    CROSS JOIN runs
    WHERE runs.seq IN (
        SELECT seq
        FROM runs
        WHERE
            project = slice.value ->> 0
            AND is_root = slice.value ->> 1
            AND kind != 'step'
            AND created_at >= :since
            AND (created_at, seq) < (:created_at, :seq)
        ORDER BY created_at DESC, seq DESC
        LIMIT :most
    )
    ORDER BY runs.created_at DESC, runs.seq DESC
    LIMIT :most
)
SELECT run_rows.*
FROM newest
CROSS JOIN run_rows ON run_rows.seq = newest.seq
ORDER BY newest.created_at DESC, newest.seq DESC;

-- name: ended_of_projects(slices, state, since, created_at, seq, most)
WITH newest (seq, created_at) AS (
    SELECT runs.seq, runs.created_at
    FROM json_each(:slices) AS slice
    CROSS JOIN runs
    WHERE runs.seq IN (
        SELECT seq
        FROM runs
        WHERE
            project = slice.value ->> 0
            AND state = :state
            AND is_root = slice.value ->> 1
            AND kind != 'step'
            AND finished_at IS NOT NULL
            AND created_at >= :since
            AND (created_at, seq) < (:created_at, :seq)
        ORDER BY created_at DESC, seq DESC
        LIMIT :most
    )
    ORDER BY runs.created_at DESC, runs.seq DESC
    LIMIT :most
)
SELECT run_rows.*
FROM newest
CROSS JOIN run_rows ON run_rows.seq = newest.seq
ORDER BY newest.created_at DESC, newest.seq DESC;

-- name: runs_of_definitions(slices, since, created_at, seq, most)
WITH newest (seq, created_at) AS (
    SELECT runs.seq, runs.created_at
    FROM json_each(:slices) AS slice
    CROSS JOIN runs
    WHERE runs.seq IN (
        SELECT seq
        FROM runs
        WHERE
            definition = slice.value ->> 0
            AND is_root = slice.value ->> 1
            AND created_at >= :since
            AND (created_at, seq) < (:created_at, :seq)
        ORDER BY created_at DESC, seq DESC
        LIMIT :most
    )
    ORDER BY runs.created_at DESC, runs.seq DESC
    LIMIT :most
)
SELECT run_rows.*
FROM newest
CROSS JOIN run_rows ON run_rows.seq = newest.seq
ORDER BY newest.created_at DESC, newest.seq DESC;

-- name: ended_of_definitions(slices, state, since, created_at, seq, most)
WITH newest (seq, created_at) AS (
    SELECT runs.seq, runs.created_at
    FROM json_each(:slices) AS slice
    CROSS JOIN runs
    WHERE runs.seq IN (
        SELECT seq
        FROM runs
        WHERE
            definition = slice.value ->> 0
            AND state = :state
            AND is_root = slice.value ->> 1
            AND finished_at IS NOT NULL
            AND created_at >= :since
            AND (created_at, seq) < (:created_at, :seq)
        ORDER BY created_at DESC, seq DESC
        LIMIT :most
    )
    ORDER BY runs.created_at DESC, runs.seq DESC
    LIMIT :most
)
SELECT run_rows.*
FROM newest
CROSS JOIN run_rows ON run_rows.seq = newest.seq
ORDER BY newest.created_at DESC, newest.seq DESC;

-- name: unended_runs(state, project, definitions, roots_only, since, created_at, seq, most)
-- What is under way is little: the other conditions only filter. NULL is any definition.
WITH newest (seq, created_at) AS (
    SELECT seq, created_at
    FROM runs
    WHERE
        state = :state
        AND finished_at IS NULL
        AND created_at >= :since
        AND (created_at, seq) < (:created_at, :seq)
        AND (:project IS NULL OR project = :project)
        AND (NOT :roots_only OR is_root)
        AND CASE
            WHEN :definitions IS NULL THEN kind != 'step'
            ELSE definition IN (SELECT value FROM json_each(:definitions))
        END
    ORDER BY created_at DESC, seq DESC
    LIMIT :most
)
SELECT run_rows.*
FROM newest
CROSS JOIN run_rows ON run_rows.seq = newest.seq
ORDER BY newest.created_at DESC, newest.seq DESC;

-- name: tree(run)
-- A child is always accepted after its parent, so the order of acceptance is the one wanted.
-- CROSS JOIN as in runs_below.
WITH RECURSIVE below (seq, id) AS (
    SELECT seq, id FROM runs WHERE id = :run
    UNION
    SELECT child.seq, child.id FROM below JOIN runs AS child ON child.parent = below.id
)
SELECT run_rows.*, results.failure_traceback
FROM below
CROSS JOIN run_rows ON run_rows.seq = below.seq
LEFT JOIN results ON results.seq = below.seq
ORDER BY below.seq;

-- name: attempts_of(runs)
SELECT
    runs.id AS run, attempts.number, attempts.state, attempts.worker, attempts.host, attempts.pid,
    attempts.started_at, attempts.leased_at, attempts.finished_at, attempts.failure_type,
    attempts.failure_message, attempts.failure_traceback
FROM runs
JOIN attempts ON attempts.seq = runs.seq
WHERE runs.id IN (SELECT value FROM json_each(:runs))
ORDER BY attempts.seq, attempts.number;

-- runs: explanations ------------------------------------------------------------------------------

-- name: run_row(run)
SELECT * FROM run_rows WHERE id = :run;

-- name: unended_children(run, most)
SELECT *
FROM run_rows
WHERE parent = :run AND finished_at IS NULL
ORDER BY seq
LIMIT :most;

-- name: servers(definition)
-- The workers that serve it, and those that did, the last heard first.
SELECT
    workers.id, workers.host, workers.pid, workers.slots, workers.heartbeat_at, workers.left_at,
    max(workers.busy, (
        SELECT count(*)
        FROM attempts
        JOIN runs ON runs.seq = attempts.seq
        WHERE
            attempts.state = 'running'
            AND attempts.worker = workers.id
            AND runs.kind = 'task'
    )) AS busy
FROM worker_definitions
JOIN workers ON workers.id = worker_definitions.worker
WHERE worker_definitions.definition = :definition
ORDER BY workers.heartbeat_at DESC;

-- name: executing(workers)
-- What these workers execute, by definition.
SELECT
    definitions.project || ':' || definitions.name || ':' || definitions.version AS definition,
    count(*) AS runs
FROM attempts
JOIN runs ON runs.seq = attempts.seq AND runs.attempt = attempts.number
JOIN definitions ON definitions.id = runs.definition
WHERE
    attempts.state = 'running'
    AND runs.kind = 'task'
    AND attempts.worker IN (SELECT value FROM json_each(:workers))
GROUP BY runs.definition
ORDER BY runs DESC;

-- what is not kept for ever ----------------------------------------------------------------------
-- A tree is given up as a whole: its root goes, and the others are doomed, in one transaction. Their
-- rows are removed by portions.

-- name: old_roots(projects, created_at, seq, most)
-- The newest before the place, so that what needs the result of another goes before that.
SELECT runs.seq, runs.created_at, runs.finished_at, runs.since
FROM json_each(:projects) AS wanted
CROSS JOIN runs
WHERE runs.seq IN (
    SELECT seq
    FROM runs
    WHERE
        project = wanted.value
        AND is_root = 1
        AND kind != 'step'
        AND (created_at, seq) < (:created_at, :seq)
    ORDER BY created_at DESC, seq DESC
    LIMIT :most
)
ORDER BY runs.created_at DESC, runs.seq DESC
LIMIT :most;

-- name: trees(roots, before, is_trial, most)
-- What is below each root, and what keeps it: a run that had not ended by then, a session
-- that waits, or a run of another tree that has one as an input. In a trial that counts only if its
-- tree has not ended before then. Not all that is below, if it is as many as `most`.
WITH RECURSIVE tree (root, seq, id) AS (
    SELECT seq, seq, id FROM runs WHERE seq IN (SELECT value FROM json_each(:roots))
    UNION ALL
    SELECT tree.root, child.seq, child.id
    FROM tree
    JOIN runs AS child ON child.parent = tree.id
    LIMIT :most
)
SELECT
    tree.root,
    count(*) AS runs,
    max(runs.inputs > 0) AS has_inputs,
    max(
        runs.finished_at IS NULL
        OR runs.since >= :before
        OR EXISTS (SELECT 1 FROM waiters WHERE waiters.run_id = runs.id)
    ) AS is_in_use,
    max(EXISTS (
        SELECT 1
        FROM inputs
        JOIN runs AS dependent ON dependent.seq = inputs.seq
        JOIN runs AS top ON top.id = dependent.root
        WHERE
            inputs.input = runs.seq
            AND top.seq != tree.root
            AND NOT (:is_trial AND top.finished_at IS NOT NULL AND top.since < :before)
    )) AS is_needed
FROM tree
CROSS JOIN runs ON runs.seq = tree.seq
GROUP BY tree.root;

-- name: doom(roots)!
INSERT INTO doomed (seq)
WITH RECURSIVE tree (seq, id) AS (
    SELECT seq, id FROM runs WHERE seq IN (SELECT value FROM json_each(:roots))
    UNION ALL
    SELECT child.seq, child.id FROM tree JOIN runs AS child ON child.parent = tree.id
)
SELECT seq FROM tree;

-- name: release_inputs()!
-- Nothing that is doomed needs the result of anything.
DELETE FROM inputs WHERE seq IN (SELECT seq FROM doomed);

-- name: remove_roots(roots)!
DELETE FROM runs WHERE seq IN (SELECT value FROM json_each(:roots));

-- name: remove_doomed(most)!
-- Not what was opened again meanwhile, or has become an input.
DELETE FROM runs
WHERE
    seq IN (SELECT seq FROM doomed ORDER BY seq DESC LIMIT :most)
    AND finished_at IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM inputs WHERE inputs.input = runs.seq);

-- name: forget_doomed(most)!
DELETE FROM doomed WHERE seq IN (SELECT seq FROM doomed ORDER BY seq DESC LIMIT :most);

-- name: has_doomed()$
SELECT EXISTS (SELECT 1 FROM doomed);

-- name: old_code(project, before, most)
-- Shipped before then, and of no definition and no run. The plus: a column would have the index
-- that is on the expression converted first.
SELECT project, digest
FROM code INDEXED BY code_by_age
WHERE
    shipped_at < :before
    AND (:project IS NULL OR project = :project)
    AND NOT EXISTS (
        SELECT 1
        FROM definitions
        WHERE definitions.project = code.project AND definitions.code ->> 'digest' = code.digest
    )
    AND NOT EXISTS (SELECT 1 FROM run_code WHERE run_code.code ->> 'digest' = +code.digest)
LIMIT :most;

-- name: remove_code(project, digest)!
DELETE FROM code WHERE project = :project AND digest = :digest;

-- stored payloads ---------------------------------------------------------------------------------

-- name: catalog_id()$
SELECT id FROM catalog;

-- name: put_stored*!
INSERT OR IGNORE INTO stored_objects (name, seq, kind)
SELECT :name, seq, :kind FROM runs WHERE id = :run;

-- name: forget_stored*!
-- What a run ended with.
DELETE FROM stored_objects
WHERE seq = (SELECT seq FROM runs WHERE id = :run) AND kind = 'end';

-- name: unreferred(names)
-- Those of the objects that no run's payloads refer to.
SELECT value AS name
FROM json_each(:names)
WHERE NOT EXISTS (SELECT 1 FROM stored_objects WHERE stored_objects.name = json_each.value);
