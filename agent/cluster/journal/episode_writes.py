"""What one player writes about its episodes: their beginnings, turns and ends, of live tasks or of the errands that it holds.

`StoreJournal` has the rules. Here are those that distance adds: who plays must be who wrote before, the files of the version that answers
must be those of the head, and a message may come twice, if its answer was lost. The key of a write is what it is about, so that a journal
that was started anew knows it again: an episode by its lease, group, member and seat, a turn by its episode and number, an ending by its
episode. The same content is answered as before; other content is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perdure.agent.cluster.journal.journal_messages import Body, read_endings, read_plans, read_turns
from perdure.memory.environments import code_of_environment
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure
from perdure.memory.json_value import Document
from perdure.memory.leases import Clock
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn, VersionRef
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import InPlay, StoreJournal
from perdure.memory.trajectories.turns import read_sampler
from perdure.memory.trajectories.turns import read_turns as read_stored
from perdure.memory.versions import get_version


class OtherVersion(RuntimeFailure):
    """A player serves something else than it says."""


@dataclass(slots=True, kw_only=True)
class EpisodeWrites:
    """The episodes of one player: of live tasks, or of errands if it holds any."""

    store: Store
    player: str
    clock: Clock
    errands: tuple[Lease, ...] = ()
    journal: StoreJournal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = StoreJournal(self.store, self.clock, errands=self.errands)

    def start(self, head: Document) -> Document:
        """Begin episodes. Raises `OtherVersion` if the files of a version are not those of the head."""
        plans = read_plans(head["plans"])
        for plan in plans:
            self._check(plan, head["hashes"])
        if head["again"] and (known := [self._begun(plan) for plan in plans]) and all(known):
            for episode in known:
                self._in_play(int(episode or 0))
            return {"episodes": known}
        return {"episodes": self.journal.start(plans)}

    def turns(self, body: Body) -> Document:
        """Write the turns of one batch. Raises `OtherVersion` if another sampler answered than plays the episode."""
        entries = read_turns(body, self._before)
        if body.head["again"]:
            entries = [(episode, n, turn) for episode, n, turn in entries if not self._written(episode, n, turn)]
        for episode, n, turn in entries:
            plays = self._in_play(episode).sampler
            if turn.sampler != plays:
                raise OtherVersion(f"turn {n} of episode {episode} came from {turn.sampler}, but {plays} plays it")
        if entries:
            self.journal.turns(entries)
        return {}

    def finish(self, head: Document) -> Document:
        """Write how episodes ended."""
        endings = read_endings(head["endings"])
        if head["again"]:
            endings = [ending for ending in endings if not self._ended(ending)]
        for ending in endings:
            self._in_play(ending.episode)
        if endings:
            self.journal.finish(endings)
        return {}

    def _check(self, plan: EpisodePlan, hashes: Mapping[str, str]) -> None:
        """Refuse an episode that this player must not begin."""
        if self.errands:
            sql = "SELECT 1 FROM errand WHERE job = ? AND job_attempt = ? AND id = ?"
            jobs = [self.store.rows(sql, (plan.lease.subject, plan.lease.attempt, errand.subject)) for errand in self.errands]
            allowed = plan.purpose != "live" and any(jobs)
        else:
            allowed = plan.purpose == "live" and plan.lease.owner == self.player
        if not allowed:
            raise InputError(f"{self.player} may not begin an episode of {plan.purpose} under a lease of {plan.lease.owner}")
        known = code_of_environment(self.store, plan.environment)
        if plan.code and known not in (None, plan.code):
            raise other_code(plan.environment, plan.code, str(known))
        if not isinstance(plan.sampler, VersionRef):
            raise InputError(f"{plan.sampler} is no version: players elsewhere play versions only")
        given = hashes.get(plan.sampler.name)
        if given != get_version(self.store, plan.sampler.name).hash:
            raise OtherVersion(f"it serves {plan.sampler} with files that are not those of the head (hash {str(given)[:12]})")

    def _begun(self, plan: EpisodePlan) -> int | None:
        """The episode of a plan that was begun already, under the same lease. Raises `RuntimeFailure` if it is another one."""
        rows = self.store.rows(
            """
            SELECT * FROM episode WHERE "group" = ? AND member = ? AND state = 'running' AND seat = ? AND attempt = ?
                AND coalesce(task, job) = ?
            """,
            (plan.group, plan.member, plan.seat, plan.lease.attempt, plan.lease.subject),
        )
        if not rows:
            return None
        row = rows[0]
        if (row["environment"], row["seed"], read_sampler(row)) != (plan.environment, plan.seed, plan.sampler):
            raise RuntimeFailure(f"episode {row['id']} was begun otherwise than it is said now: nothing was written")
        return int(row["id"])

    def _in_play(self, episode: int) -> InPlay:
        """An episode that this player plays; one that another process of the journal began is taken up.

        Raises `LeaseLost` if the player does not hold what it is played under, and `RuntimeFailure` if it does not run.
        """
        found = self.journal.in_play(episode)
        if found is not None:
            return found
        rows = self.store.rows("SELECT task, job, attempt FROM episode WHERE id = ?", (episode,))
        lease = self._lease_of(rows[0]["task"], rows[0]["job"], rows[0]["attempt"]) if rows else None
        if lease is None:
            raise LeaseLost(f"episode {episode}: {self.player} lost its lease; nothing was written")
        return self.journal.take_up(episode, lease)

    def _lease_of(self, task: int | None, job: int | None, attempt: int) -> Lease | None:
        """The lease under which this player plays a task or a job, if it holds it, or an errand of the job."""
        if task is not None:
            sql = "SELECT owner FROM task WHERE id = ? AND attempt = ? AND state = 'leased' AND owner = ?"
            rows = self.store.rows(sql, (task, attempt, self.player))
            return Lease(subject=task, owner=self.player, attempt=attempt) if rows else None
        if not self.errands or job is None:
            return None
        rows = self.store.rows("SELECT owner FROM job WHERE id = ? AND attempt = ? AND owner IS NOT NULL", (job, attempt))
        return Lease(subject=job, owner=rows[0]["owner"], attempt=attempt) if rows else None

    def _before(self, episode: int, n: int) -> Turn | None:
        """The turn before turn n, which is the last one, or the last but one if turn n was written already."""
        count, last, _ = self._in_play(episode).end
        return read_stored(self.store, [episode])[episode][n - 1] if 0 < n < count else last

    def _written(self, episode: int, n: int, turn: Turn) -> bool:
        """Whether this turn is the last that was written. Raises `RuntimeFailure` if that was another one."""
        count, last, _ = self._in_play(episode).end
        if n != count - 1:
            return False
        if turn != last:
            raise RuntimeFailure(f"turn {n} of episode {episode} was written already, and is another one: nothing was written")
        return True

    def _ended(self, ending: Ending) -> bool:
        """Whether an episode has ended already as is said now. Raises `RuntimeFailure` if it ended otherwise."""
        rows = self.store.rows("SELECT state, total_reward FROM episode WHERE id = ?", (ending.episode,))
        if not rows or rows[0]["state"] == "running":
            return False
        if (rows[0]["state"], rows[0]["total_reward"]) != (ending.state, ending.total_reward):
            raise RuntimeFailure(f"episode {ending.episode} is {rows[0]['state']} already: it cannot become {ending.state}")
        return True


def other_code(environment: str, code: str, known: str) -> InputError:
    """The error for an environment whose code on a node is not that of the head, which alone decides what it is."""
    return InputError(f"the code of {environment} is {code} on the player's node, and {known} on the head: install the same on both")
