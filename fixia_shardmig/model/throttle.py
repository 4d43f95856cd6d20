"""Decides whether and how fast we may work: what was seen and what is wanted in, a verdict out, without a server.

It fails closed: a signal that somebody wants obeyed and that cannot be read holds the work. Nothing here waits; who
copies and who tails act on the pace they are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

RATE_BYTES_PER_S_MIN: Final = 256 * 1024
"""Below this a block would take so long that a server takes the session for silent; to stop altogether is `pause`."""

BURST_S: Final = 0.25
"""How much of a rate may be saved up: work that stood still does not make up for it in one rush."""

MEBIBYTE: Final = 1048576


@dataclass(frozen=True, slots=True)
class Control:
    """What an operator asks for while the work runs. Of the rest, None leaves it to the running command's options.

    Attributes:
        rate_bytes_per_s: Over all workers; 0 takes the command's own limit away.
        jobs: Chunks at a time.
    """

    paused: bool = False
    rate_bytes_per_s: int | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command was started with; None where nothing is limited.

    Attributes:
        sessions_max: Active client sessions on the source, ours not counted.
        replica_lag_s_max: The worst replay lag of the standbys.
    """

    rate_bytes_per_s: int | None = None
    jobs: int | None = None
    sessions_max: int | None = None
    replica_lag_s_max: float | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a signal cannot be read."""

    cause: str


@dataclass(frozen=True, slots=True)
class Signals:
    """What was seen at one moment; None for what nobody asked for."""

    control: Control | Unreadable
    sessions: int | Unreadable | None = None
    replica_lag_s: float | Unreadable | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the work may go on.

    Attributes:
        held: Nothing new is begun, and what is under way waits.
        kind: What slows the work down, empty when nothing does: paused, control, load, replica_lag, rate, jobs.
        reason: The same for people, with the figures of this moment.
        rate_bytes_per_s: Over all workers; None without a limit.
        jobs: Chunks at a time; None for as many as there are workers.
    """

    held: bool = False
    kind: str = ""
    reason: str = ""
    rate_bytes_per_s: int | None = None
    jobs: int | None = None

    @property
    def block_rate(self) -> float | None:
        """Return the bytes a second of one worker; None without a limit."""
        return self.rate_bytes_per_s / (self.jobs or 1) if self.rate_bytes_per_s else None


@dataclass(frozen=True, slots=True)
class Pace:
    """A verdict, as the journal keeps it for workers and for `status`.

    Attributes:
        since: Since when the work is slowed down in this way; None while it is not.
        ending: A signal came: a chunk that would have to wait is given back at once.
        age_s: How long ago this was said.
    """

    verdict: Verdict
    since: datetime | None = None
    ending: bool = False
    age_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what `status` shows."""
        return {
            "held": self.verdict.held,
            "kind": self.verdict.kind or None,
            "reason": self.verdict.reason or None,
            "since": self.since.isoformat() if self.since else None,
            "rate_bytes_per_s": self.verdict.rate_bytes_per_s,
            "jobs": self.verdict.jobs,
        }


def decide(signals: Signals, limits: Limits) -> Verdict:
    """Return the verdict; of several reasons to hold the one that an operator can do most about comes first."""
    control = signals.control
    if isinstance(control, Unreadable):
        return Verdict(held=True, kind="control", reason=f"the journal's control cannot be read: {control.cause}")
    rate, jobs = _rate(control, limits), _jobs(control, limits)
    held = _paused(control) or _load(signals, limits) or _lateness(signals, limits)
    if held is not None:
        return Verdict(held=True, kind=held[0], reason=held[1], rate_bytes_per_s=rate, jobs=jobs)
    if rate is not None:
        reason = f"limited to {rate / MEBIBYTE:,.1f} MiB/s"
        return Verdict(kind="rate", reason=reason, rate_bytes_per_s=rate, jobs=jobs)
    if control.jobs is not None and jobs is not None and jobs < (limits.jobs or jobs + 1):
        return Verdict(kind="jobs", reason=f"limited to {jobs} at a time", jobs=jobs)
    return Verdict(jobs=jobs)


def _rate(control: Control, limits: Limits) -> int | None:
    wanted = limits.rate_bytes_per_s if control.rate_bytes_per_s is None else control.rate_bytes_per_s
    return wanted or None


def _jobs(control: Control, limits: Limits) -> int | None:
    """Return the smaller one: there are no more workers than the command was started with."""
    return min((jobs for jobs in (control.jobs, limits.jobs) if jobs is not None), default=None)


def _paused(control: Control) -> tuple[str, str] | None:
    return ("paused", "paused by an operator; shardmig resume lets it go on") if control.paused else None


def _load(signals: Signals, limits: Limits) -> tuple[str, str] | None:
    if limits.sessions_max is None:
        return None
    if signals.sessions is None or isinstance(signals.sessions, Unreadable):
        return "load", f"load cannot be read: {_cause(signals.sessions)}"
    if signals.sessions > limits.sessions_max:
        return "load", f"{signals.sessions} sessions are active on the source, more than {limits.sessions_max}"
    return None


def _lateness(signals: Signals, limits: Limits) -> tuple[str, str] | None:
    if limits.replica_lag_s_max is None:
        return None
    lag_s = signals.replica_lag_s
    if lag_s is None or isinstance(lag_s, Unreadable):
        return "replica_lag", f"replica lag cannot be read: {_cause(lag_s)}"
    if lag_s > limits.replica_lag_s_max:
        return "replica_lag", f"a standby is {lag_s:.1f} s behind, more than {limits.replica_lag_s_max:g} s"
    return None


def _cause(signal: Unreadable | None) -> str:
    return signal.cause if signal else "it was not looked at"


class Bucket:
    """A token bucket that lets a block pass and says how long the next one has to wait. The caller has the clock."""

    def __init__(self, now_s: float, rate_bytes_per_s: float | None = None) -> None:
        """Begin empty of debts and of savings."""
        self._rate = rate_bytes_per_s
        self._at_s = now_s
        self._saved = 0.0

    def set_rate(self, now_s: float, rate_bytes_per_s: float | None) -> None:
        """Follow another rate from now on; what was spent so far was spent at the old one."""
        if rate_bytes_per_s == self._rate:
            return
        self._fill(now_s)
        self._rate = rate_bytes_per_s
        if rate_bytes_per_s is None:
            self._saved = 0.0

    def spend(self, now_s: float, size: int) -> None:
        """Take a block's bytes out."""
        self._fill(now_s)
        if self._rate is not None:
            self._saved -= size

    def wait_s(self, now_s: float) -> float:
        """Return how long the next block has to wait."""
        self._fill(now_s)
        return max(0.0, -self._saved / self._rate) if self._rate else 0.0

    def _fill(self, now_s: float) -> None:
        if self._rate is not None:
            self._saved = min(self._rate * BURST_S, self._saved + self._rate * (now_s - self._at_s))
        self._at_s = now_s
