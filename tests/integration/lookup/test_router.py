"""The router over a real split marketplace, before, at and after the switch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from fixia_shardmig.lookup import RowNotFoundError, Writer
from fixia_shardmig.lookup.routes import Routes
from fixia_shardmig.model.errors import MappingError, RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from tests.integration.lookup.conftest import TO_SWITCHED, Marketplace

SHARDS = ("professionals", "clients", "shared")


def database_of(session: Any) -> str:
    """Return the label of the database a session is on."""
    return str(session.scalar(sa.text("select current_database()"))).partition("_")[0]


# homes


def test_every_user_is_found_on_the_shard_that_has_the_row(switched: Marketplace) -> None:
    """The router and the hand-made split agree about every single user."""
    router = switched.router()
    for shard in SHARDS:
        keys = [str(row[0]) for row in switched.market.run(shard, "select id from users")]
        assert keys
        assert {shard} == {router.shard_for("users", key) for key in keys}


def test_a_home_is_asked_for_once_and_then_remembered(switched: Marketplace, count_queries: Callable[[], Any]) -> None:
    """The first question goes to each shard once, the second to none."""
    router = switched.router()
    router.shard_for("users", switched.a_user("shared"))
    user = switched.a_user("clients")
    with count_queries() as first:
        assert "clients" == router.shard_for("users", user)
    assert {"professionals": 1, "clients": 1, "shared": 1} == first
    with count_queries() as second:
        assert "clients" == router.shard_for("users", user)
    assert {} == second


def test_whole_tables_need_no_question(switched: Marketplace, count_queries: Callable[[], Any]) -> None:
    """A table on one shard, and a reference table, have their home in the mapping."""
    router = switched.router()
    with count_queries() as counts:
        assert "shared" == router.shard_for("contact_messages", "any")
        assert "shared" == router.shard_for("categories", "any")
    assert {} == counts


def test_an_unknown_table_names_the_nearest(switched: Marketplace) -> None:
    """A mistyped table is the caller's mistake, and the hint mends it."""
    with pytest.raises(MappingError, match="unknown table 'user'") as caught:
        switched.router().shard_for("user", "1")
    assert "did you mean users?" == caught.value.hint


def test_a_key_that_no_row_has_is_a_key_error(switched: Marketplace) -> None:
    """Nowhere is an error with a hint, also for code that expects a KeyError."""
    router = switched.router()
    with pytest.raises(KeyError) as caught:
        router.shard_for("users", "nobody")
    assert isinstance(caught.value, RowNotFoundError)
    assert "no row of users has the key nobody" in str(caught.value)
    assert caught.value.hint


def test_a_row_on_two_shards_is_refused_with_both_names(switched: Marketplace) -> None:
    """Which of two rows is the right one is never guessed, neither for a home nor for a session."""
    user = switched.a_user("clients")
    switched.copy_user(user, "clients", "professionals")
    router = switched.router()
    with pytest.raises(RefusedError, match="on 2 shards: professionals, clients"):
        router.shard_for("users", user)
    with pytest.raises(RefusedError, match="professionals, clients"), router.session_for("users", user):
        pass


def test_a_shard_that_does_not_answer_is_never_taken_for_one_without_the_row(switched: Marketplace) -> None:
    """With one shard away, nobody can say that a row is only where it was found."""
    switched.env["PROFESSIONALS_DB_URL"] = "postgresql://app:secret-word@127.0.0.1:9/nowhere"
    with pytest.raises(TemporaryError, match="cannot connect") as caught:
        switched.router().shard_for("users", switched.a_user("clients"))
    assert "secret-word" not in str(caught.value)


def test_many_threads_share_a_router(switched: Marketplace) -> None:
    """More threads than connections, all at once, each with the right answer."""
    router = switched.router()
    homes = {str(row[0]): shard for shard in SHARDS for row in switched.market.run(shard, "select id from users")}
    with ThreadPoolExecutor(24) as pool:
        assert list(homes.values()) == list(pool.map(lambda key: router.shard_for("users", key), homes))


# sessions


def test_a_session_is_on_the_home_shard_and_rolls_back_what_was_not_committed(switched: Marketplace) -> None:
    """Commit is the caller's; without it nothing stays."""
    router = switched.router()
    user = switched.a_user("clients")
    rename = sa.text("update users set bio = :name where id = :id")
    with router.session_for("users", user) as session:
        assert "clients" == database_of(session)
        session.execute(rename, {"name": "Forgotten", "id": user})
    with router.session_for("users", user) as session:
        session.execute(rename, {"name": "Kept", "id": user})
        session.commit()
        session.execute(rename, {"name": "Forgotten", "id": user})
    assert "Kept" == switched.one("clients", "select bio from users where id = %s", user)


def test_a_session_follows_a_row_that_moved(switched: Marketplace) -> None:
    """A remembered home is held against the shard, dropped, and asked anew; the router knows better afterwards."""
    router = switched.router()
    user = switched.a_user("clients")
    assert "clients" == router.shard_for("users", user)
    switched.move_user(user, "clients", "professionals")
    with router.session_for("users", user) as session:
        assert "professionals" == database_of(session)
    assert "professionals" == router.shard_for("users", user)


def test_forget_makes_the_router_ask_again(switched: Marketplace) -> None:
    """Whoever moves a row, or inserts one that was asked for before, tells the router."""
    router = switched.router()
    user = switched.a_user("clients")
    router.shard_for("users", user)
    switched.move_user(user, "clients", "professionals")
    router.forget("users", user)
    assert "professionals" == router.shard_for("users", user)


def test_a_deleted_row_has_no_session(switched: Marketplace) -> None:
    """A remembered home is no proof that the row is still there."""
    router = switched.router()
    user = switched.a_user("clients")
    router.shard_for("users", user)
    switched.market.run("clients", "delete from users where id = %s", user)
    with pytest.raises(RowNotFoundError), router.session_for("users", user):
        pass


def test_sessions_on_a_shard_by_name(switched: Marketplace) -> None:
    """An insert knows its shard by itself; a mistyped one is named with those there are."""
    router = switched.router()
    with router.session_on("professionals") as session:
        assert "professionals" == database_of(session)
    with pytest.raises(MappingError, match="unknown shard 'pros'"), router.session_on("pros"):
        pass


def test_questions_are_answered_while_all_sessions_are_in_use(switched: Marketplace) -> None:
    """The two pools are apart: who holds a session can still ask where another row lives."""
    router = switched.router()
    user = switched.a_user("clients")
    sessions = [router.places.shard("clients").session() for _ in range(10)]
    try:
        for session in sessions:
            session.execute(sa.text("select 1"))
        assert "clients" == router.shard_for("users", user)
    finally:
        for session in sessions:
            session.close()


# before, at and behind the switch


@pytest.mark.parametrize("phases", [(), TO_SWITCHED[:2], TO_SWITCHED[:3]])
def test_before_the_switch_sessions_go_to_the_source(marketplace: Marketplace, phases: tuple[Phase, ...]) -> None:
    """PLANNED, TAILING and FENCED: rows are on the source, their homes are what the rules say of them there."""
    marketplace.begin()
    marketplace.advance(*phases)
    router = marketplace.router()
    for shard in SHARDS:
        user = marketplace.a_user(shard)
        marketplace.market.run(shard, "delete from users")
        assert shard == router.shard_for("users", user)
        with router.session_for("users", user) as session:
            assert "market" == database_of(session)
    with router.session_on("clients") as session:
        assert "market" == database_of(session)
    with pytest.raises(RowNotFoundError):
        router.shard_for("users", "nobody")
    with pytest.raises(RowNotFoundError), router.session_for("users", "nobody"):
        pass


def test_before_the_switch_a_home_follows_every_hop(marketplace: Marketplace) -> None:
    """A row three hops from its user has the same home by the rules as the hand-made split gave it."""
    marketplace.begin()
    router = marketplace.router()
    found = 0
    for shard in SHARDS:
        for (key,) in marketplace.market.run(shard, "select id from job_milestones limit 5"):
            assert shard == router.shard_for("job_milestones", key)
            found += 1
    assert found


def test_a_router_that_lived_before_the_switch_notices_it(marketplace: Marketplace) -> None:
    """Pitfall 64: the route is asked for anew, and nothing of an old routing epoch is believed."""
    marketplace.begin()
    marketplace.advance(*TO_SWITCHED[:3])
    router = marketplace.router()
    user = marketplace.a_user("clients")
    assert Writer.SOURCE is router.route().side
    marketplace.advance(Phase.SWITCHED)
    router.refresh()
    assert (Writer.SHARDS, 1) == (router.route().side, router.route().routing_epoch)
    with router.session_for("users", user) as session:
        assert "clients" == database_of(session)


@pytest.mark.parametrize("found_by", ["shard_for", "session_for"])
def test_a_row_inserted_after_the_switch_is_found_by_a_router_that_has_not_heard_of_it(
    marketplace: Marketplace, found_by: str
) -> None:
    """Pitfall 64: the side that the writes have left says no of what came since, and is not believed."""
    marketplace.begin()
    marketplace.advance(*TO_SWITCHED[:3])
    router = marketplace.router()
    user = marketplace.a_user("clients")
    assert Writer.SOURCE is router.route().side
    marketplace.advance(Phase.SWITCHED)
    marketplace.market.run("source", "delete from users where id = %s", user)
    if found_by == "shard_for":
        assert "clients" == router.shard_for("users", user)
    else:
        with router.session_for("users", user) as session:
            assert "clients" == database_of(session)


def test_homes_of_an_older_routing_epoch_are_not_believed(switched: Marketplace) -> None:
    """Pitfall 64: whatever happened between two epochs, what was remembered in the first is asked anew."""
    router = switched.router()
    user = switched.a_user("clients")
    router.shard_for("users", user)
    switched.move_user(user, "clients", "professionals")
    assert "clients" == router.shard_for("users", user)
    switched.market.run("shared", "update shardmig.migration set routing_epoch = routing_epoch + 1")
    router.refresh()
    assert "professionals" == router.shard_for("users", user)


def test_the_journal_is_read_again_when_its_word_is_old(marketplace: Marketplace) -> None:
    """Nobody has to tell a router of the switch."""
    marketplace.begin()
    marketplace.advance(*TO_SWITCHED[:3])
    routes = Routes(lambda: marketplace.router().places.shard("shared"), "fixia", ttl_s=0.0)
    assert Writer.SOURCE is routes.current().side
    marketplace.advance(Phase.SWITCHED)
    assert Writer.SHARDS is routes.current().side


def test_during_a_rollback_rows_are_still_read_from_the_shards(switched: Marketplace) -> None:
    """Nobody may write then, and what was written last is on the shards."""
    switched.advance(Phase.ROLLING_BACK)
    with switched.router().session_for("users", switched.a_user("clients")) as session:
        assert "clients" == database_of(session)


def test_without_a_journal_nobody_guesses(marketplace: Marketplace) -> None:
    """Before a migration and after its end the application says itself who has the writes."""
    user = marketplace.a_user("clients")
    with pytest.raises(RefusedError, match="shared holds no journal") as caught:
        marketplace.router().shard_for("users", user)
    assert "the shards once they have it" in caught.value.hint
    for writer, database in ((Writer.SOURCE, "market"), (Writer.SHARDS, "clients")):
        with marketplace.router(writer).session_for("users", user) as session:
            assert database == database_of(session)


def test_a_journal_that_went_away_is_an_error_even_if_it_was_read_before(switched: Marketplace) -> None:
    """What was true a moment ago is not taken for what is true now."""
    router = switched.router()
    user = switched.a_user("clients")
    router.shard_for("users", user)
    switched.market.run("shared", "drop schema shardmig cascade")
    router.refresh()
    with pytest.raises(RefusedError, match="no journal"):
        router.shard_for("users", user)


def test_another_migrations_journal_is_refused(marketplace: Marketplace) -> None:
    """A mapping and a journal that do not belong together route nobody."""
    marketplace.begin("other")
    with pytest.raises(RefusedError, match="journal of migration 'other', not of 'fixia'"):
        marketplace.router().route()


def test_no_repr_and_no_error_shows_a_password(switched: Marketplace) -> None:
    """Neither the router nor its places nor their engines know how to show one."""
    router = switched.router()
    router.shard_for("users", switched.a_user("clients"))
    place = router.places.shard("clients")
    with pytest.raises(ShardmigError) as caught:
        place.find(TableName("public", "gone"), [("1",)])
    shown = " ".join([repr(router), repr(place), repr(place._sessions), str(place._sessions.url), str(caught.value)])
    assert switched.password not in shown
