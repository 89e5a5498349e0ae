"""The schema of the replay store, as a list of migrations that is only ever appended to.

Some things cannot be changed later: page size and auto-vacuum are set before the first table, every table is STRICT, token ids and
log-probs are packed blobs (`memory/layout/blobs.py`), and each token of a prompt is stored once. Times: `*_at` columns are Unix seconds
(UTC); `lease_until` is seconds of the boot-time clock of `boot_id` (`memory/leases.py`), which does not jump with the wall clock.
"""

from __future__ import annotations

from perdure.memory.layout.digests import ALSO_OF_EPISODE, TURN, resealing, sealed, with_digests
from perdure.memory.layout.first_schema import MIGRATION_1

APPLICATION_ID = 0x50445552
"""'PDUR' in the header of the file: tells our database from another program's."""
DEVELOPMENT_ID = 0x50455244
"""'PERD': the application id of stores that development versions made before the first release. They cannot be opened."""

PAGE_SIZE_BYTES = 16384

MIGRATION_2 = """
ALTER TABLE environment ADD COLUMN changed_at REAL; -- when it was found to have changed
ALTER TABLE environment ADD COLUMN changed_gate INTEGER REFERENCES gate (id); -- which showed it: scores of earlier gates count no more
ALTER TABLE environment ADD COLUMN chance REAL CHECK (chance BETWEEN 0 AND 1); -- share of tasks that a constant or a random answer solves
ALTER TABLE environment ADD COLUMN oracle INTEGER CHECK (oracle IN (0, 1)); -- whether it has right answers; NULL, of both: not known

CREATE TABLE dev_score (                        -- of a version on the first dev seeds of an environment
    version         TEXT NOT NULL REFERENCES version (name),
    environment     TEXT NOT NULL REFERENCES environment (name),
    temperature     REAL NOT NULL,              -- at which the answers were sampled
    seeds           INTEGER NOT NULL,           -- how many have been played
    scored          INTEGER NOT NULL,           -- how many of them got a score
    total           REAL NOT NULL,              -- of the scores
    PRIMARY KEY (version, environment, temperature)
) STRICT, WITHOUT ROWID;

CREATE TABLE watch (                            -- of live play: what was expected of the serving version, and what has come since
    version         TEXT NOT NULL REFERENCES version (name),
    environment     TEXT NOT NULL REFERENCES environment (name),
    temperature     REAL NOT NULL,              -- at which its gates sampled; live tasks at another one do not count
    low             REAL NOT NULL,              -- the mean score that is expected is at least this,
    high            REAL NOT NULL,              -- and at most this
    tasks           INTEGER NOT NULL DEFAULT 0, -- looked at since the detectors began
    total           REAL NOT NULL DEFAULT 0,    -- of their mean scores
    squares         REAL NOT NULL DEFAULT 0,    -- of the same
    fell            REAL NOT NULL DEFAULT 0,    -- evidence of the detector of a fall
    rose            REAL NOT NULL DEFAULT 0,    -- and of that of a rise
    last_task       INTEGER NOT NULL,           -- all tasks up to this one have been looked at
    alarm_job       INTEGER REFERENCES job (id), -- the confirming gate; NULL if there was no alarm
    PRIMARY KEY (version, environment)
) STRICT, WITHOUT ROWID;
"""

MIGRATION_3 = """
CREATE TABLE panel_score (                      -- of a version on one item of the capability panel
    version         TEXT NOT NULL REFERENCES version (name),
    skill           TEXT NOT NULL,
    item            TEXT NOT NULL,
    measure         TEXT NOT NULL CHECK (measure IN ('choice', 'confidence', 'cross_entropy', 'strict', 'lenient', 'cued')),
    score           REAL,                       -- a probability, 0 or 1, or nats a token; NULL: it does not fit into the context
    content         TEXT NOT NULL,              -- hash of the item: one that was edited is scored anew
    numerics        TEXT NOT NULL,              -- engine, device, precision and context: scores of others are not compared
    PRIMARY KEY (version, skill, item, measure)
) STRICT, WITHOUT ROWID;
"""

MIGRATION_4 = with_digests(
    environment="name, threshold, reward_low, reward_high, critical, anchor, registered_at, changed_at, changed_gate, chance, oracle",
    task="id, environment, seed, members, source, stage, state, owner, attempt, spent, lease_until, boot_id, error, "
    "created_at, finished_at",
    stage="place, name, plan",
    version="name, parent, state, hash, path, base_model, base_hash, targets, job, pinned, created_at",
    move="id, kind, from_version, to_version, gate, reason, moved_at",
    job="id, key, kind, learner, targets, options, state, owner, attempt, spent, lease_until, boot_id, candidate, result, error, "
    "created_at, started_at, finished_at",
    step="job, attempt, n, diagnostics, made_at",
    turn=TURN,
    episode='id, environment, seed, "group", member, seat, purpose, task, job, attempt, version, step_job, step_n, temperature, state, '
    "turns, total_reward, success, score, stop_reason, error, started_at, finished_at",
    reward="episode, source, value, made_at",
    rate="version, environment, episodes, successes, groups, mixed_groups",
    manifest="job, attempt, n, episode, on_policy",
    pair="gate, environment, role, draw, seed, reference, reference_score, candidate_score, difference",
    gate="id, job, attempt, candidate, serving, profile, settings, verdict, reason, evidence, started_at, finished_at",
    process="name, pid, state, detail, beat_at, started_at",
    device="name, owner, attempt, lease_until, boot_id",
    precision="device, dtype",
    event="id, kind, subject, message, happened_at",
    import_batch="id, path, sha256, label, imported_at",
    foreign_episode='id, batch, "row", name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success',
    foreign_turn="episode, n, messages, observation, prompt_ids, action, action_ids, logprobs, reward, finish",
    dev_score="version, environment, temperature, seeds, scored, total",
    watch="version, environment, temperature, low, high, tasks, total, squares, fell, rose, last_task, alarm_job",
    panel_score="version, skill, item, measure, score, content, numerics",
)
"""A digest for each row (`layout/digests.py`). A later migration that adds a column appends `sealed(...)` of its table."""

MIGRATION_5 = (
    """
ALTER TABLE environment ADD COLUMN retired_at REAL; -- no play, no replay, no gate since then; NULL: in use

CREATE TABLE pause (                            -- what a person has stopped; nothing else resumes it
    what            TEXT PRIMARY KEY CHECK (what IN ('play', 'learning')),
    reason          TEXT NOT NULL,
    paused_at       REAL NOT NULL
) STRICT;

CREATE TABLE alarm (                            -- learning at set times, as the last daemon read them from its settings
    name            TEXT PRIMARY KEY CHECK (name IN ('cron', 'every_minutes')),
    setting         TEXT NOT NULL,              -- another setting begins anew
    next_at         REAL NOT NULL,              -- it has passed if the time was missed, or if something else works
    rung_at         REAL                        -- when it last led to a look at what is to be learned
) STRICT;
"""
    + sealed(
        "environment",
        "name, threshold, reward_low, reward_high, critical, anchor, registered_at, changed_at, changed_gate, chance, oracle, retired_at",
    )
    + with_digests(pause="what, reason, paused_at", alarm="name, setting, next_at, rung_at")
)

MIGRATION_6 = (
    """
ALTER TABLE environment ADD COLUMN first_gate INTEGER NOT NULL DEFAULT 0; -- scores of gates before this one count no more
ALTER TABLE environment ADD COLUMN code TEXT;   -- what `envs/source_code.py` says of it as it was loaded last; NULL: not known
ALTER TABLE episode ADD COLUMN code TEXT;       -- the same when it was played
ALTER TABLE episode ADD COLUMN instructions TEXT; -- the system message of its task; NULL: that of the environment
ALTER TABLE foreign_episode ADD COLUMN instructions TEXT; -- the same, as an export says it
UPDATE environment SET first_gate = coalesce(changed_gate, 0);
"""
    + sealed(
        "environment",
        "name, threshold, reward_low, reward_high, critical, anchor, registered_at, changed_at, changed_gate, chance, oracle, retired_at, "
        "first_gate, code",
    )
    + sealed(
        "episode",
        'id, environment, seed, "group", member, seat, purpose, task, job, attempt, version, step_job, step_n, temperature, state, '
        "turns, total_reward, success, score, stop_reason, error, started_at, finished_at, code, instructions",
    )
    + sealed(
        "foreign_episode",
        'id, batch, "row", name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success, instructions',
    )
)

MIGRATION_7 = (
    """
ALTER TABLE foreign_episode ADD COLUMN tools TEXT CHECK (tools IS NULL OR json_valid(tools)); -- that the agent could call
ALTER TABLE foreign_turn ADD COLUMN answer TEXT CHECK (answer IS NULL OR json_valid(answer)); -- as a message, if it is more than its text
ALTER TABLE foreign_turn ADD COLUMN continues INTEGER CHECK (continues IN (0, 1)); -- whether messages are those since the last answer
DROP VIEW foreign_text;
CREATE VIEW foreign_text AS
    SELECT t.episode, t.n, coalesce(t.observation, json_extract(t.messages, '$[#-1].content')) AS observation, t.action,
           json_extract(t.answer, '$.tool_calls') AS tool_calls, t.reward, t.finish,
           length(t.prompt_ids) / 4 AS prompt_tokens, length(t.action_ids) / 4 AS action_tokens
    FROM foreign_turn t;
"""
    + sealed(
        "foreign_episode",
        'id, batch, "row", name, environment, seed, "group", sampler, base_model, base_hash, total_reward, success, instructions, tools',
    )
    + sealed(
        "foreign_turn", "episode, n, messages, observation, prompt_ids, action, action_ids, logprobs, reward, finish, answer, continues"
    )
)

MIGRATION_8 = """
CREATE TABLE change (                           -- what a person has changed, by command, API or page; written with the change itself
    id              INTEGER PRIMARY KEY,
    key             TEXT UNIQUE,                -- of the request, so that repeating it changes nothing; NULL: it had none
    who             TEXT NOT NULL,
    via             TEXT NOT NULL CHECK (via IN ('command', 'api', 'page')),
    what            TEXT NOT NULL,              -- such as 'version rollback', as the command is called
    subject         TEXT NOT NULL,              -- the version, job, environment, ... that it is about
    arguments       TEXT NOT NULL CHECK (json_valid(arguments)),
    reason          TEXT,                       -- NULL: none was asked for, and none was given
    answer          TEXT CHECK (answer IS NULL OR json_valid(answer)), -- what was answered; NULL: it had no key
    made_at         REAL NOT NULL
) STRICT;
""" + with_digests(change="id, key, who, via, what, subject, arguments, reason, answer, made_at")

MIGRATION_9 = (
    """
CREATE TABLE shard (                            -- a Parquet file with the turns of old episodes
    id              INTEGER PRIMARY KEY,
    place           TEXT NOT NULL UNIQUE,       -- 'history/NAME.parquet' in the home, or 's3://BUCKET/NAME.parquet?region=...'
    state           TEXT NOT NULL DEFAULT 'writing' CHECK (state IN ('writing', 'whole', 'gone')), -- turns are read of 'whole' ones only
    sha256          TEXT,                       -- of the file
    size_bytes      INTEGER,
    runs            TEXT CHECK (runs IS NULL OR json_valid(runs)), -- the ids of its episodes: '[[1,40],[43,90]]', both ends included
    episodes        INTEGER,
    turns           INTEGER,
    pruned_episodes INTEGER NOT NULL DEFAULT 0, -- of those, how many have left the store since
    pruned_turns    INTEGER NOT NULL DEFAULT 0,
    numbers_back    INTEGER NOT NULL DEFAULT 0, -- by how much the highest row id of `turn` fell when its turns were deleted
    made_at         REAL NOT NULL,
    CHECK ((state = 'writing') = (sha256 IS NULL)),
    CHECK (state = 'writing' OR (size_bytes IS NOT NULL AND runs IS NOT NULL AND episodes IS NOT NULL AND turns IS NOT NULL))
) STRICT;

CREATE TABLE shelved (                          -- an episode whose turns are in a shard, and in no row of `turn`
    episode         INTEGER PRIMARY KEY REFERENCES episode (id) ON DELETE CASCADE,
    shard           INTEGER NOT NULL REFERENCES shard (id),
    tokens          INTEGER NOT NULL,           -- of the whole conversation
    chain           INTEGER NOT NULL            -- what the digest of the episode covers of its turns
) STRICT;
"""
    + with_digests(
        shard="id, place, state, sha256, size_bytes, runs, episodes, turns, pruned_episodes, pruned_turns, numbers_back, made_at",
        shelved="episode, shard, tokens, chain",
    )
    + resealing(
        "episode",
        'id, environment, seed, "group", member, seat, purpose, task, job, attempt, version, step_job, step_n, temperature, state, '
        "turns, total_reward, success, score, stop_reason, error, started_at, finished_at, code, instructions",
        ALSO_OF_EPISODE,
    )
)

MIGRATION_10 = """
CREATE TABLE errand (                           -- a held-out draw of a gate or a probe, for whichever player asks first
    id              INTEGER PRIMARY KEY,
    job             INTEGER NOT NULL REFERENCES job (id),
    job_attempt     INTEGER NOT NULL,           -- at the job: those of earlier attempts are abandoned
    batch           INTEGER NOT NULL,           -- of this attempt, from 1
    n               INTEGER NOT NULL,           -- place in the batch, from 0
    version         TEXT NOT NULL REFERENCES version (name), -- that answers
    serving         TEXT NOT NULL REFERENCES version (name), -- that the opponent 'serving' stands for
    purpose         TEXT NOT NULL CHECK (purpose IN ('gate', 'probe')),
    environment     TEXT NOT NULL REFERENCES environment (name),
    seed            INTEGER NOT NULL CHECK (seed >= 0),
    samples         INTEGER NOT NULL CHECK (samples >= 1), -- answers
    temperature     REAL NOT NULL,
    state           TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'leased', 'done', 'abandoned')),
    owner           TEXT,                       -- who plays it, or has played it
    attempt         INTEGER NOT NULL DEFAULT 0, -- goes up with every lease; a write under an older attempt is refused
    spent           INTEGER NOT NULL DEFAULT 0, -- attempts that ended badly: after three the job plays it itself
    lease_until     REAL,
    boot_id         TEXT,
    scores          TEXT CHECK (scores IS NULL OR json_valid(scores)), -- one for each answer, null if it could not be scored
    error           TEXT,                       -- why the last attempt ended badly
    created_at      REAL NOT NULL,
    finished_at     REAL,
    CHECK ((state = 'done') = (scores IS NOT NULL)),
    UNIQUE (job, job_attempt, batch, n)
) STRICT;
CREATE INDEX errand_open ON errand (state, id) WHERE state IN ('queued', 'leased');

CREATE TABLE judge (                            -- a player that has asked for errands
    name            TEXT PRIMARY KEY,
    asked_s         REAL NOT NULL,              -- when last, on the boot-time clock
    boot_id         TEXT NOT NULL
) STRICT;
""" + with_digests(
    errand="id, job, job_attempt, batch, n, version, serving, purpose, environment, seed, samples, temperature, state, owner, attempt, "
    "spent, lease_until, boot_id, scores, error, created_at, finished_at",
    judge="name, asked_s, boot_id",
)

MIGRATIONS: tuple[str, ...] = (
    MIGRATION_1,
    MIGRATION_2,
    MIGRATION_3,
    MIGRATION_4,
    MIGRATION_5,
    MIGRATION_6,
    MIGRATION_7,
    MIGRATION_8,
    MIGRATION_9,
    MIGRATION_10,
)
"""Migration n brings `user_version` from n - 1 to n. All that are missing are applied in one transaction."""

COUNT_RATES = """
INSERT INTO rate (version, environment, episodes, successes, groups, mixed_groups)
SELECT version, environment, sum(episodes), sum(successes), count(*), sum(low < high)
FROM (
    SELECT version, environment, count(*) AS episodes, sum(success) AS successes, min(total_reward) AS low, max(total_reward) AS high
    FROM episode WHERE purpose = 'live' AND state = 'completed' AND version IS NOT NULL
    GROUP BY version, environment, "group"
)
GROUP BY version, environment;
"""
"""What the table `rate` comes to, counted from all episodes."""
