"""The rows of a Fixia marketplace that belong to one user each, and those that belong to nobody. No I/O.

60 % are clients, 30 % professionals, 9 % dual, 1 % admins; each has 20 notifications, 40 activities and 3 sessions.
Refuses fewer than four users, one of each type, since the rest of the marketplace needs them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.demo.odd_values import CITIES, FIRST_NAMES, LAST_NAMES, Values

Row = dict[str, object]

# Of each hundred users 60 clients, 30 professionals, 9 dual, 1 admin; the first four are one of each.
FIRST_TYPES = ("client", "professional", "dual", "admin")
_TYPES = ("client",) * 60 + ("professional",) * 30 + ("dual",) * 9 + ("admin",)
_STRIDE = 37  # shares no divisor with 100, so consecutive users walk through all of _TYPES

CATEGORIES = ("Plomería", "Electricidad", "Pintura", "Jardín", "Techos", "Limpieza", "Mudanzas", "Diseño", "Redes")
AGENTS = ("Mozilla/5.0 (Android 14)", "Mozilla/5.0 (iPhone)", "curl/8.5", "", "Opera \\ 'quoted'")
_NOTIFICATIONS = ("message", "proposal_received", "proposal_accepted", "project_update", "payment_received", "system")
_ACTIONS = ("login", "search", "view_service", "view_project", "edit_profile", "logout")


class People:
    """Users and what they have without dealing with others; a method yields one table's rows and remembers the keys."""

    def __init__(self, values: Values, *, users: int) -> None:
        """Prepare a marketplace; nothing is drawn yet."""
        if users < len(FIRST_TYPES):
            raise ValueError(f"a marketplace needs at least {len(FIRST_TYPES)} users, one of each type")
        self._v = values
        self._user_count = users
        self._users: list[str] = []
        self._clients: list[str] = []  # who publishes projects: clients and dual users
        self._professionals: list[str] = []  # who offers services: professionals and dual users
        self._admins: list[str] = []
        self._categories: list[str] = []

    def _new(self) -> Row:
        return {"id": self._v.key(), "created_at": self._v.time()}

    def _renewed(self) -> Row:
        moment = self._v.time()
        return {"id": self._v.key(), "created_at": moment, "updated_at": moment}

    def _times(self, ratio: float, population: list[str]) -> Iterator[str]:
        """Yield members of a population, `ratio` times its size in all, each about as often."""
        for number in range(round(ratio * len(population))):
            yield population[number % len(population)]

    # --- people ------------------------------------------------------------------------------------------------------

    def users(self) -> Iterator[Row]:
        """Yield users; e-mail and dni are unique, with some dni NULL and some deleted softly."""
        v = self._v
        for number in range(self._user_count):
            kind = FIRST_TYPES[number] if number < len(FIRST_TYPES) else _TYPES[number * _STRIDE % len(_TYPES)]
            row = self._renewed()
            self._remember_user(str(row["id"]), kind)
            yield row | self._identity(number) | self._preferences() | self._standing(kind)
        v.random.shuffle(self._professionals)

    def _remember_user(self, user: str, kind: str) -> None:
        self._users.append(user)
        if kind in {"client", "dual"}:
            self._clients.append(user)
        if kind in {"professional", "dual"}:
            self._professionals.append(user)
        if kind == "admin":
            self._admins.append(user)

    def _identity(self, number: int) -> Row:
        v = self._v
        first, last = v.one_of(FIRST_NAMES), v.one_of(LAST_NAMES)
        return {
            "email": f"{first}.{last}+{number}@fixia.test".lower(),
            "password_hash": f"$2b$12${v.token()}",
            "name": v.text() if v.chance(0.02) else f"{first} {last}",
            "avatar": v.maybe(f"https://img.fixia.test/a/{number}"),
            "location": v.maybe(v.one_of(CITIES), 0.8),
            "phone": v.maybe(f"+54 362 4{v.integer(100000, 999999)}", 0.8),
            "whatsapp_number": v.maybe(f"549362{v.integer(1000000, 9999999)}"),
            "birthdate": v.maybe(v.odd_time(), 0.6),
            "dni": v.maybe(str(20_000_000 + number), 0.7),
            "gender": v.maybe(v.one_of(("male", "female", "other", "prefer_not_to_say"))),
        }

    def _preferences(self) -> Row:
        v = self._v
        return {
            "bio": v.maybe(v.long_text(), 0.6),
            "social_linkedin": v.maybe(f"https://linkedin.test/in/{v.integer(1, 10**6)}", 0.2),
            "social_twitter": v.maybe("@" + v.text(), 0.1),
            "social_facebook": None,
            "social_instagram": v.maybe("", 0.2),
            "notifications_messages": v.chance(0.9),
            "notifications_orders": v.chance(0.9),
            "notifications_projects": v.chance(0.9),
            "notifications_newsletter": v.chance(0.3),
            "timezone": v.maybe("America/Argentina/Cordoba", 0.9),
        }

    def _standing(self, kind: str) -> Row:
        v = self._v
        subscribed = kind != "client" and v.chance(0.4)
        return {
            "user_type": kind,
            "verified": v.chance(0.5),
            "email_verified": v.chance(0.8),
            "deleted_at": v.maybe(v.time(), 0.01),
            "failed_login_attempts": v.integer(0, 5) if v.chance(0.1) else 0,
            "locked_until": v.maybe("infinity", 0.01),
            "auto_renew": subscribed,
            "is_hidden": v.chance(0.02),
            "is_professional_active": kind in {"professional", "dual"},
            "professional_since": v.time() if kind in {"professional", "dual"} else None,
            "subscription_expires_at": v.odd_time() if subscribed else None,
            "subscription_mp_id": v.token()[:16] if subscribed else None,
            "subscription_price": v.money() if subscribed else None,
            "subscription_started_at": v.time() if subscribed else None,
            "subscription_status": "active" if subscribed else None,
            "subscription_type": v.one_of(("basic", "premium")) if subscribed else None,
        }

    def professional_profiles(self) -> Iterator[Row]:
        """Yield one profile a professional."""
        v = self._v
        for user in self._professionals:
            yield self._renewed() | {
                "user_id": user,
                "bio": v.maybe(v.long_text(), 0.8),
                "specialties": v.maybe(v.array(), 0.9),
                "years_experience": v.integer(0, 40),
                "level": v.one_of(("Nuevo", "ProfesionalVerificado", "ExpertoVerificado", "TopRatedPlus")),
                "rating": v.maybe(v.number(), 0.8),
                "review_count": v.integer(0, 200),
                "total_earnings": v.maybe(v.number(1e7), 0.7),
                "availability_status": v.one_of(("available", "busy", "unavailable")),
                "response_time_hours": v.integer(1, 72),
            }

    def trust_scores(self) -> Iterator[Row]:
        """Yield one score a professional."""
        v = self._v
        scores = ("overall", "review", "completion", "communication", "reliability", "verification")
        for user in self._professionals:
            yield (
                self._renewed()
                | {"user_id": user, "last_calculated_at": v.time(), "average_rating": v.number()}
                | {f"{score}_score": v.number(100) for score in scores}
                | {"response_time_hours": v.number(72), "completion_rate": v.number(1)}
                | {"total_jobs_completed": v.integer(0, 300), "total_reviews_received": v.integer(0, 300)}
                | {f"verified_{what}": v.chance(0.4) for what in ("identity", "skills", "business")}
                | {"background_checked": v.chance(0.2)}
            )

    def role_trust_scores(self) -> Iterator[Row]:
        """Yield one score a role a user acts in."""
        v = self._v
        for role, population in (("client", self._clients), ("professional", self._professionals)):
            for user in population:
                yield self._renewed() | {
                    "user_id": user,
                    "role": role,
                    "total_likes": v.integer(0, 100),
                    "total_feedback": v.integer(0, 150),
                    "trust_percentage": v.number(100),
                    "last_calculated_at": v.time(),
                }

    def verification_requests(self) -> Iterator[Row]:
        """Yield requests of a third of the professionals, reviewed by admins."""
        v = self._v
        for user in self._times(1 / 3, self._professionals):
            reviewed = v.chance(0.6)
            yield self._renewed() | {
                "user_id": user,
                "documents": v.maybe(v.gallery(), 0.9),
                "additional_info": v.maybe(v.json(), 0.6),
                "reviewed_by": v.one_of(self._admins) if reviewed else None,
                "reviewed_at": v.time() if reviewed else None,
                "rejection_reason": v.maybe(v.text(), 0.1),
                "notes": v.maybe(v.text(), 0.2),
                "verification_type": v.one_of(("identity", "skills", "business", "background_check")),
                "status": v.one_of(("approved", "rejected")) if reviewed else "pending",
            }

    def portfolio_items(self) -> Iterator[Row]:
        """Yield two works a professional shows."""
        v = self._v
        for user in self._times(2, self._professionals):
            yield self._renewed() | {
                "user_id": user,
                "title": v.text(),
                "description": v.maybe(v.long_text()),
                "image_url": f"https://img.fixia.test/p/{v.integer(0, 10**9)}",
                "project_url": v.maybe("https://example.test/", 0.2),
                "category": v.maybe(v.one_of(CATEGORIES)),
                "tags": v.maybe(v.array(), 0.7),
                "featured": v.chance(0.1),
                "display_order": v.integer(0, 10),
                "likes_count": v.integer(0, 1000),
                "views_count": v.integer(0, 10000),
            }

    def user_sessions(self) -> Iterator[Row]:
        """Yield three sessions a user."""
        v = self._v
        for user in self._times(3, self._users):
            yield self._new() | {
                "user_id": user,
                "refresh_token": v.token(),
                "expires_at": v.time(),
                "ip_address": v.maybe(v.address(), 0.9),
                "user_agent": v.maybe(v.one_of(AGENTS), 0.9),
            }

    def password_history(self) -> Iterator[Row]:
        """Yield an earlier password for half of the users."""
        for user in self._times(0.5, self._users):
            yield self._new() | {"user_id": user, "password_hash": f"$2b$12${self._v.token()}"}

    def password_reset_tokens(self) -> Iterator[Row]:
        """Yield a reset for a tenth of the users."""
        yield from self._tokens(0.1)

    def email_verification_tokens(self) -> Iterator[Row]:
        """Yield a verification for each user."""
        yield from self._tokens(1)

    def _tokens(self, ratio: float) -> Iterator[Row]:
        v = self._v
        for user in self._times(ratio, self._users):
            yield self._new() | {
                "user_id": user,
                "token": v.token(),
                "expires_at": v.odd_time(),
                "used": v.chance(0.8),
            }

    def notifications(self) -> Iterator[Row]:
        """Yield twenty notifications a user."""
        v = self._v
        for user in self._times(20, self._users):
            yield {
                "id": v.key(),
                "user_id": user,
                "type": v.one_of(_NOTIFICATIONS),
                "title": "Fixia",
                "message": v.text(),
                "read": v.chance(0.7),
                "action_url": v.maybe("/dashboard", 0.3),
                "created_at": v.time(),
            }

    def user_activity(self) -> Iterator[Row]:
        """Yield forty traces a user, with jsonb in a quarter of them."""
        v = self._v
        for user in self._times(40, self._users):
            yield {
                "id": v.key(),
                "user_id": user,
                "action": v.one_of(_ACTIONS),
                "resource_type": v.maybe("service", 0.5),
                "resource_id": None,
                "metadata": v.json() if v.chance(0.25) else None,
                "created_at": v.time(),
            }

    # --- reference and shared ----------------------------------------------------------------------------------------

    def categories(self) -> Iterator[Row]:
        """Yield the trades."""
        v = self._v
        for number, name in enumerate(CATEGORIES):
            row = self._new() | {
                "name": name,
                "slug": f"{name.lower()}-{number}",
                "description": v.maybe(v.text()),
                "icon": v.maybe("🛠️"),
                "popular": v.chance(0.3),
                "service_count": v.integer(0, 1000),
            }
            self._categories.append(str(row["id"]))
            yield row

    def subcategories(self) -> Iterator[Row]:
        """Yield five divisions of each trade."""
        v = self._v
        for category in self._categories:
            for number in range(5):
                yield self._new() | {
                    "category_id": category,
                    "name": f"Rubro {number}",
                    "slug": f"rubro-{number}",
                    "description": v.maybe(v.text()),
                    "icon": None,
                    "service_count": v.integer(0, 100),
                }

    def review_templates(self) -> Iterator[Row]:
        """Yield a dozen questionnaires."""
        v = self._v
        for number in range(12):
            yield self._new() | {
                "category": v.one_of(CATEGORIES),
                "title": f"Plantilla {number}",
                "description": v.text(),
                "questions": v.json(),
                "active": v.chance(0.8),
            }

    def contact_messages(self) -> Iterator[Row]:
        """Yield letters from visitors, one for each twenty users."""
        v = self._v
        for number in range(self._user_count // 20 + 1):
            yield self._renewed() | {
                "name": v.text(),
                "email": f"visitor{number}@example.test",
                "subject": v.text(),
                "message": v.long_text(),
                "status": v.one_of(("pending", "in_progress", "resolved", "spam")),
                "responded_at": v.maybe(v.odd_time(), 0.4),
                "admin_notes": v.maybe(v.text(), 0.3),
            }
