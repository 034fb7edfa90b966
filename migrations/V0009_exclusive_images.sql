-- What an owner promises of an image.
--
-- exclusive: nothing but this server writes to it (0 or 1).

ALTER TABLE images ADD COLUMN exclusive INTEGER NOT NULL DEFAULT 0 CHECK (exclusive IN (0, 1));
