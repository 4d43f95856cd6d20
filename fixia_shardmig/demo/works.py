"""What applications do to the marketplace: each function here is one transaction's worth of statements.

Two mixes: WHOLE for the database that holds everything, SHARD for a single shard, where a transaction stays with users
who live there, leaves reference tables alone and deletes only rows that nothing follows, since cascades end at a split.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from fixia_shardmig.demo.ledger import Kind, Touch
from fixia_shardmig.demo.market_people import Row
from fixia_shardmig.demo.odd_values import Values

EVERYONE = ("client", "professional", "dual", "admin")
CLIENTS = ("client", "dual")
PROFESSIONALS = ("professional", "dual")
NEXT_TYPE = {"client": "professional", "professional": "dual", "dual": "client"}

# PostgreSQL keeps 64 subtransactions of a transaction in shared memory and spills the rest; decoding must not care.
SAVEPOINTS_MANY = 70


class NothingToDoError(Exception):
    """No row suits this work now; the transaction is given up."""


class RollBackError(Exception):
    """The work wants its transaction rolled back, as applications do when a check fails late."""


class MisroutedError(Exception):
    """The router sends a user elsewhere than where their row was met."""


class Turn:
    """One transaction in the making: picks rows, writes rows, remembers what it wrote.

    Args:
        connection: In a transaction that the caller commits.
        types: The user types that live in this database.
    """

    def __init__(self, connection: psycopg.Connection[DictRow], values: Values, *, types: Sequence[str]) -> None:
        """Begin with nothing written."""
        self.connection = connection
        self.values = values
        self.types = tuple(types)
        self.touches: list[Touch] = []
        self._home_of: Callable[[str], str | None] | None = None
        self._place = ""

    def expect_home(self, home_of: Callable[[str], str | None] | None, place: str) -> None:
        """Ask the router about every user met from now on; without a router, believe the database."""
        self._home_of = home_of
        self._place = place

    def pick(self, table: str, condition: LiteralString = "true", *arguments: object) -> DictRow:
        """Return any row that meets the condition, near a random key; NothingToDoError without one."""
        query = _pick_query(table, condition)
        for start in (self.values.key(), ""):
            row = self.connection.execute(query, (start, *arguments)).fetchone()
            if row is not None:
                return row
        raise NothingToDoError(table)

    def user(self, types: Sequence[str] = EVERYONE, *, but: str = "") -> str:
        """Return the key of a user of one of these types who lives here, and who is not `but`."""
        here = [kind for kind in types if kind in self.types]
        user = str(self.pick("users", "user_type::text = any(%s) and id <> %s", here, but)["id"])
        if self._home_of is not None and self._home_of(user) != self._place:
            raise MisroutedError(user)
        return user

    def insert(self, table: str, row: Row) -> str:
        """Insert a row under a new key, with its times if the table has them, and return the key."""
        full = {"id": self.values.key(), **row}
        self.connection.execute(_insert_query(table, tuple(full)), tuple(full.values()))
        return self._wrote(table, str(full["id"]), "insert")

    def update(self, table: str, key: object, row: Row) -> None:
        """Set columns of one row; nothing if somebody deleted it meanwhile."""
        cursor = self.connection.execute(_update_query(table, tuple(row)), (*row.values(), key))
        if cursor.rowcount:
            self._wrote(table, str(key), "update")

    def delete(self, table: str, key: object) -> None:
        """Delete one row with whatever cascades from it."""
        self.change("delete", table, "delete from {} where id = %s returning id", key)

    def change(self, kind: Kind, table: str, statement: LiteralString, *arguments: object) -> int:
        """Run a statement on a table (`{}`) that returns the keys it wrote, and return how many there were."""
        cursor = self.connection.execute(sql.SQL(statement).format(sql.Identifier(table)), arguments)
        keys = cursor.fetchall()
        for row in keys:
            self._wrote(table, str(row["id"]), kind)
        return len(keys)

    def upsert(self, table: str, statement: LiteralString, *arguments: object) -> None:
        """Run an INSERT … ON CONFLICT on a table (`{}`) that returns `id` and `inserted`, and note which it was."""
        cursor = self.connection.execute(sql.SQL(statement).format(sql.Identifier(table)), arguments)
        for row in cursor.fetchall():
            self._wrote(table, str(row["id"]), "insert" if row["inserted"] else "update")

    def _wrote(self, table: str, key: str, kind: Kind) -> str:
        self.touches.append(Touch(table, key, kind))
        return key


Work = Callable[[Turn], None]


@functools.cache
def _pick_query(table: str, condition: LiteralString) -> sql.Composed:
    query = "select * from {} where id >= %s and (" + condition + ") order by id limit 1"
    return sql.SQL(query).format(sql.Identifier(table))


@functools.cache
def _insert_query(table: str, columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
    )


@functools.cache
def _update_query(table: str, columns: tuple[str, ...]) -> sql.Composed:
    assignments = [sql.SQL("{} = %s").format(sql.Identifier(column)) for column in columns]
    return sql.SQL("update {} set {} where id = %s").format(sql.Identifier(table), sql.SQL(", ").join(assignments))


# --- people ----------------------------------------------------------------------------------------------------------


def sign_up(turn: Turn) -> None:
    """Add a user with sessions, a token, a welcome, and a profile for whoever offers work."""
    v = turn.values
    kind = v.one_of(turn.types)
    moment = v.time()
    user = turn.insert(
        "users",
        {
            "email": f"{v.token()[:16]}@fixia.test",
            "password_hash": v.token(),
            "name": v.text(),
            "user_type": kind,
            "dni": v.maybe(v.token()[:12]),
            "bio": v.maybe(v.long_text()),
            "birthdate": v.odd_time(),
            "updated_at": moment,
        },
    )
    for _ in range(v.integer(1, 3)):
        turn.insert("user_sessions", {"user_id": user, "refresh_token": v.token(), "expires_at": moment})
    turn.insert("email_verification_tokens", {"user_id": user, "token": v.token(), "expires_at": "infinity"})
    _notify(turn, user)
    if kind in PROFESSIONALS:
        turn.insert(
            "professional_profiles",
            {"user_id": user, "specialties": v.array(), "rating": v.number(), "level": "Nuevo", "updated_at": moment},
        )


def log_in(turn: Turn) -> None:
    """Open a session, count a failed attempt, leave a trace, close an old session."""
    v = turn.values
    user = turn.user()
    turn.change(
        "update",
        "users",
        "update {} set failed_login_attempts = failed_login_attempts + 1, updated_at = %s where id = %s returning id",
        v.time(),
        user,
    )
    turn.insert("user_sessions", {"user_id": user, "refresh_token": v.token(), "expires_at": v.time()})
    turn.insert("user_activity", {"user_id": user, "action": "login", "metadata": v.json()})
    if v.chance(0.5):
        turn.change(
            "delete",
            "user_sessions",
            "delete from {} where id in (select id from user_sessions where user_id = %s order by id limit 1) "
            "returning id",
            user,
        )


def read_notifications(turn: Turn) -> None:
    """Mark all of a user's notifications read, delete some, add one: many rows in two statements."""
    user = turn.user()
    turn.change(
        "update", "notifications", "update {} set read = true where user_id = %s and not read returning id", user
    )
    if turn.values.chance(0.3):
        turn.change(
            "delete",
            "notifications",
            "delete from {} where id in (select id from notifications where user_id = %s order by id limit 3) "
            "returning id",
            user,
        )
    _notify(turn, user)


def change_type(turn: Turn) -> None:
    """Make a client a professional, a professional dual, a dual user a client: all that follows them moves."""
    user = turn.pick("users", "user_type <> 'admin'")
    turn.update("users", user["id"], {"user_type": NEXT_TYPE[user["user_type"]], "updated_at": turn.values.time()})


def change_type_at_home(turn: Turn) -> None:
    """Make a professional dual or a dual user a professional, who both live on the same shard."""
    user = turn.pick("users", "user_type::text = any(%s)", [kind for kind in PROFESSIONALS if kind in turn.types])
    turn.update("users", user["id"], {"user_type": "professional" if user["user_type"] == "dual" else "dual"})


def swap_unique_values(turn: Turn) -> None:
    """Let two users exchange their e-mail and dni through a value in between, all in one transaction."""
    one = turn.pick("users", "user_type::text = any(%s)", list(turn.types))
    other = turn.pick("users", "user_type::text = any(%s) and id <> %s", list(turn.types), one["id"])
    turn.update("users", one["id"], {"email": f"swap-{turn.values.token()}", "dni": None})
    turn.update("users", other["id"], {"email": one["email"], "dni": one["dni"]})
    turn.update("users", one["id"], {"email": other["email"], "dni": other["dni"]})


def change_key(turn: Turn) -> None:
    """Give a row another primary key; a user's is rewritten in everything that refers to it."""
    table = turn.values.one_of(("users", "services", "projects", "notifications", "jobs"))
    turn.update(table, turn.pick(table)["id"], {"id": turn.values.key()})


def remove_user(turn: Turn) -> None:
    """Delete a user: first what holds on to them, then them, with all that cascades."""
    user = turn.user()
    for table, statement in _HOLDERS:
        turn.change("delete", table, statement, user, user)
    turn.delete("users", user)


_BY_SIDES: LiteralString = "delete from {} where client_id = %s or professional_id = %s returning id"
_BY_USER: LiteralString = "delete from {} where user_id in (%s, %s) returning id"
_HOLDERS: tuple[tuple[str, LiteralString], ...] = (
    ("user_activity", _BY_USER),
    ("payments", _BY_USER),
    ("payment_preferences", _BY_USER),
    ("contact_interactions", _BY_SIDES),
    ("service_matches", _BY_SIDES),
    (
        "service_matches",
        "delete from {} where service_id in (select id from services where professional_id in (%s, %s)) returning id",
    ),
    ("matches", _BY_SIDES),
    ("jobs", _BY_SIDES),
    ("job_status_updates", "delete from {} where updated_by_user_id in (%s, %s) returning id"),
    (
        "jobs",
        "delete from {} where proposal_id in (select id from proposals where professional_id in (%s, %s)) returning id",
    ),
)


# --- trade -----------------------------------------------------------------------------------------------------------


def publish_project(turn: Turn) -> None:
    """Publish a client's project."""
    _publish(turn, turn.user(CLIENTS))


def offer_service(turn: Turn) -> None:
    """Offer a professional's service and let it be seen at once."""
    v = turn.values
    professional = turn.user(PROFESSIONALS)
    service = turn.insert(
        "services",
        {
            "professional_id": professional,
            "title": v.text(),
            "description": v.long_text(),
            "price": v.number(1000),
            "gallery": v.gallery(),
            "tags": v.array(),
            "updated_at": v.time(),
        },
    )
    turn.insert("service_views", {"service_id": service, "viewer_id": professional, "ip_address": v.address()})


def view_service(turn: Turn) -> None:
    """Count a view: the row's TOAST columns stay as they are. Now and then follow it with a favorite."""
    v = turn.values
    service = turn.pick("services")["id"]
    viewer = turn.user()
    turn.change("update", "services", "update {} set view_count = view_count + 1 where id = %s returning id", service)
    turn.insert("service_views", {"service_id": service, "viewer_id": viewer, "user_agent": v.text()})
    if v.chance(0.2):
        turn.upsert(
            "favorites",
            "insert into {} (id, user_id, service_id) values (%s, %s, %s) on conflict (user_id, service_id) "
            "do update set created_at = excluded.created_at returning id, xmax = 0 as inserted",
            *(v.key(), viewer, service),
        )


def propose(turn: Turn) -> None:
    """Let a professional answer a project, sometimes answering an earlier proposal too."""
    project = str(turn.pick("projects")["id"])
    _propose(turn, project, turn.user(PROFESSIONALS))


def close_deal(turn: Turn) -> None:
    """Take a new project from proposal to job, match, conversation and payment in one transaction."""
    v = turn.values
    client = turn.user(CLIENTS)
    professional = turn.user(PROFESSIONALS, but=client)
    project = _publish(turn, client)
    proposal = _propose(turn, project, professional)
    sides: Row = {"client_id": client, "professional_id": professional, "project_id": project, "updated_at": v.time()}
    job = turn.insert(
        "jobs",
        sides | {"proposal_id": proposal, "title": v.text(), "description": v.long_text(), "agreed_price": v.money()},
    )
    match = turn.insert("matches", sides | {"proposal_id": proposal, "job_id": job})
    turn.insert("conversations", {"project_id": project, "client_id": client, "professional_id": professional})
    turn.insert("job_milestones", {"job_id": job, "title": v.text(), "amount": v.money()})
    turn.insert(
        "payments",
        {"job_id": job, "user_id": client, "amount": v.money(), "transaction_data": v.json(), "updated_at": v.time()},
    )
    turn.insert(
        "phone_reveals",
        {
            "match_id": match,
            "user_id": client,
            "phone_number": "1",
            "token": v.token(),
            "token_hash": "",
            "expires_at": "infinity",
        },
    )
    turn.update("projects", project, {"status": "in_progress", "updated_at": v.time()})
    _notify(turn, professional)


def advance_job(turn: Turn) -> None:
    """Move a job on, with a note about it and a review when it is done."""
    v = turn.values
    job = turn.pick("jobs")
    turn.update("jobs", job["id"], {"progress_percentage": v.integer(0, 100), "status": "in_progress"})
    turn.insert(
        "job_status_updates",
        {
            "job_id": job["id"],
            "updated_by_user_id": job["client_id"],
            "status_from": job["status"],
            "status_to": "in_progress",
        },
    )


def review(turn: Turn) -> None:
    """Review a service, and vote for the review."""
    v = turn.values
    service = turn.pick("services")
    reviewer = turn.user()
    key = turn.insert(
        "reviews",
        {
            "service_id": service["id"],
            "reviewer_id": reviewer,
            "professional_id": service["professional_id"],
            "rating": v.integer(1, 5),
            "comment": v.long_text(),
            "updated_at": v.time(),
        },
    )
    turn.insert("review_helpful_votes", {"review_id": key, "user_id": reviewer})


def edit_bulky_columns(turn: Turn) -> None:
    """Rewrite values of TOAST size, or make them small, or NULL."""
    v = turn.values
    table, column = v.one_of(
        (("projects", "description"), ("services", "description"), ("users", "bio"), ("portfolio_items", "description"))
    )
    turn.update(table, turn.pick(table)["id"], {column: v.bulk() if v.chance(0.6) else v.text()})
    turn.update("user_activity", turn.pick("user_activity")["id"], {"metadata": v.json() if v.chance(0.8) else None})


def change_parent(turn: Turn) -> None:
    """Hand a service or a project to another user: what follows it moves along."""
    if turn.values.chance(0.5):
        turn.update("services", turn.pick("services")["id"], {"professional_id": turn.user(PROFESSIONALS)})
    else:
        turn.update("projects", turn.pick("projects")["id"], {"client_id": turn.user(CLIENTS)})


def change_deciding_path(turn: Turn) -> None:
    """Fill or empty the first of the columns that decide a phone reveal's home."""
    reveal = turn.pick("phone_reveals")
    match = None if reveal["match_id"] else turn.pick("matches")["id"]
    turn.update("phone_reveals", reveal["id"], {"match_id": match})


def remove_trade(turn: Turn) -> None:
    """Delete a service or a project with all that cascades from it."""
    if turn.values.chance(0.5):
        service = turn.pick("services", "not exists (select from service_matches m where m.service_id = services.id)")
        turn.delete("services", service["id"])
    else:
        turn.delete("projects", turn.pick("projects")["id"])


def write_letter(turn: Turn) -> None:
    """Send a visitor's letter, answer another, edit a questionnaire."""
    v = turn.values
    turn.insert(
        "contact_messages",
        {
            "name": v.text(),
            "email": "v@example.test",
            "subject": v.text(),
            "message": v.long_text(),
            "updated_at": v.time(),
        },
    )
    turn.update(
        "contact_messages", turn.pick("contact_messages")["id"], {"status": "resolved", "responded_at": v.time()}
    )
    turn.update("review_templates", turn.pick("review_templates")["id"], {"questions": v.json()})


def count_category(turn: Turn) -> None:
    """Change rows of the reference tables."""
    key = turn.pick("categories")["id"]
    turn.change(
        "update", "categories", "update {} set service_count = service_count + 1 where id = %s returning id", key
    )
    turn.update("subcategories", turn.pick("subcategories")["id"], {"description": turn.values.text()})


# --- shapes of transactions ------------------------------------------------------------------------------------------


def use_savepoints(turn: Turn) -> None:
    """Write in subtransactions and roll half of them back; now and then in more than fit in shared memory."""
    user = turn.user()
    many = turn.values.chance(0.05)
    for number in range(SAVEPOINTS_MANY if many else turn.values.integer(1, 4)):
        written = len(turn.touches)
        with turn.connection.transaction() as savepoint:
            _notify(turn, user)
            if number % 2:
                raise psycopg.Rollback(savepoint)
        if number % 2:
            del turn.touches[written:]
    _notify(turn, user)


def give_up(turn: Turn) -> None:
    """Write and then roll everything back."""
    publish_project(turn)
    raise RollBackError


def change_mind(turn: Turn) -> None:
    """Insert a row, delete it, and insert its key again with other values, in one transaction."""
    user = turn.user()
    key = _notify(turn, user)
    turn.delete("notifications", key)
    turn.insert(
        "notifications",
        {"id": key, "user_id": user, "type": "system", "title": "again", "message": turn.values.text()},
    )


def idle(turn: Turn) -> None:
    """Write, keep the transaction open for a moment, write again."""
    user = turn.user()
    _notify(turn, user)
    time.sleep(turn.values.integer(5, 60) / 1000)
    _notify(turn, user)


def _notify(turn: Turn, user: str) -> str:
    return turn.insert(
        "notifications", {"user_id": user, "type": "message", "title": "Fixia", "message": turn.values.text()}
    )


def _publish(turn: Turn, client: str) -> str:
    v = turn.values
    return turn.insert(
        "projects",
        {
            "client_id": client,
            "title": v.text(),
            "description": v.long_text(),
            "deadline": v.odd_time(),
            "budget_max": v.money(),
            "skills_required": v.array(),
            "gallery_urls": v.gallery(),
            "updated_at": v.time(),
        },
    )


def _propose(turn: Turn, project: str, professional: str) -> str:
    v = turn.values
    proposal = turn.insert(
        "proposals",
        {
            "project_id": project,
            "professional_id": professional,
            "message": v.long_text(),
            "quoted_price": v.money(),
            "delivery_time_days": v.integer(1, 60),
            "updated_at": v.time(),
        },
    )
    turn.change(
        "update", "projects", "update {} set proposals_count = proposals_count + 1 where id = %s returning id", project
    )
    return proposal


def _mix(weights: dict[Work, int]) -> tuple[Work, ...]:
    return tuple(work for work, weight in weights.items() for _ in range(weight))


_EVERYWHERE: dict[Work, int] = {
    sign_up: 8,
    log_in: 16,
    read_notifications: 8,
    publish_project: 6,
    offer_service: 6,
    view_service: 14,
    propose: 8,
    close_deal: 6,
    advance_job: 5,
    review: 4,
    edit_bulky_columns: 4,
    swap_unique_values: 2,
    use_savepoints: 3,
    give_up: 2,
    change_mind: 2,
    idle: 2,
}

WHOLE = _mix(
    _EVERYWHERE
    | {change_type: 4, change_parent: 4, change_deciding_path: 2, remove_trade: 3, remove_user: 2, change_key: 1}
    | {write_letter: 2, count_category: 1}
)
SHARD = _mix(_EVERYWHERE | {change_type_at_home: 2})
SHARED_SHARD = _mix(_EVERYWHERE | {write_letter: 8})
