-- What a backup's place in its group and in its chain rests on.
--
-- group_images: all images of the group, as far as that is known.
-- tracking_fallback: how what changed was found where no bitmap told it: by comparing hashes, or not at all, so that
-- everything was stored. fallback_reason: why no bitmap told it.

CREATE TABLE fallback_reasons (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO fallback_reasons (name) VALUES
  ('no-parent'), ('bitmap-inconsistent'), ('bitmap-missing'), ('tracking-lost'), ('unclean-stop'),
  ('snapshot-reverted'), ('size-changed'), ('granularity-changed'), ('parent-missing'), ('identity-changed'),
  ('sampled-check-failed');

ALTER TABLE backups ADD COLUMN group_images TEXT CHECK (json_type(group_images) = 'array');
ALTER TABLE backups ADD COLUMN tracking_fallback TEXT CHECK (tracking_fallback IN ('hash', 'full'));
ALTER TABLE backups ADD COLUMN fallback_reason TEXT REFERENCES fallback_reasons (name);

CREATE INDEX backups_by_group ON backups (group_id, id);
