-- Columns for what a restore left half done, for jobs that pause for a time, and for storage that can only be read.
-- Each is nullable and added at its table's end, so that no table is built anew.

-- Set together: since when the image's bytes are a mixture, why, and the job that left them so.
ALTER TABLE images ADD COLUMN damaged_since INTEGER;
ALTER TABLE images ADD COLUMN damaged_why TEXT;
ALTER TABLE images ADD COLUMN damaged_job TEXT CHECK (length(damaged_job) = 26);

-- When a paused job resumes by itself; null while it isn't paused, or pauses without end.
ALTER TABLE jobs ADD COLUMN paused_until INTEGER;

-- Whether the repository's storage takes no writes; null is no.
ALTER TABLE repositories ADD COLUMN read_only INTEGER CHECK (read_only IN (0, 1));

-- Whether the backup is of an image that was a mixture; null is no.
ALTER TABLE backups ADD COLUMN mixture INTEGER CHECK (mixture IN (0, 1));

-- What the backup was when its deletion began; null unless one did and isn't settled.
ALTER TABLE backups ADD COLUMN state_before_deletion TEXT
  CHECK (state_before_deletion IN ('complete', 'failed', 'corrupt', 'expired'));
ALTER TABLE backups ADD COLUMN failure_before_deletion TEXT;
