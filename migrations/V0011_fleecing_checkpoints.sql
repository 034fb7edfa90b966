-- Fleecings that show what changed since an earlier moment, and checkpoints that they set.
--
-- since: the moment that the dirty context counts from, as JSON; null: there is none. tracker: whose bitmap a success
-- advances. checkpoint: the id that it sets.
-- fleecing_checkpoints.tracked: granularity and marks of the bitmap that counts from it, as JSON.

ALTER TABLE fleecings ADD COLUMN access TEXT NOT NULL DEFAULT 'all' CHECK (access IN ('all', 'dirty'));
ALTER TABLE fleecings ADD COLUMN since TEXT CHECK (json_type(since) = 'object');
ALTER TABLE fleecings ADD COLUMN tracker TEXT NOT NULL DEFAULT 'external';
ALTER TABLE fleecings ADD COLUMN checkpoint TEXT CHECK (length(checkpoint) = 26);
ALTER TABLE fleecings ADD COLUMN label TEXT;

CREATE TABLE fleecing_checkpoints (
  image         TEXT    NOT NULL CHECK (length(image) = 26),
  id            TEXT    NOT NULL CHECK (length(id) = 26),
  tracker       TEXT    NOT NULL,
  label         TEXT,
  tracked       TEXT    NOT NULL CHECK (json_type(tracked) = 'object'),
  point_in_time INTEGER NOT NULL,
  PRIMARY KEY (image, id)
) STRICT, WITHOUT ROWID;
