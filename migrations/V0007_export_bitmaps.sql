-- What clients see of the bitmaps of an export's image.
--
-- bitmaps: each by its name and what clients call it, as JSON.

ALTER TABLE exports ADD COLUMN bitmaps TEXT NOT NULL DEFAULT '[]';
