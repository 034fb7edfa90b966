-- Enumerations that grow are rows of reference tables: a new value is one INSERT in a later migration, and no table
-- is built anew for it. Enumerations that are complete stay CHECKs. Their tables move over once, for the CHECKs that
-- go: new, filled, in the place of the old (sqlite.org/lang_altertable.html, section 7). Other tables refer to them
-- by name, and so to the new ones from the renaming on.

CREATE TABLE image_source_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO image_source_kinds (name) VALUES ('file'), ('device'), ('nbd'), ('machine');

CREATE TABLE image_states (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO image_states (name) VALUES ('detached'), ('attached'), ('unavailable'), ('live');

CREATE TABLE repository_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO repository_kinds (name) VALUES ('directory');

CREATE TABLE backup_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO backup_kinds (name) VALUES ('full'), ('incremental'), ('differential'), ('copy');

-- What may be asked for: a kind, or to choose one.
CREATE TABLE requested_backup_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO requested_backup_kinds (name) VALUES ('full'), ('incremental'), ('differential'), ('copy'), ('auto');

CREATE TABLE backup_states (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO backup_states (name) VALUES ('running'), ('complete'), ('failed'), ('corrupt'), ('expired'), ('trashed');

CREATE TABLE job_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO job_kinds (name) VALUES
  ('backup'), ('verify'), ('restore'), ('delete-backup'), ('rescan'), ('check'), ('attach'), ('detach'),
  ('fleece'), ('finish-fleecing'), ('reconcile'), ('verify-chain'), ('restore-group'), ('prune'), ('undelete'),
  ('consolidate'), ('drill');

CREATE TABLE event_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO event_kinds (name) VALUES
  ('image.created'), ('image.changed'), ('image.deleted'),
  ('repository.created'), ('repository.changed'), ('repository.deleted'),
  ('backup.created'), ('backup.changed'), ('backup.deleted'),
  ('export.created'), ('export.changed'), ('export.deleted'),
  ('job.created'), ('job.changed'), ('job.deleted'),
  ('bitmap.created'), ('bitmap.changed'), ('bitmap.deleted'),
  ('fleecing.created'), ('fleecing.changed'), ('fleecing.deleted'),
  ('policy.created'), ('policy.changed'), ('policy.deleted'),
  ('token.created'), ('token.changed'), ('token.deleted'),
  ('run.changed'), ('coverage.changed'), ('config.changed'), ('prune.stopped'), ('notification.dead');

-- Attached or to be attached: both attached_ columns are set. source_place is a path, or the URI of an NBD export.
-- The damaged_ columns are set together: since when the image's bytes are a mixture, why, and the job that left them so.
CREATE TABLE new_images (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  name           TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  source_kind    TEXT    NOT NULL REFERENCES image_source_kinds (name),
  source_place   TEXT    NOT NULL,
  format         TEXT    NOT NULL CHECK (format IN ('raw', 'qcow2')),
  virtual_size   INTEGER NOT NULL CHECK (virtual_size >= 0),
  state          TEXT    NOT NULL REFERENCES image_states (name),
  attached_cache TEXT             CHECK (attached_cache IN ('direct', 'writeback')),
  attached_by    TEXT             CHECK (attached_by IN ('request', 'export')),
  damaged_since  INTEGER,
  damaged_why    TEXT,
  damaged_job    TEXT             CHECK (length(damaged_job) = 26),
  labels         TEXT    NOT NULL CHECK (json_type(labels) = 'object'),
  managed_by     TEXT    NOT NULL CHECK (managed_by IN ('api', 'config')),
  created_at     INTEGER NOT NULL,
  revision       INTEGER NOT NULL CHECK (revision > 0),
  CHECK ((attached_cache IS NULL) = (attached_by IS NULL))
) STRICT;

INSERT INTO new_images (id, name, source_kind, source_place, format, virtual_size, state, attached_cache, attached_by,
                        damaged_since, damaged_why, damaged_job, labels, managed_by, created_at, revision)
SELECT id, name, source_kind, source_place, format, virtual_size, state, attached_cache, attached_by, damaged_since,
       damaged_why, damaged_job, labels, managed_by, created_at, revision
FROM images ORDER BY id;

DROP TABLE images;
ALTER TABLE new_images RENAME TO images;

-- read_only: whether the storage takes no writes.
CREATE TABLE new_repositories (
  id         TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  name       TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 63),
  kind       TEXT    NOT NULL REFERENCES repository_kinds (name),
  path       TEXT    NOT NULL,
  state      TEXT    NOT NULL CHECK (state IN ('ready', 'unavailable')),
  read_only  INTEGER NOT NULL CHECK (read_only IN (0, 1)),
  managed_by TEXT    NOT NULL CHECK (managed_by IN ('api', 'config')),
  created_at INTEGER NOT NULL,
  revision   INTEGER NOT NULL CHECK (revision > 0)
) STRICT;

INSERT INTO new_repositories (id, name, kind, path, state, read_only, managed_by, created_at, revision)
SELECT id, name, kind, path, state, coalesce(read_only, 0), managed_by, created_at, revision
FROM repositories ORDER BY id;

DROP TABLE repositories;
ALTER TABLE new_repositories RENAME TO repositories;

-- A parent may be missing: a repository can hold an increment whose parent was taken away, and the catalog must
-- be able to say so. mixture: whether the image was one at the point in time. The _before_deletion columns say what
-- the backup was when its deletion began; they are null unless one did and isn't settled.
CREATE TABLE new_backups (
  id                      TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  image                   TEXT    NOT NULL CHECK (length(image) = 26),
  repository              TEXT    NOT NULL REFERENCES repositories (id),
  chain                   TEXT    NOT NULL REFERENCES chains (id),
  sequence                INTEGER NOT NULL CHECK (sequence >= 0),
  group_id                TEXT    NOT NULL CHECK (length(group_id) = 26),
  kind                    TEXT    NOT NULL REFERENCES backup_kinds (name),
  requested_kind          TEXT    NOT NULL REFERENCES requested_backup_kinds (name),
  reason                  TEXT    NOT NULL,
  parent                  TEXT             CHECK (length(parent) = 26),
  state                   TEXT    NOT NULL REFERENCES backup_states (name),
  compression             TEXT    NOT NULL CHECK (compression IN ('zstd', 'none')),
  consistency             TEXT    NOT NULL CHECK (consistency IN ('offline', 'crash', 'filesystem')),
  mixture                 INTEGER NOT NULL CHECK (mixture IN (0, 1)),
  point_in_time           INTEGER NOT NULL,
  created_at              INTEGER NOT NULL,
  finished_at             INTEGER,
  virtual_size            INTEGER NOT NULL CHECK (virtual_size >= 0),
  dirty_bytes             INTEGER NOT NULL CHECK (dirty_bytes >= 0),
  stored_size             INTEGER NOT NULL CHECK (stored_size >= 0),
  merkle_root             TEXT,
  verified_at             INTEGER,
  verify_level            TEXT             CHECK (verify_level IN ('metadata', 'checksum')),
  job                     TEXT             CHECK (length(job) = 26),
  failure                 TEXT,
  state_before_deletion   TEXT             REFERENCES backup_states (name)
                                           CHECK (state_before_deletion <> 'running'),
  failure_before_deletion TEXT,
  revision                INTEGER NOT NULL CHECK (revision > 0)
) STRICT;

INSERT INTO new_backups (id, image, repository, chain, sequence, group_id, kind, requested_kind, reason, parent, state,
                         compression, consistency, mixture, point_in_time, created_at, finished_at, virtual_size,
                         dirty_bytes, stored_size, merkle_root, verified_at, verify_level, job, failure,
                         state_before_deletion, failure_before_deletion, revision)
SELECT id, image, repository, chain, sequence, group_id, kind, requested_kind, reason, parent, state, compression,
       consistency, coalesce(mixture, 0), point_in_time, created_at, finished_at, virtual_size, dirty_bytes,
       stored_size, merkle_root, verified_at, verify_level, job, failure, state_before_deletion,
       failure_before_deletion, revision
FROM backups ORDER BY id;

DROP TABLE backups;
ALTER TABLE new_backups RENAME TO backups;

-- Each combination of filters is served in order of id by one of these, see BackupFilter's index in the program.
CREATE INDEX backups_by_image ON backups (image, id);
CREATE INDEX backups_by_image_and_state ON backups (image, state, id);
CREATE INDEX backups_by_repository ON backups (repository, id);
CREATE INDEX backups_by_repository_and_state ON backups (repository, state, id);
CREATE INDEX backups_by_chain ON backups (chain, id);
CREATE INDEX backups_by_state ON backups (state, id);
CREATE INDEX backups_by_parent ON backups (parent, id) WHERE parent IS NOT NULL;

-- paused_until: when a paused job resumes by itself; null while it isn't paused, or pauses without end.
CREATE TABLE new_jobs (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  kind           TEXT    NOT NULL REFERENCES job_kinds (name),
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
  paused_until   INTEGER,
  retry_of       TEXT             CHECK (length(retry_of) = 26),
  result         TEXT             CHECK (result IS NULL OR json_valid(result)),
  error          TEXT             CHECK (json_type(error) = 'object'),
  links          TEXT    NOT NULL CHECK (json_type(links) = 'object'),
  revision       INTEGER NOT NULL CHECK (revision > 0)
) STRICT;

INSERT INTO new_jobs (id, kind, request, state, progress_done, progress_total, progress_rate, progress_eta, created_at,
                      started_at, finished_at, waiting_for, paused_until, retry_of, result, error, links, revision)
SELECT id, kind, request, state, progress_done, progress_total, progress_rate, progress_eta, created_at, started_at,
       finished_at, waiting_for, paused_until, retry_of, result, error, links, revision
FROM jobs ORDER BY id;

DROP TABLE jobs;
ALTER TABLE new_jobs RENAME TO jobs;

CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_kind ON jobs (kind, id);
CREATE INDEX jobs_by_kind_and_state ON jobs (kind, state, id);

CREATE TABLE new_events (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  at      INTEGER NOT NULL,
  kind    TEXT    NOT NULL REFERENCES event_kinds (name),
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

-- A kept answer is the API's own affair: one text, in a form that nobody else reads.
CREATE TABLE new_idempotency_keys (
  who        TEXT    NOT NULL,
  route      TEXT    NOT NULL,
  key        TEXT    NOT NULL,
  body_hash  TEXT    NOT NULL,
  answer     TEXT    NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (who, route, key)
) STRICT, WITHOUT ROWID;

INSERT INTO new_idempotency_keys (who, route, key, body_hash, answer, created_at)
SELECT who, route, key, body_hash, json_object('status', status, 'headers', json(headers), 'body', body), created_at
FROM idempotency_keys;

DROP TABLE idempotency_keys;
ALTER TABLE new_idempotency_keys RENAME TO idempotency_keys;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
