-- Listings that cost the same however much is kept, and runs that are not kept for ever.

BEGIN IMMEDIATE;

PRAGMA user_version = 6;

ALTER TABLE runs ADD COLUMN is_root INTEGER NOT NULL GENERATED ALWAYS AS (parent IS NULL) VIRTUAL;

DROP INDEX runs_by_time;
DROP INDEX runs_by_project;
DROP INDEX runs_by_definition;
DROP INDEX runs_by_state;
DROP INDEX runs_roots;

-- In each, the runs of a listing lie side by side, the newest last.
CREATE INDEX runs_by_project ON runs (project, is_root, created_at) WHERE kind != 'step';
CREATE INDEX runs_by_definition ON runs (definition, is_root, created_at);
CREATE INDEX runs_ended ON runs (project, state, is_root, created_at)
WHERE finished_at IS NOT NULL AND kind != 'step';
CREATE INDEX runs_ended_by_definition ON runs (definition, state, is_root, created_at)
WHERE finished_at IS NOT NULL;

-- What is under way is little, and changes: it has no other index by state.
CREATE INDEX runs_unended ON runs (state, created_at) WHERE finished_at IS NULL;

COMMIT;
