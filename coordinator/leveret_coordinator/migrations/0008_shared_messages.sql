-- Several runs may share a message.

BEGIN IMMEDIATE;
PRAGMA user_version = 8;

-- The most runs of a definition that any message may hold.
ALTER TABLE definitions ADD COLUMN together INTEGER NOT NULL DEFAULT 1;

COMMIT;
