-- What is done with images that a guest goes on writing to.
--
-- bitmaps: those of an export's image that clients see, each by its name and what clients call it, as JSON.
-- guest_impact: what a backup cost the guest of its image, as JSON; null of an image at rest.

ALTER TABLE exports ADD COLUMN bitmaps TEXT NOT NULL DEFAULT '[]';
ALTER TABLE backups ADD COLUMN guest_impact TEXT;
