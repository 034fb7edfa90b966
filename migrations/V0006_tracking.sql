-- What later backups can count from.
--
-- tracker: whose line of checkpoints the backup is in; null for copies. Until now there was the repository's alone.
-- checkpoint, granularity: what stands for its moment in the bitmaps of the image, and the bytes that one bit is for.

ALTER TABLE backups ADD COLUMN tracker TEXT;
ALTER TABLE backups ADD COLUMN checkpoint TEXT;
ALTER TABLE backups ADD COLUMN granularity INTEGER CHECK (granularity > 0);

UPDATE backups SET tracker = lower(repository) WHERE kind <> 'copy';

CREATE INDEX backups_by_tracker ON backups (image, repository, tracker, id) WHERE tracker IS NOT NULL;
CREATE INDEX backups_by_checkpoint ON backups (image, id) WHERE checkpoint IS NOT NULL;
