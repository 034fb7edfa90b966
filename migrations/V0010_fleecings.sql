-- Views of images at one moment, for programs of others.
--
-- images: each with its id, its name at the time, and the size of its disk, as JSON. One that is live when the server
-- starts is broken: nothing serves it any more.

CREATE TABLE fleecing_states (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO fleecing_states (name) VALUES
  ('starting'), ('active'), ('finishing'), ('finished'), ('expired'), ('broken');

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
  revision       INTEGER NOT NULL CHECK (revision > 0),
  CHECK ((listen_kind = 'tcp') = (listen_port IS NOT NULL))
) STRICT;

CREATE INDEX fleecings_by_state ON fleecings (state, id);
