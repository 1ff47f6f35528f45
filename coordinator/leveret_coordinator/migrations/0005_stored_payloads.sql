-- Objects in the payload store that the payloads of runs refer to.

BEGIN IMMEDIATE;

PRAGMA user_version = 5;

CREATE TABLE stored_objects (
    name TEXT NOT NULL,
    seq  INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('arguments', 'end')),
    PRIMARY KEY (name, seq, kind)
) WITHOUT ROWID;

CREATE INDEX stored_objects_by_run ON stored_objects (seq, kind);

-- By this a payload store is known as this catalog's.
CREATE TABLE catalog (
    id TEXT NOT NULL
);

INSERT INTO catalog VALUES (lower(hex(randomblob(16))));

COMMIT;
