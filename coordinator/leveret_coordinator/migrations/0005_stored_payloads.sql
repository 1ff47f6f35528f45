-- Payloads that are stored elsewhere: which ones the catalog refers to is found by indexes. A
-- reference begins with 'LR', and its digest is at bytes 5 to 36 (`leveret_broker.references`).

BEGIN IMMEDIATE;

PRAGMA user_version = 5;

CREATE INDEX arguments_stored ON arguments (hex(substr(body, 5, 32)))
WHERE substr(body, 1, 2) = X'4C52';

CREATE INDEX results_stored ON results (hex(substr(result, 5, 32)))
WHERE substr(result, 1, 2) = X'4C52';

CREATE INDEX errors_stored ON results (hex(substr(error, 5, 32)))
WHERE substr(error, 1, 2) = X'4C52';

-- By this a payload store is known as this catalog's.
CREATE TABLE catalog (
    id TEXT NOT NULL
);

INSERT INTO catalog VALUES (lower(hex(randomblob(16))));

COMMIT;
