-- What clients see of how an exported backup differs from others of its image.
--
-- changed_since: those backups, each by its id and what clients call the difference, as JSON.

ALTER TABLE exports ADD COLUMN changed_since TEXT NOT NULL DEFAULT '[]';
