"""The first migration of the replay store: the schema of the first release. It never changes; `schema.py` has what came since."""

from __future__ import annotations

MIGRATION_1 = """
CREATE TABLE environment (
    name            TEXT PRIMARY KEY,           -- with its options: 'perdure:largest-number?numbers=4'
    threshold       REAL NOT NULL,              -- success is a return of at least this, if the environment does not say itself
    reward_low      REAL NOT NULL,
    reward_high     REAL NOT NULL,
    critical        INTEGER NOT NULL DEFAULT 0 CHECK (critical IN (0, 1)),
    anchor          TEXT REFERENCES version (name),
    registered_at   REAL NOT NULL
) STRICT;

CREATE TABLE task (
    id              INTEGER PRIMARY KEY,
    environment     TEXT NOT NULL REFERENCES environment (name),
    seed            INTEGER NOT NULL CHECK (seed >= 0),
    members         INTEGER NOT NULL CHECK (members >= 1),
    source          TEXT NOT NULL CHECK (source IN ('stream', 'person')),
    stage           TEXT,                       -- of the stream that drew it; NULL if a person asked for it
    state           TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'leased', 'done', 'failed')),
    owner           TEXT,
    attempt         INTEGER NOT NULL DEFAULT 0, -- goes up with every lease; a write under an older attempt is refused
    spent           INTEGER NOT NULL DEFAULT 0, -- attempts that ended badly (failed, or the process died); an orderly stop spends none
    lease_until     REAL,
    boot_id         TEXT,
    error           TEXT,
    created_at      REAL NOT NULL,
    finished_at     REAL
) STRICT;
CREATE INDEX task_by_state ON task (state, source, id);
CREATE INDEX task_by_stage ON task (source, stage, environment, state); -- all that is asked of the stream's tasks is in it

CREATE TABLE stage (                            -- of the stream, as the last daemon of this home read it from its settings
    place           INTEGER PRIMARY KEY,        -- from 0
    name            TEXT NOT NULL UNIQUE,       -- what `task.stage` names
    plan            TEXT NOT NULL CHECK (json_valid(plan))
) STRICT;

CREATE TABLE version (
    name            TEXT PRIMARY KEY,           -- never reused
    parent          TEXT REFERENCES version (name),
    state           TEXT NOT NULL CHECK (state IN ('candidate', 'serving', 'retired', 'rejected')),
    hash            TEXT NOT NULL,
    path            TEXT,                       -- adapter folder relative to the home; NULL for the base model
    base_model      TEXT NOT NULL,
    base_hash       TEXT NOT NULL,
    targets         TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(targets)),
    job             INTEGER REFERENCES job (id),
    pinned          INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    created_at      REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX version_one_serves ON version (state) WHERE state = 'serving';

CREATE TABLE move (                             -- each move of the serving pointer, one transaction with the states of both versions
    id              INTEGER PRIMARY KEY,
    kind            TEXT NOT NULL CHECK (kind IN ('initial', 'promote', 'rollback')),
    from_version    TEXT REFERENCES version (name),
    to_version      TEXT NOT NULL REFERENCES version (name),
    gate            INTEGER REFERENCES gate (id),
    reason          TEXT NOT NULL,
    moved_at        REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX move_one_promotion_a_gate ON move (gate) WHERE gate IS NOT NULL;

CREATE TABLE job (
    id              INTEGER PRIMARY KEY,
    key             TEXT NOT NULL UNIQUE,       -- idempotency: inserting the same job twice gives one job
    kind            TEXT NOT NULL CHECK (kind IN ('learn', 'gate', 'probe')),
    learner         TEXT,
    targets         TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(targets)),
    options         TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(options)),
    state           TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'leased', 'running', 'gating', 'done', 'failed')),
    owner           TEXT,
    attempt         INTEGER NOT NULL DEFAULT 0,
    spent           INTEGER NOT NULL DEFAULT 0,
    lease_until     REAL,
    boot_id         TEXT,
    candidate       TEXT REFERENCES version (name),
    result          TEXT CHECK (result IS NULL OR json_valid(result)),
    error           TEXT,
    created_at      REAL NOT NULL,
    started_at      REAL,
    finished_at     REAL
) STRICT;
CREATE INDEX job_by_state ON job (state, id);

CREATE TABLE step (                             -- the policy inside a learning job after its n-th update; never serves
    job             INTEGER NOT NULL REFERENCES job (id),
    attempt         INTEGER NOT NULL,           -- of the job's lease: a job that is tried again makes its steps again
    n               INTEGER NOT NULL CHECK (n >= 0),
    diagnostics     TEXT NOT NULL CHECK (json_valid(diagnostics)),
    made_at         REAL NOT NULL,
    PRIMARY KEY (job, attempt, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE episode (
    id              INTEGER PRIMARY KEY,
    environment     TEXT NOT NULL REFERENCES environment (name),
    seed            INTEGER NOT NULL,
    "group"         TEXT NOT NULL,
    member          INTEGER NOT NULL,
    seat            INTEGER NOT NULL DEFAULT 0, -- of a game with several players: 0 is the one that counts
    purpose         TEXT NOT NULL CHECK (purpose IN ('live', 'learn', 'hinted', 'replay', 'gate', 'probe')),
    task            INTEGER REFERENCES task (id),
    job             INTEGER REFERENCES job (id),
    attempt         INTEGER NOT NULL,           -- of the lease of the task or job under which it is played
    version         TEXT REFERENCES version (name),
    step_job        INTEGER,
    step_n          INTEGER,
    temperature     REAL NOT NULL,
    state           TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'completed', 'aborted', 'env_error')),
    turns           INTEGER NOT NULL DEFAULT 0,
    total_reward    REAL NOT NULL DEFAULT 0,
    success         INTEGER NOT NULL DEFAULT 0 CHECK (success IN (0, 1)),
    score           REAL NOT NULL DEFAULT 0 CHECK (score BETWEEN 0 AND 1), -- what probes and gate compare
    stop_reason     TEXT,
    error           TEXT,
    started_at      REAL NOT NULL,
    finished_at     REAL,
    CHECK ((version IS NULL) <> (step_n IS NULL))
) STRICT;
CREATE UNIQUE INDEX episode_one_completed_a_member ON episode ("group", member) WHERE state = 'completed';
CREATE INDEX episode_running ON episode ("group", member) WHERE state = 'running';
CREATE INDEX episode_by_environment ON episode (environment); -- these three end in the id: lists need no sorting
CREATE INDEX episode_by_version ON episode (version);
CREATE INDEX episode_by_both ON episode (environment, version);
CREATE INDEX episode_live ON episode (version, started_at) WHERE purpose = 'live' AND state = 'completed';
CREATE INDEX episode_by_task ON episode (task);
CREATE INDEX episode_by_job ON episode (job);

CREATE TABLE turn (
    episode         INTEGER NOT NULL REFERENCES episode (id) ON DELETE CASCADE,
    n               INTEGER NOT NULL,
    shared          INTEGER NOT NULL,           -- how many leading prompt tokens equal the previous turn's prompt and action
    prompt_ids      BLOB NOT NULL,              -- int32, little-endian: the prompt after those
    action_ids      BLOB NOT NULL,              -- int32, little-endian
    logprobs        BLOB NOT NULL,              -- float32, little-endian, natural log
    observation     TEXT NOT NULL,
    action          TEXT NOT NULL,
    invalid         TEXT,                       -- why the answer was no action, if the environment said so
    reward          REAL NOT NULL,
    finish          TEXT NOT NULL CHECK (finish IN ('stop', 'length')),
    version         TEXT,
    step_job        INTEGER,
    step_n          INTEGER,
    made_at         REAL NOT NULL,
    PRIMARY KEY (episode, n),
    CHECK (length(logprobs) = length(action_ids))
) STRICT;

CREATE TABLE reward (                           -- what a person or a program gave an episode afterwards
    episode         INTEGER NOT NULL REFERENCES episode (id) ON DELETE CASCADE,
    source          TEXT NOT NULL,
    value           REAL NOT NULL,
    made_at         REAL NOT NULL,
    PRIMARY KEY (episode, source)
) STRICT, WITHOUT ROWID;

CREATE TABLE rate (                             -- live play so far, counted as episodes complete; pruning them does not undo it
    version         TEXT NOT NULL REFERENCES version (name),
    environment     TEXT NOT NULL REFERENCES environment (name),
    episodes        INTEGER NOT NULL,
    successes       INTEGER NOT NULL,
    groups          INTEGER NOT NULL,
    mixed_groups    INTEGER NOT NULL,           -- those with different returns
    PRIMARY KEY (version, environment)
) STRICT, WITHOUT ROWID;

CREATE TABLE manifest (                         -- one batch: the exact episodes of one update
    job             INTEGER NOT NULL REFERENCES job (id),
    attempt         INTEGER NOT NULL,           -- of the job's lease
    n               INTEGER NOT NULL,           -- the step that the update makes
    episode         INTEGER NOT NULL REFERENCES episode (id),
    on_policy       INTEGER NOT NULL CHECK (on_policy IN (0, 1)),
    PRIMARY KEY (job, attempt, n, episode)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX manifest_once_on_policy ON manifest (episode) WHERE on_policy = 1;
CREATE INDEX manifest_by_episode ON manifest (episode); -- without it, removing an episode reads every manifest

CREATE TABLE gate (
    id              INTEGER PRIMARY KEY,
    job             INTEGER NOT NULL REFERENCES job (id),
    attempt         INTEGER NOT NULL,           -- of the job's lease
    candidate       TEXT NOT NULL REFERENCES version (name),
    serving         TEXT NOT NULL REFERENCES version (name),
    profile         TEXT NOT NULL,
    settings        TEXT NOT NULL CHECK (json_valid(settings)), -- alpha, margins, stops: fixed before the first pair
    verdict         TEXT CHECK (verdict IN ('promote', 'reject', 'inconclusive')),
    reason          TEXT,
    evidence        TEXT CHECK (evidence IS NULL OR json_valid(evidence)),
    started_at      REAL NOT NULL,
    finished_at     REAL,
    UNIQUE (job, attempt, candidate)
) STRICT;

CREATE TABLE pair (
    gate            INTEGER NOT NULL REFERENCES gate (id),
    environment     TEXT NOT NULL REFERENCES environment (name),
    role            TEXT NOT NULL CHECK (role IN ('earlier', 'trained')),
    draw            INTEGER NOT NULL,           -- r of seed = H(root, gate, environment, r); a void draw is followed by the next
    seed            INTEGER NOT NULL,
    reference       TEXT NOT NULL REFERENCES version (name),
    reference_score REAL,                       -- NULL: void, the environment failed there
    candidate_score REAL,                       -- NULL: the candidate's side failed, difference -1
    difference      REAL,
    PRIMARY KEY (gate, environment, role, draw)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX pair_fresh_seeds ON pair (environment, role, reference, seed);

CREATE TABLE process (                          -- what each process of this home last said of itself
    name            TEXT PRIMARY KEY,
    pid             INTEGER NOT NULL,
    state           TEXT NOT NULL,
    detail          TEXT,
    beat_at         REAL NOT NULL,
    started_at      REAL NOT NULL
) STRICT;

CREATE TABLE device (                           -- who may compute; on a CPU actor and learner take turns
    name            TEXT PRIMARY KEY,
    owner           TEXT,
    attempt         INTEGER NOT NULL DEFAULT 0,
    lease_until     REAL,
    boot_id         TEXT
) STRICT;

CREATE TABLE precision (                        -- measured once a home, so that a version serves in the precision it was gated in
    device          TEXT PRIMARY KEY,
    dtype           TEXT NOT NULL
) STRICT;

CREATE TABLE event (
    id              INTEGER PRIMARY KEY,
    kind            TEXT NOT NULL,
    subject         TEXT NOT NULL,
    message         TEXT NOT NULL,
    happened_at     REAL NOT NULL
) STRICT;

CREATE TABLE import_batch (                     -- one imported file; the same bytes come in once
    id              INTEGER PRIMARY KEY,
    path            TEXT NOT NULL,              -- as it was given
    sha256          TEXT NOT NULL UNIQUE,
    label           TEXT NOT NULL,              -- where it came from, in the words of who imported it
    imported_at     REAL NOT NULL
) STRICT;

CREATE TABLE foreign_episode (                  -- of another pipeline: in tables of their own, so that nothing mixes them with ours
    id              INTEGER PRIMARY KEY,
    batch           INTEGER NOT NULL REFERENCES import_batch (id) ON DELETE CASCADE,
    row             INTEGER NOT NULL CHECK (row >= 1), -- of the file, counted from 1
    name            TEXT,                       -- what the other pipeline calls it
    environment     TEXT NOT NULL,              -- its own name for it: need not be one of ours
    seed            INTEGER,
    "group"         TEXT,
    sampler         TEXT,
    base_model      TEXT,                       -- whose tokenizer made the ids; NULL only if there are none
    base_hash       TEXT,                       -- which model exactly, if it is an export of Perdure
    total_reward    REAL,
    success         INTEGER CHECK (success IN (0, 1)),
    UNIQUE (batch, row)
) STRICT;

CREATE TABLE foreign_turn (                     -- ids, texts or both, whatever the other pipeline kept
    episode         INTEGER NOT NULL REFERENCES foreign_episode (id) ON DELETE CASCADE,
    n               INTEGER NOT NULL,
    messages        TEXT CHECK (messages IS NULL OR json_valid(messages)), -- the conversation before the answer
    observation     TEXT,
    prompt_ids      BLOB,                       -- int32, little-endian: the whole prompt
    action          TEXT,
    action_ids      BLOB,                       -- int32, little-endian
    logprobs        BLOB,                       -- float32, little-endian, natural log
    reward          REAL,
    finish          TEXT CHECK (finish IN ('stop', 'length')),
    PRIMARY KEY (episode, n),
    CHECK (coalesce(messages, observation, prompt_ids) IS NOT NULL),
    CHECK (coalesce(action, action_ids) IS NOT NULL),
    CHECK (logprobs IS NULL OR (action_ids IS NOT NULL AND length(logprobs) = length(action_ids)))
) STRICT;

CREATE VIEW episode_list AS
    SELECT e.id, e.environment, e.seed, e.purpose, e.state, e.success, e.total_reward, e.turns, e.stop_reason,
           coalesce(e.version, 'job ' || e.step_job || ' step ' || e.step_n) AS sampler,
           datetime(e.started_at, 'unixepoch') AS started
    FROM episode e;
CREATE VIEW turn_text AS
    SELECT t.episode, t.n, t.observation, t.action, t.invalid, t.reward, t.finish,
           length(t.prompt_ids) / 4 + t.shared AS prompt_tokens, length(t.action_ids) / 4 AS action_tokens,
           coalesce(t.version, 'job ' || t.step_job || ' step ' || t.step_n) AS sampler
    FROM turn t;
CREATE VIEW foreign_list AS
    SELECT f.id, b.label, f.row, f.name, f.environment, f."group", f.sampler, f.total_reward, f.success,
           (SELECT count(*) FROM foreign_turn t WHERE t.episode = f.id) AS turns
    FROM foreign_episode f JOIN import_batch b ON b.id = f.batch;
CREATE VIEW foreign_text AS
    SELECT t.episode, t.n, coalesce(t.observation, json_extract(t.messages, '$[#-1].content')) AS observation, t.action, t.reward,
           t.finish, length(t.prompt_ids) / 4 AS prompt_tokens, length(t.action_ids) / 4 AS action_tokens
    FROM foreign_turn t;
"""
