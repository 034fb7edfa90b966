-- NBD exports, attached images, images on NBD servers. SQLite changes no CHECK in place, so that tables with wider
-- ones are built anew: new, filled, in the place of the old (sqlite.org/lang_altertable.html, section 7).

-- Attached or to be attached: both attached_ columns are set. source_place is a path, or the URI of an NBD export.
CREATE TABLE new_images (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  name           TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  source_kind    TEXT    NOT NULL CHECK (source_kind IN ('file', 'device', 'nbd')),
  source_place   TEXT    NOT NULL,
  format         TEXT    NOT NULL CHECK (format IN ('raw', 'qcow2')),
  virtual_size   INTEGER NOT NULL CHECK (virtual_size >= 0),
  state          TEXT    NOT NULL CHECK (state IN ('detached', 'attached', 'unavailable')),
  attached_cache TEXT             CHECK (attached_cache IN ('direct', 'writeback')),
  attached_by    TEXT             CHECK (attached_by IN ('request', 'export')),
  labels         TEXT    NOT NULL CHECK (json_type(labels) = 'object'),
  managed_by     TEXT    NOT NULL CHECK (managed_by IN ('api', 'config')),
  created_at     INTEGER NOT NULL,
  revision       INTEGER NOT NULL CHECK (revision > 0),
  CHECK ((attached_cache IS NULL) = (attached_by IS NULL))
) STRICT;

INSERT INTO new_images (id, name, source_kind, source_place, format, virtual_size, state, labels, managed_by,
                        created_at, revision)
SELECT id, name, source_kind, source_path, format, virtual_size, state, labels, managed_by, created_at, revision
FROM images;

DROP TABLE images;
ALTER TABLE new_images RENAME TO images;

-- Either image or backup is set. They refer to no row: what may go while it is exported is the service's to say.
-- listen_address is the path of a Unix socket, or the host of a port.
CREATE TABLE exports (
  id               TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  name             TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  image            TEXT             CHECK (length(image) = 26),
  backup           TEXT             CHECK (length(backup) = 26),
  read_only        INTEGER NOT NULL CHECK (read_only IN (0, 1)),
  listen_kind      TEXT    NOT NULL CHECK (listen_kind IN ('unix', 'tcp')),
  listen_address   TEXT    NOT NULL,
  listen_port      INTEGER          CHECK (listen_port BETWEEN 1 AND 65535),
  tls              TEXT             CHECK (tls IN ('x509', 'psk')),
  allocation_depth INTEGER NOT NULL CHECK (allocation_depth IN (0, 1)),
  state            TEXT    NOT NULL CHECK (state IN ('active', 'unavailable')),
  failure          TEXT,
  created_at       INTEGER NOT NULL,
  revision         INTEGER NOT NULL CHECK (revision > 0),
  CHECK ((image IS NULL) <> (backup IS NULL)),
  CHECK ((listen_kind = 'tcp') = (listen_port IS NOT NULL))
) STRICT;

CREATE INDEX exports_by_image ON exports (image, id) WHERE image IS NOT NULL;
CREATE INDEX exports_by_backup ON exports (backup, id) WHERE backup IS NOT NULL;

-- job_log refers to jobs by name, and so to the new ones from the renaming on.
CREATE TABLE new_jobs (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  kind           TEXT    NOT NULL CHECK (kind IN ('backup', 'verify', 'restore', 'delete-backup', 'rescan',
                                                  'check', 'attach', 'detach')),
  request        TEXT    NOT NULL CHECK (json_type(request) = 'object'),
  state          TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'paused', 'cancelling',
                                                   'succeeded', 'failed', 'cancelled', 'interrupted')),
  progress_done  INTEGER NOT NULL CHECK (progress_done >= 0),
  progress_total INTEGER NOT NULL CHECK (progress_total >= 0),
  progress_rate  INTEGER NOT NULL CHECK (progress_rate >= 0),
  progress_eta   INTEGER,
  created_at     INTEGER NOT NULL,
  started_at     INTEGER,
  finished_at    INTEGER,
  waiting_for    TEXT,
  retry_of       TEXT             CHECK (length(retry_of) = 26),
  result         TEXT             CHECK (result IS NULL OR json_valid(result)),
  error          TEXT             CHECK (json_type(error) = 'object'),
  links          TEXT    NOT NULL CHECK (json_type(links) = 'object'),
  revision       INTEGER NOT NULL CHECK (revision > 0)
) STRICT;

INSERT INTO new_jobs (id, kind, request, state, progress_done, progress_total, progress_rate, progress_eta,
                      created_at, started_at, finished_at, waiting_for, retry_of, result, error, links, revision)
SELECT id, kind, request, state, progress_done, progress_total, progress_rate, progress_eta, created_at, started_at,
       finished_at, waiting_for, retry_of, result, error, links, revision
FROM jobs;

DROP TABLE jobs;
ALTER TABLE new_jobs RENAME TO jobs;

CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_kind ON jobs (kind, id);

CREATE TABLE new_events (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  at      INTEGER NOT NULL,
  kind    TEXT    NOT NULL CHECK (kind IN ('image.created', 'image.changed', 'image.deleted',
                                           'repository.created', 'repository.changed', 'repository.deleted',
                                           'backup.created', 'backup.changed', 'backup.deleted',
                                           'export.created', 'export.changed', 'export.deleted',
                                           'job.created', 'job.changed')),
  subject TEXT    NOT NULL CHECK (length(subject) = 26),
  job     TEXT             CHECK (length(job) = 26),
  payload TEXT    NOT NULL CHECK (json_valid(payload))
) STRICT;

INSERT INTO new_events (id, at, kind, subject, job, payload) SELECT id, at, kind, subject, job, payload FROM events;

-- The counter goes on where it stood, which is beyond the rows if the newest were pruned.
DELETE FROM sqlite_sequence WHERE name = 'new_events';
INSERT INTO sqlite_sequence (name, seq) SELECT 'new_events', seq FROM sqlite_sequence WHERE name = 'events';

DROP TABLE events;
ALTER TABLE new_events RENAME TO events;

CREATE INDEX events_by_job ON events (job, id) WHERE job IS NOT NULL;
