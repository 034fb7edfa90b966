-- What the migrations make together; kept so by a test. UPDATE_SCHEMA=1 swift test --filter SchemaTests

CREATE TABLE backup_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE backup_states (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE "backups" (
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
, group_images TEXT CHECK (json_type(group_images) = 'array'), tracking_fallback TEXT CHECK (tracking_fallback IN ('hash', 'full')), fallback_reason TEXT REFERENCES fallback_reasons (name), tracker TEXT, checkpoint TEXT, granularity INTEGER CHECK (granularity > 0), guest_impact TEXT) STRICT;

CREATE INDEX backups_by_chain ON backups (chain, id);

CREATE INDEX backups_by_checkpoint ON backups (image, id) WHERE checkpoint IS NOT NULL;

CREATE INDEX backups_by_group ON backups (group_id, id);

CREATE INDEX backups_by_image ON backups (image, id);

CREATE INDEX backups_by_image_and_state ON backups (image, state, id);

CREATE INDEX backups_by_parent ON backups (parent, id) WHERE parent IS NOT NULL;

CREATE INDEX backups_by_repository ON backups (repository, id);

CREATE INDEX backups_by_repository_and_state ON backups (repository, state, id);

CREATE INDEX backups_by_state ON backups (state, id);

CREATE INDEX backups_by_tracker ON backups (image, repository, tracker, id) WHERE tracker IS NOT NULL;

CREATE TABLE chains (
  id         TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  image      TEXT    NOT NULL CHECK (length(image) = 26),
  image_name TEXT    NOT NULL,
  repository TEXT    NOT NULL REFERENCES repositories (id),
  created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX chains_by_image ON chains (image, id);

CREATE INDEX chains_by_repository ON chains (repository, id);

CREATE TABLE event_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE "events" (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  at      INTEGER NOT NULL,
  kind    TEXT    NOT NULL REFERENCES event_kinds (name),
  subject TEXT    NOT NULL CHECK (length(subject) = 26),
  job     TEXT             CHECK (length(job) = 26),
  payload TEXT    NOT NULL CHECK (json_valid(payload))
) STRICT;

CREATE INDEX events_by_job ON events (job, id) WHERE job IS NOT NULL;

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
  revision         INTEGER NOT NULL CHECK (revision > 0), bitmaps TEXT NOT NULL DEFAULT '[]', changed_since TEXT NOT NULL DEFAULT '[]',
  CHECK ((image IS NULL) <> (backup IS NULL)),
  CHECK ((listen_kind = 'tcp') = (listen_port IS NOT NULL))
) STRICT;

CREATE INDEX exports_by_backup ON exports (backup, id) WHERE backup IS NOT NULL;

CREATE INDEX exports_by_image ON exports (image, id) WHERE image IS NOT NULL;

CREATE TABLE fallback_reasons (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE fleecing_checkpoints (
  image         TEXT    NOT NULL CHECK (length(image) = 26),
  id            TEXT    NOT NULL CHECK (length(id) = 26),
  tracker       TEXT    NOT NULL,
  label         TEXT,
  tracked       TEXT    NOT NULL CHECK (json_type(tracked) = 'object'),
  point_in_time INTEGER NOT NULL,
  PRIMARY KEY (image, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE fleecing_states (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE fleecings (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 26),
  images         TEXT    NOT NULL CHECK (json_type(images) = 'array'),
  listen_kind    TEXT    NOT NULL CHECK (listen_kind IN ('unix', 'tcp')),
  listen_address TEXT    NOT NULL,
  listen_port    INTEGER          CHECK (listen_port BETWEEN 1 AND 65535),
  tls            TEXT             CHECK (tls IN ('x509', 'psk')),
  release        TEXT    NOT NULL CHECK (release IN ('none', 'trim')),
  state          TEXT    NOT NULL REFERENCES fleecing_states (name),
  point_in_time  INTEGER,
  expires_at     INTEGER,
  ended_at       INTEGER,
  outcome        TEXT             CHECK (outcome IN ('success', 'failure')),
  error          TEXT             CHECK (json_type(error) = 'object'),
  created_at     INTEGER NOT NULL,
  revision       INTEGER NOT NULL CHECK (revision > 0), access TEXT NOT NULL DEFAULT 'all' CHECK (access IN ('all', 'dirty')), since TEXT CHECK (json_type(since) = 'object'), tracker TEXT NOT NULL DEFAULT 'external', checkpoint TEXT CHECK (length(checkpoint) = 26), label TEXT,
  CHECK ((listen_kind = 'tcp') = (listen_port IS NOT NULL))
) STRICT;

CREATE INDEX fleecings_by_state ON fleecings (state, id);

CREATE TABLE "idempotency_keys" (
  who        TEXT    NOT NULL,
  route      TEXT    NOT NULL,
  key        TEXT    NOT NULL,
  body_hash  TEXT    NOT NULL,
  answer     TEXT    NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (who, route, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE image_source_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE image_states (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE "images" (
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
  revision       INTEGER NOT NULL CHECK (revision > 0), exclusive INTEGER NOT NULL DEFAULT 0 CHECK (exclusive IN (0, 1)),
  CHECK ((attached_cache IS NULL) = (attached_by IS NULL))
) STRICT;

CREATE TABLE job_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE job_log (
  job      TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  level    TEXT    NOT NULL CHECK (level IN ('info', 'warning', 'error')),
  message  TEXT    NOT NULL,
  PRIMARY KEY (job, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE "jobs" (
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

CREATE INDEX jobs_by_kind ON jobs (kind, id);

CREATE INDEX jobs_by_kind_and_state ON jobs (kind, state, id);

CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE migrations (
  version    INTEGER NOT NULL PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  sha256     TEXT    NOT NULL,
  applied_at INTEGER NOT NULL
) STRICT;

CREATE TABLE "repositories" (
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

CREATE TABLE repository_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE requested_backup_kinds (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
