"""The rows of a whole Fixia marketplace, table by table, parents before children. No I/O, no choice but the seed's.

The ratios are those of the real one: 1.5 projects a client, 3 proposals a project, half the projects with a job and a
match, 2 services a professional with 30 views each. A few professionals have most of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fixia_shardmig.demo.market_people import AGENTS, People, Row
from fixia_shardmig.demo.odd_values import CITIES, Values

_JOB_STATUSES = ("not_started", "in_progress", "milestone_review", "completed", "cancelled", "disputed")


@dataclass(frozen=True, slots=True)
class Deal:
    """A proposal that a client accepted; its job and match belong to it."""

    project: str
    proposal: str
    client: str
    professional: str
    job: str


class Marketplace(People):
    """A marketplace while it is made: people, and their projects, services, deals and opinions."""

    def __init__(self, values: Values, *, users: int) -> None:
        """Prepare a marketplace; nothing is drawn yet."""
        super().__init__(values, users=users)
        self._services: list[tuple[str, str]] = []  # (service, professional)
        self._projects: list[tuple[str, str]] = []  # (project, client)
        self._best_proposals: list[tuple[str, str, str, str]] = []  # (project, client, proposal, professional)
        self._deals: list[Deal] = []
        self._matches: list[tuple[str, str, str]] = []  # (match, client, professional)
        self._requests: list[tuple[str, str, str, str]] = []  # (request, service, client, professional)
        self._service_matches: list[tuple[str, str, str]] = []  # as _matches
        self._reviews: list[str] = []

    def tables(self) -> Iterator[tuple[str, Iterator[Row]]]:
        """Yield each table's name and rows; the rows must be consumed before the next table is asked for."""
        order: tuple[Callable[[], Iterator[Row]], ...] = (
            *(self.users, self.categories, self.subcategories, self.review_templates, self.contact_messages),
            *(self.professional_profiles, self.trust_scores, self.role_trust_scores, self.verification_requests),
            *(self.portfolio_items, self.user_sessions, self.password_history, self.password_reset_tokens),
            *(self.email_verification_tokens, self.notifications, self.user_activity),
            *(self.services, self.service_views, self.projects, self.proposals, self.jobs, self.matches),
            *(self.conversations, self.job_milestones, self.job_status_updates, self.payments),
            *(self.payment_preferences, self.service_requests, self.service_matches, self.match_reviews),
            *(self.phone_reveals, self.reviews, self.review_helpful_votes, self.review_flags, self.favorites),
            *(self.feedbacks, self.contact_interactions),
        )
        for generate in order:
            yield generate.__name__, generate()

    # --- projects and what grows from them ---------------------------------------------------------------------------

    def projects(self) -> Iterator[Row]:
        """Yield 1.5 projects a client."""
        v = self._v
        for client in self._times(1.5, self._clients):
            row = self._renewed()
            self._projects.append((str(row["id"]), client))
            yield row | {
                "client_id": client,
                "category_id": v.maybe(v.one_of(self._categories), 0.9),
                "title": v.text(),
                "description": v.long_text(),
                "budget_min": v.maybe(v.money(), 0.7),
                "budget_max": v.maybe(v.money(), 0.7),
                "deadline": v.maybe(v.odd_time()),
                "status": v.one_of(("open", "in_progress", "completed", "cancelled")),
                "location": v.maybe(v.one_of(CITIES)),
                "skills_required": v.maybe(v.array(), 0.8),
                "main_image_url": None,
                "gallery_urls": v.maybe(v.gallery(), 0.5),
                "proposals_count": v.integer(0, 10),
            }

    def proposals(self) -> Iterator[Row]:
        """Yield three proposals a project; a tenth of them answers an earlier one of the same project."""
        v = self._v
        for project, client in self._projects:
            parent: str | None = None
            for number in range(v.integer(0, 6)):
                professional = v.popular(self._professionals)
                row = self._renewed()
                answers = parent if v.chance(0.1) else None
                parent = str(row["id"])
                if number == 0:
                    self._best_proposals.append((project, client, parent, professional))
                yield row | {
                    "project_id": project,
                    "professional_id": professional,
                    "message": v.long_text(),
                    "quoted_price": v.money(),
                    "delivery_time_days": v.integer(1, 60),
                    "status": v.one_of(("pending", "accepted", "rejected", "withdrawn")),
                    "accepted_at": v.maybe(v.time(), 0.2),
                    "rejected_at": v.maybe(v.time(), 0.2),
                    "parent_proposal_id": answers,
                    "version": 1 if answers is None else 2,
                }

    def jobs(self) -> Iterator[Row]:
        """Yield a job for half of the projects."""
        v = self._v
        for project, client, proposal, professional in self._best_proposals:
            if not v.chance(0.58):  # a seventh of the projects has no proposal
                continue
            row = self._renewed()
            self._deals.append(Deal(project, proposal, client, professional, str(row["id"])))
            done = v.chance(0.5)
            yield row | {
                "project_id": project,
                "client_id": client,
                "professional_id": professional,
                "proposal_id": proposal,
                "title": v.text(),
                "description": v.long_text(),
                "agreed_price": v.money(),
                "currency": "ARS",
                "delivery_date": v.maybe(v.odd_time()),
                "progress_percentage": 100 if done else v.integer(0, 99),
                "started_at": v.time(),
                "completed_at": v.time() if done else None,
                "cancelled_at": None,
                "completion_requested_by": professional if done else None,
                "completion_requested_at": v.time() if done else None,
                "completion_confirmed_by": client if done else None,
                "completion_confirmed_at": v.time() if done else None,
                "status": "completed" if done else v.one_of(_JOB_STATUSES),
            }

    def matches(self) -> Iterator[Row]:
        """Yield a match for each job."""
        v = self._v
        for deal in self._deals:
            row = self._renewed()
            self._matches.append((str(row["id"]), deal.client, deal.professional))
            yield row | {
                "proposal_id": deal.proposal,
                "client_id": deal.client,
                "professional_id": deal.professional,
                "project_id": deal.project,
                "job_id": v.maybe(deal.job, 0.8),
                "service_id": v.one_of(self._services)[0] if v.chance(0.1) else None,
                "status": v.one_of(("pending", "confirmed", "completed", "cancelled")),
                "phone_revealed_at": v.maybe(v.time()),
                "phone_reveal_count": v.integer(0, 4),
            }

    def conversations(self) -> Iterator[Row]:
        """Yield one conversation a job."""
        v = self._v
        for deal in self._deals:
            yield self._new() | {
                "project_id": deal.project,
                "client_id": deal.client,
                "professional_id": deal.professional,
                "whatsapp_chat_url": v.maybe("https://wa.test/"),
                "status": v.one_of(("active", "archived", "closed")),
                "last_message_at": v.time(),
            }

    def job_milestones(self) -> Iterator[Row]:
        """Yield two milestones a job."""
        v = self._v
        for deal in (*self._deals, *self._deals):
            done = v.chance(0.5)
            yield self._new() | {
                "job_id": deal.job,
                "title": v.text(),
                "description": v.maybe(v.text()),
                "amount": v.money(),
                "due_date": v.maybe(v.odd_time()),
                "completed": done,
                "completed_at": v.time() if done else None,
                "approved_by_client": done,
                "approved_at": None,
            }

    def job_status_updates(self) -> Iterator[Row]:
        """Yield two updates a job, made by either side."""
        v = self._v
        for deal in (*self._deals, *self._deals):
            yield self._new() | {
                "job_id": deal.job,
                "message": v.maybe(v.text()),
                "updated_by_user_id": v.one_of((deal.client, deal.professional)),
                "status_from": v.one_of(_JOB_STATUSES),
                "status_to": v.one_of(_JOB_STATUSES),
            }

    def payments(self) -> Iterator[Row]:
        """Yield six payments for five jobs, and some for a service alone."""
        v = self._v
        for number in range(round(1.4 * len(self._deals))):
            deal = self._deals[number % len(self._deals)]
            of_job = number < 1.2 * len(self._deals)
            service = None if of_job else v.popular(self._services)
            yield self._renewed() | {
                "job_id": deal.job if of_job else None,
                "service_id": service[0] if service else None,
                "amount": v.money(),
                "currency": v.one_of(("ARS", "USD")),
                "payment_method": v.maybe("mercadopago", 0.8),
                "transaction_id": v.maybe(v.token(), 0.8),
                "mp_payment_id": v.maybe(str(10**9 + number), 0.7),
                "mp_preference_id": v.maybe(v.token()[:20]),
                "external_reference": v.maybe(v.text(), 0.3),
                "status_detail": v.maybe("accredited"),
                "user_id": deal.client,
                "professional_id": v.maybe(service[1] if service else deal.professional, 0.9),
                "payer_email": v.maybe("payer@example.test"),
                "payer_name": v.maybe(v.text()),
                "description": v.maybe(v.text()),
                "paid_at": v.maybe(v.time(), 0.7),
                "released_at": v.maybe(v.odd_time(), 0.4),
                "refunded_at": None,
                "approval_url": None,
                "transaction_data": v.maybe(v.json(), 0.7),
                "platform_fee": v.maybe(v.money()),
                "professional_amount": v.maybe(v.money()),
                "notes": v.maybe(v.text(), 0.1),
                "status": v.one_of(("pending", "approved", "in_escrow", "released", "refunded", "rejected")),
            }

    def payment_preferences(self) -> Iterator[Row]:
        """Yield what was offered for payment, one a job."""
        v = self._v
        for number, deal in enumerate(self._deals):
            yield self._renewed() | {
                "mp_preference_id": f"{number}-{v.token()[:20]}",
                "external_reference": v.maybe(v.token()[:12]),
                "amount": v.money(),
                "currency": "ARS",
                "title": v.text(),
                "description": v.text(),
                "payer_email": "payer@example.test",
                "user_id": deal.client,
                "service_id": v.one_of(self._services)[0] if v.chance(0.2) else None,
                "job_id": v.maybe(deal.job, 0.8),
                "professional_id": v.maybe(deal.professional, 0.9),
                **{f"{outcome}_url": v.maybe(f"/{outcome}") for outcome in ("success", "failure", "pending")},
                "init_point": v.maybe("https://mp.test/"),
                "sandbox_init_point": None,
                "client_id": v.maybe("fixia"),
                "collector_id": v.integer(-(2**31), 2**31 - 1) if v.chance(0.5) else None,
                "used": v.chance(0.6),
                "used_at": v.maybe(v.time()),
            }

    # --- services and what grows from them ---------------------------------------------------------------------------

    def services(self) -> Iterator[Row]:
        """Yield two services a professional."""
        v = self._v
        for professional in self._times(2, self._professionals):
            row = self._renewed()
            self._services.append((str(row["id"]), professional))
            yield row | {
                "professional_id": professional,
                "category_id": v.maybe(v.one_of(self._categories), 0.95),
                "title": v.text(),
                "description": v.long_text(),
                "price": v.number(50_000),
                "currency": "ARS",
                "main_image": v.maybe("https://img.fixia.test/s"),
                "gallery": v.maybe(v.gallery(), 0.7),
                "tags": v.maybe(v.array(), 0.8),
                "delivery_time_days": v.integer(1, 30) if v.chance(0.8) else None,
                "revisions_included": v.integer(0, 5),
                "active": v.chance(0.9),
                "featured": v.chance(0.05),
                "view_count": v.integer(0, 100_000),
            }

    def service_views(self) -> Iterator[Row]:
        """Yield thirty views a service, most of them of the popular ones, a third by visitors."""
        v = self._v
        for _ in range(30 * len(self._services)):
            yield {
                "id": v.key(),
                "service_id": v.popular(self._services)[0],
                "viewer_id": v.one_of(self._users) if v.chance(0.67) else None,
                "ip_address": v.maybe(v.address(), 0.9),
                "user_agent": v.one_of(AGENTS),
                "viewed_at": v.time(),
            }

    def service_requests(self) -> Iterator[Row]:
        """Yield a request for every second service."""
        v = self._v
        for _ in range(len(self._services) // 2 + 1):
            service, professional = v.popular(self._services)
            client = v.one_of(self._clients)
            row = self._renewed()
            self._requests.append((str(row["id"]), service, client, professional))
            yield row | {
                "service_id": service,
                "client_id": client,
                "professional_id": professional,
                "message": v.text(),
                "budget": v.maybe(v.money()),
                "deadline": v.maybe(v.odd_time()),
                "status": v.one_of(("pending", "accepted", "rejected", "cancelled", "completed")),
                "response_message": v.maybe(v.text()),
                "accepted_at": v.maybe(v.time()),
                "rejected_at": None,
                "cancelled_at": None,
            }

    def service_matches(self) -> Iterator[Row]:
        """Yield a match for most of the requests."""
        v = self._v
        for request, service, client, professional in self._requests:
            if not v.chance(0.6):
                continue
            row = self._renewed()
            self._service_matches.append((str(row["id"]), client, professional))
            yield row | {
                "service_request_id": request,
                "client_id": client,
                "professional_id": professional,
                "service_id": service,
                "status": v.one_of(("pending", "confirmed", "completed", "cancelled")),
                "phone_revealed_at": v.maybe(v.time()),
                "phone_reveal_count": v.integer(0, 4),
            }

    # --- opinions ----------------------------------------------------------------------------------------------------

    def match_reviews(self) -> Iterator[Row]:
        """Yield reviews of matches of both kinds, by one side or both."""
        for column, matches in (("match_id", self._matches), ("service_match_id", self._service_matches)):
            for match, client, professional in matches:
                for reviewer, reviewed in ((client, professional), (professional, client)):
                    # a dual user can be both sides, and may review a match once
                    if self._v.chance(0.4) and (client != professional or reviewer == client):
                        yield self._match_review(column, match, reviewer, reviewed)
                    if client == professional:
                        break

    def _match_review(self, column: str, match: str, reviewer: str, reviewed: str) -> Row:
        v = self._v
        return (
            self._renewed()
            | {"match_id": None, "service_match_id": None, column: match}
            | {"reviewer_id": reviewer, "reviewed_user_id": reviewed, "overall_rating": v.integer(1, 5)}
            | {
                f"{what}_rating": v.integer(1, 5) if v.chance(0.7) else None
                for what in ("communication", "quality", "professionalism", "timeliness")
            }
            | {
                "comment": v.maybe(v.long_text(), 0.8),
                "verified_match": v.chance(0.8),
                "deleted_at": None,
                "deleted_by_user_id": None,
                "deleted_reason": v.maybe(v.text(), 0.01),
            }
        )

    def phone_reveals(self) -> Iterator[Row]:
        """Yield reveals for a match, for a service match, for both (the first decides the home) and for neither."""
        v = self._v
        for match, client, professional in self._matches:
            both = self._service_matches and v.chance(0.1)
            yield self._reveal(
                match, v.one_of(self._service_matches)[0] if both else None, v.one_of((client, professional))
            )
        for service_match, client, _ in self._service_matches:
            yield self._reveal(None, service_match, client)
        for user in self._times(0.02, self._users):
            yield self._reveal(None, None, user)

    def _reveal(self, match: str | None, service_match: str | None, user: str) -> Row:
        v = self._v
        return self._new() | {
            "match_id": match,
            "service_match_id": service_match,
            "user_id": user,
            "phone_number": f"+54 362 4{v.integer(100000, 999999)}",
            "token": v.token(),
            "token_hash": v.token(),
            "expires_at": v.odd_time(),
            "revealed_at": v.maybe(v.time()),
            "ip_address": v.maybe(v.address()),
            "user_agent": v.maybe(v.one_of(AGENTS)),
        }

    def reviews(self) -> Iterator[Row]:
        """Yield one review a service, and one for half of the jobs."""
        v = self._v
        for _ in range(len(self._services)):
            service, professional = v.popular(self._services)
            yield self._review(service, None, v.one_of(self._clients), professional)
        for deal in self._deals:
            if v.chance(0.5):
                yield self._review(None, deal.job, deal.client, deal.professional)

    def _review(self, service: str | None, job: str | None, reviewer: str, professional: str) -> Row:
        v = self._v
        row = self._renewed()
        self._reviews.append(str(row["id"]))
        moderated = v.chance(0.2)
        aspects = ("communication", "quality", "timeliness", "professionalism")
        return (
            row
            | {"service_id": service, "job_id": job, "reviewer_id": reviewer, "professional_id": professional}
            | {f"{aspect}_rating": v.integer(1, 5) if v.chance(0.6) else None for aspect in aspects}
            | {
                "rating": v.integer(1, 5),
                "comment": v.maybe(v.long_text(), 0.8),
                "helpful_count": v.integer(0, 50),
                "verified_purchase": job is not None,
                "moderated_by": v.one_of(self._admins) if moderated else None,
                "moderated_at": v.time() if moderated else None,
                "flagged_count": v.integer(0, 3) if v.chance(0.05) else 0,
                "trust_score": v.maybe(v.number(1)),
                "moderation_status": v.one_of(("approved", "rejected")) if moderated else "pending",
            }
        )

    def review_helpful_votes(self) -> Iterator[Row]:
        """Yield half as many votes as there are reviews, one a user and review."""
        v = self._v
        for review, user in self._pairs(len(self._reviews) // 2, self._reviews):
            yield self._new() | {"review_id": review, "user_id": user, "is_helpful": v.chance(0.8)}

    def review_flags(self) -> Iterator[Row]:
        """Yield complaints about a thirtieth of the reviews, some resolved by an admin."""
        v = self._v
        for review, user in self._pairs(len(self._reviews) // 30 + 1, self._reviews):
            resolved = v.chance(0.5)
            yield self._new() | {
                "review_id": review,
                "flagger_id": user,
                "description": v.maybe(v.text()),
                "resolved": resolved,
                "resolved_by": v.one_of(self._admins) if resolved else None,
                "resolved_at": v.time() if resolved else None,
                "reason": v.one_of(("spam", "offensive", "fake", "off_topic", "other")),
            }

    def _pairs(self, count: int, population: list[str]) -> Iterator[tuple[str, str]]:
        """Yield up to `count` different pairs of a popular member and any user."""
        drawn = dict.fromkeys((self._v.popular(population), self._v.one_of(self._users)) for _ in range(count))
        yield from drawn

    def favorites(self) -> Iterator[Row]:
        """Yield a favorite a user: a service or a professional."""
        half = self._user_count // 2
        for service, user in self._pairs(half, [service for service, _ in self._services]):
            yield self._new() | {"user_id": user, "service_id": service, "professional_id": None}
        for professional, user in self._pairs(half, self._professionals):
            yield self._new() | {"user_id": user, "service_id": None, "professional_id": professional}

    def feedbacks(self) -> Iterator[Row]:
        """Yield an opinion for half of the jobs, by either side."""
        v = self._v
        for deal in self._deals:
            by_client = v.chance(0.7)
            if v.chance(0.5):
                yield self._renewed() | {
                    "from_user_id": deal.client if by_client else deal.professional,
                    "to_user_id": deal.professional if by_client else deal.client,
                    "comment": v.maybe(v.text()),
                    "has_like": v.chance(0.7),
                    "job_id": deal.job,
                    "service_id": v.one_of(self._services)[0] if v.chance(0.1) else None,
                    "to_user_role": "professional" if by_client else "client",
                }

    def contact_interactions(self) -> Iterator[Row]:
        """Yield a contact for every second client."""
        v = self._v
        for client in self._times(0.5, self._clients):
            service, professional = v.popular(self._services)
            yield self._new() | {
                "client_id": client,
                "professional_id": professional,
                "service_id": v.maybe(service, 0.7),
                "project_id": v.one_of(self._projects)[0] if v.chance(0.3) else None,
                "contact_method": v.one_of(("whatsapp", "phone", "email")),
                "message": v.maybe(v.text()),
                "contact_data": v.maybe(v.json()),
                "converted_to_job": v.chance(0.2),
                "job_id": None,
                "conversion_value": v.maybe(v.money(), 0.2),
            }
