-- What is to be removed, and what removing looks for.

BEGIN IMMEDIATE;

PRAGMA user_version = 7;

-- Runs of trees that were given up, until their rows are removed, a portion at a time.
CREATE TABLE doomed (
    seq INTEGER PRIMARY KEY NOT NULL
);

CREATE INDEX code_by_age ON code (shipped_at, project, digest);
CREATE INDEX run_code_by_digest ON run_code (code ->> 'digest');

COMMIT;
