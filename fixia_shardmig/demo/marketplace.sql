-- Fixia as its monolith has it: 37 tables in the form that `prisma migrate` gives them, and Prisma's own record.
-- Returns nothing. The tables, columns and actions are Fixia's; labels of enums and secondary indexes are ours.

CREATE TYPE "AvailabilityStatus" AS ENUM ('available', 'busy', 'unavailable');
CREATE TYPE "ContactStatus" AS ENUM ('pending', 'in_progress', 'resolved', 'spam');
CREATE TYPE "ConversationStatus" AS ENUM ('active', 'archived', 'closed');
CREATE TYPE "Gender" AS ENUM ('male', 'female', 'other', 'prefer_not_to_say');
CREATE TYPE "JobStatus" AS ENUM ('not_started', 'in_progress', 'milestone_review', 'completed', 'cancelled', 'disputed');
CREATE TYPE "MatchStatus" AS ENUM ('pending', 'confirmed', 'completed', 'cancelled');
CREATE TYPE "NotificationType" AS ENUM (
    'message', 'proposal_received', 'proposal_accepted', 'project_update', 'payment_received', 'review_received', 'system'
);
CREATE TYPE "PaymentStatus" AS ENUM ('pending', 'approved', 'in_escrow', 'released', 'refunded', 'rejected');
CREATE TYPE "ProfessionalLevel" AS ENUM ('Nuevo', 'ProfesionalVerificado', 'ExpertoVerificado', 'TopRatedPlus');
CREATE TYPE "ProjectStatus" AS ENUM ('open', 'in_progress', 'completed', 'cancelled');
CREATE TYPE "ProposalStatus" AS ENUM ('pending', 'accepted', 'rejected', 'withdrawn');
CREATE TYPE "ReviewFlagReason" AS ENUM ('spam', 'offensive', 'fake', 'off_topic', 'other');
CREATE TYPE "ReviewModerationStatus" AS ENUM ('pending', 'approved', 'rejected', 'flagged');
CREATE TYPE "ServiceRequestStatus" AS ENUM ('pending', 'accepted', 'rejected', 'cancelled', 'completed');
CREATE TYPE "UserType" AS ENUM ('client', 'professional', 'dual', 'admin');
CREATE TYPE "VerificationStatus" AS ENUM ('pending', 'approved', 'rejected', 'expired');
CREATE TYPE "VerificationType" AS ENUM ('identity', 'skills', 'business', 'background_check');

CREATE TABLE "categories" (
    "id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "slug" TEXT NOT NULL,
    "description" TEXT,
    "icon" TEXT,
    "popular" BOOLEAN NOT NULL DEFAULT false,
    "service_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "categories_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "contact_interactions" (
    "id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "service_id" TEXT,
    "project_id" TEXT,
    "contact_method" TEXT NOT NULL,
    "message" TEXT,
    "contact_data" JSONB,
    "converted_to_job" BOOLEAN NOT NULL DEFAULT false,
    "job_id" TEXT,
    "conversion_value" DECIMAL(12,2),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "contact_interactions_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "contact_messages" (
    "id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "email" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "message" TEXT NOT NULL,
    "status" "ContactStatus" NOT NULL DEFAULT 'pending',
    "responded_at" TIMESTAMP(3),
    "admin_notes" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "contact_messages_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "conversations" (
    "id" TEXT NOT NULL,
    "project_id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "whatsapp_chat_url" TEXT,
    "status" "ConversationStatus" NOT NULL DEFAULT 'active',
    "last_message_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "conversations_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "email_verification_tokens" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "token" TEXT NOT NULL,
    "expires_at" TIMESTAMP(3) NOT NULL,
    "used" BOOLEAN NOT NULL DEFAULT false,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "email_verification_tokens_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "favorites" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "service_id" TEXT,
    "professional_id" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "favorites_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "feedbacks" (
    "id" TEXT NOT NULL,
    "from_user_id" TEXT NOT NULL,
    "to_user_id" TEXT NOT NULL,
    "comment" TEXT,
    "has_like" BOOLEAN NOT NULL DEFAULT false,
    "job_id" TEXT,
    "service_id" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "to_user_role" TEXT NOT NULL,

    CONSTRAINT "feedbacks_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "job_milestones" (
    "id" TEXT NOT NULL,
    "job_id" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "amount" DECIMAL(12,2) NOT NULL,
    "due_date" TIMESTAMP(3),
    "completed" BOOLEAN NOT NULL DEFAULT false,
    "completed_at" TIMESTAMP(3),
    "approved_by_client" BOOLEAN NOT NULL DEFAULT false,
    "approved_at" TIMESTAMP(3),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "job_milestones_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "job_status_updates" (
    "id" TEXT NOT NULL,
    "job_id" TEXT NOT NULL,
    "message" TEXT,
    "updated_by_user_id" TEXT NOT NULL,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "status_from" "JobStatus" NOT NULL,
    "status_to" "JobStatus" NOT NULL,

    CONSTRAINT "job_status_updates_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "jobs" (
    "id" TEXT NOT NULL,
    "project_id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "proposal_id" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "agreed_price" DECIMAL(12,2) NOT NULL,
    "currency" TEXT NOT NULL DEFAULT 'ARS',
    "delivery_date" TIMESTAMP(3),
    "progress_percentage" INTEGER NOT NULL DEFAULT 0,
    "started_at" TIMESTAMP(3),
    "completed_at" TIMESTAMP(3),
    "cancelled_at" TIMESTAMP(3),
    "completion_requested_by" TEXT,
    "completion_requested_at" TIMESTAMP(3),
    "completion_confirmed_by" TEXT,
    "completion_confirmed_at" TIMESTAMP(3),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "status" "JobStatus" NOT NULL DEFAULT 'not_started',

    CONSTRAINT "jobs_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "match_reviews" (
    "id" TEXT NOT NULL,
    "match_id" TEXT,
    "service_match_id" TEXT,
    "reviewer_id" TEXT NOT NULL,
    "reviewed_user_id" TEXT NOT NULL,
    "overall_rating" INTEGER NOT NULL,
    "communication_rating" INTEGER,
    "quality_rating" INTEGER,
    "professionalism_rating" INTEGER,
    "timeliness_rating" INTEGER,
    "comment" TEXT,
    "verified_match" BOOLEAN NOT NULL DEFAULT false,
    "deleted_at" TIMESTAMP(3),
    "deleted_by_user_id" TEXT,
    "deleted_reason" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "match_reviews_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "matches" (
    "id" TEXT NOT NULL,
    "proposal_id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "project_id" TEXT NOT NULL,
    "job_id" TEXT,
    "service_id" TEXT,
    "status" "MatchStatus" NOT NULL DEFAULT 'pending',
    "phone_revealed_at" TIMESTAMP(3),
    "phone_reveal_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "matches_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "notifications" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "type" "NotificationType" NOT NULL,
    "title" TEXT NOT NULL,
    "message" TEXT NOT NULL,
    "read" BOOLEAN NOT NULL DEFAULT false,
    "action_url" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "notifications_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "password_history" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "password_hash" TEXT NOT NULL,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "password_history_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "password_reset_tokens" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "token" TEXT NOT NULL,
    "expires_at" TIMESTAMP(3) NOT NULL,
    "used" BOOLEAN NOT NULL DEFAULT false,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "password_reset_tokens_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "payment_preferences" (
    "id" TEXT NOT NULL,
    "mp_preference_id" TEXT NOT NULL,
    "external_reference" TEXT,
    "amount" DECIMAL(12,2) NOT NULL,
    "currency" TEXT NOT NULL DEFAULT 'ARS',
    "title" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "payer_email" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "service_id" TEXT,
    "job_id" TEXT,
    "professional_id" TEXT,
    "success_url" TEXT,
    "failure_url" TEXT,
    "pending_url" TEXT,
    "init_point" TEXT,
    "sandbox_init_point" TEXT,
    "client_id" TEXT,
    "collector_id" INTEGER,
    "used" BOOLEAN NOT NULL DEFAULT false,
    "used_at" TIMESTAMP(3),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "payment_preferences_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "payments" (
    "id" TEXT NOT NULL,
    "job_id" TEXT,
    "service_id" TEXT,
    "amount" DECIMAL(12,2) NOT NULL,
    "currency" TEXT NOT NULL DEFAULT 'ARS',
    "payment_method" TEXT,
    "transaction_id" TEXT,
    "mp_payment_id" TEXT,
    "mp_preference_id" TEXT,
    "external_reference" TEXT,
    "status_detail" TEXT,
    "user_id" TEXT NOT NULL,
    "professional_id" TEXT,
    "payer_email" TEXT,
    "payer_name" TEXT,
    "description" TEXT,
    "paid_at" TIMESTAMP(3),
    "released_at" TIMESTAMP(3),
    "refunded_at" TIMESTAMP(3),
    "approval_url" TEXT,
    "transaction_data" JSONB,
    "platform_fee" DECIMAL(12,2),
    "professional_amount" DECIMAL(12,2),
    "notes" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "status" "PaymentStatus" NOT NULL DEFAULT 'pending',

    CONSTRAINT "payments_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "phone_reveals" (
    "id" TEXT NOT NULL,
    "match_id" TEXT,
    "service_match_id" TEXT,
    "user_id" TEXT NOT NULL,
    "phone_number" TEXT NOT NULL,
    "token" TEXT NOT NULL,
    "token_hash" TEXT NOT NULL,
    "expires_at" TIMESTAMP(3) NOT NULL,
    "revealed_at" TIMESTAMP(3),
    "ip_address" TEXT,
    "user_agent" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "phone_reveals_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "portfolio_items" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "title" VARCHAR(200) NOT NULL,
    "description" TEXT,
    "image_url" VARCHAR(500) NOT NULL,
    "project_url" VARCHAR(500),
    "category" VARCHAR(100),
    "tags" TEXT[],
    "featured" BOOLEAN NOT NULL DEFAULT false,
    "display_order" INTEGER NOT NULL DEFAULT 0,
    "likes_count" INTEGER NOT NULL DEFAULT 0,
    "views_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "portfolio_items_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "professional_profiles" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "bio" TEXT,
    "specialties" TEXT[],
    "years_experience" INTEGER,
    "level" "ProfessionalLevel" NOT NULL DEFAULT 'Nuevo',
    "rating" DOUBLE PRECISION,
    "review_count" INTEGER NOT NULL DEFAULT 0,
    "total_earnings" DOUBLE PRECISION,
    "availability_status" "AvailabilityStatus" NOT NULL DEFAULT 'available',
    "response_time_hours" INTEGER NOT NULL DEFAULT 24,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "professional_profiles_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "projects" (
    "id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "category_id" TEXT,
    "title" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "budget_min" DECIMAL(12,2),
    "budget_max" DECIMAL(12,2),
    "deadline" TIMESTAMP(3),
    "status" "ProjectStatus" NOT NULL DEFAULT 'open',
    "location" TEXT,
    "skills_required" TEXT[],
    "main_image_url" TEXT,
    "gallery_urls" TEXT[],
    "proposals_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "projects_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "proposals" (
    "id" TEXT NOT NULL,
    "project_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "message" TEXT NOT NULL,
    "quoted_price" DECIMAL(12,2) NOT NULL,
    "delivery_time_days" INTEGER NOT NULL,
    "status" "ProposalStatus" NOT NULL DEFAULT 'pending',
    "accepted_at" TIMESTAMP(3),
    "rejected_at" TIMESTAMP(3),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "parent_proposal_id" TEXT,
    "version" INTEGER NOT NULL DEFAULT 1,

    CONSTRAINT "proposals_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "review_flags" (
    "id" TEXT NOT NULL,
    "review_id" TEXT NOT NULL,
    "flagger_id" TEXT NOT NULL,
    "description" TEXT,
    "resolved" BOOLEAN NOT NULL DEFAULT false,
    "resolved_by" TEXT,
    "resolved_at" TIMESTAMP(3),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "reason" "ReviewFlagReason" NOT NULL,

    CONSTRAINT "review_flags_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "review_helpful_votes" (
    "id" TEXT NOT NULL,
    "review_id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "is_helpful" BOOLEAN NOT NULL DEFAULT true,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "review_helpful_votes_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "review_templates" (
    "id" TEXT NOT NULL,
    "category" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "questions" JSONB NOT NULL,
    "active" BOOLEAN NOT NULL DEFAULT true,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "review_templates_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "reviews" (
    "id" TEXT NOT NULL,
    "service_id" TEXT,
    "reviewer_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "rating" INTEGER NOT NULL,
    "comment" TEXT,
    "helpful_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "job_id" TEXT,
    "verified_purchase" BOOLEAN NOT NULL DEFAULT false,
    "moderated_by" TEXT,
    "moderated_at" TIMESTAMP(3),
    "flagged_count" INTEGER NOT NULL DEFAULT 0,
    "trust_score" DOUBLE PRECISION,
    "communication_rating" INTEGER,
    "quality_rating" INTEGER,
    "timeliness_rating" INTEGER,
    "professionalism_rating" INTEGER,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "moderation_status" "ReviewModerationStatus" NOT NULL DEFAULT 'pending',

    CONSTRAINT "reviews_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "role_trust_scores" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    "total_likes" INTEGER NOT NULL DEFAULT 0,
    "total_feedback" INTEGER NOT NULL DEFAULT 0,
    "trust_percentage" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "last_calculated_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "role_trust_scores_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "service_matches" (
    "id" TEXT NOT NULL,
    "service_request_id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "service_id" TEXT NOT NULL,
    "status" "MatchStatus" NOT NULL DEFAULT 'pending',
    "phone_revealed_at" TIMESTAMP(3),
    "phone_reveal_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "service_matches_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "service_requests" (
    "id" TEXT NOT NULL,
    "service_id" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "message" TEXT NOT NULL,
    "budget" DECIMAL(12,2),
    "deadline" TIMESTAMP(3),
    "status" "ServiceRequestStatus" NOT NULL DEFAULT 'pending',
    "response_message" TEXT,
    "accepted_at" TIMESTAMP(3),
    "rejected_at" TIMESTAMP(3),
    "cancelled_at" TIMESTAMP(3),
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "service_requests_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "service_views" (
    "id" TEXT NOT NULL,
    "service_id" TEXT NOT NULL,
    "viewer_id" TEXT,
    "ip_address" TEXT,
    "user_agent" TEXT,
    "viewed_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "service_views_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "services" (
    "id" TEXT NOT NULL,
    "professional_id" TEXT NOT NULL,
    "category_id" TEXT,
    "title" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "price" DOUBLE PRECISION NOT NULL,
    "currency" TEXT NOT NULL DEFAULT 'ARS',
    "main_image" TEXT,
    "gallery" TEXT[],
    "tags" TEXT[],
    "delivery_time_days" INTEGER,
    "revisions_included" INTEGER NOT NULL DEFAULT 1,
    "active" BOOLEAN NOT NULL DEFAULT true,
    "featured" BOOLEAN NOT NULL DEFAULT false,
    "view_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "services_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "subcategories" (
    "id" TEXT NOT NULL,
    "category_id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "slug" TEXT NOT NULL,
    "description" TEXT,
    "icon" TEXT,
    "service_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "subcategories_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "trust_scores" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "overall_score" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "review_score" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "completion_score" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "communication_score" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "reliability_score" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "verification_score" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "total_jobs_completed" INTEGER NOT NULL DEFAULT 0,
    "total_reviews_received" INTEGER NOT NULL DEFAULT 0,
    "average_rating" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "response_time_hours" DOUBLE PRECISION NOT NULL DEFAULT 24,
    "completion_rate" DOUBLE PRECISION NOT NULL DEFAULT 0,
    "verified_identity" BOOLEAN NOT NULL DEFAULT false,
    "verified_skills" BOOLEAN NOT NULL DEFAULT false,
    "verified_business" BOOLEAN NOT NULL DEFAULT false,
    "background_checked" BOOLEAN NOT NULL DEFAULT false,
    "last_calculated_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,

    CONSTRAINT "trust_scores_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "user_activity" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "resource_type" TEXT,
    "resource_id" TEXT,
    "metadata" JSONB,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "user_activity_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "user_sessions" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "refresh_token" TEXT NOT NULL,
    "expires_at" TIMESTAMP(3) NOT NULL,
    "ip_address" TEXT,
    "user_agent" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "user_sessions_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "users" (
    "id" TEXT NOT NULL,
    "email" TEXT NOT NULL,
    "password_hash" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "avatar" TEXT,
    "user_type" "UserType" NOT NULL DEFAULT 'client',
    "location" TEXT,
    "verified" BOOLEAN NOT NULL DEFAULT false,
    "email_verified" BOOLEAN NOT NULL DEFAULT false,
    "phone" TEXT,
    "whatsapp_number" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "deleted_at" TIMESTAMP(3),
    "birthdate" TIMESTAMP(3),
    "dni" TEXT,
    "gender" "Gender",
    "failed_login_attempts" INTEGER NOT NULL DEFAULT 0,
    "locked_until" TIMESTAMP(3),
    "bio" TEXT,
    "social_linkedin" TEXT,
    "social_twitter" TEXT,
    "social_facebook" TEXT,
    "social_instagram" TEXT,
    "notifications_messages" BOOLEAN NOT NULL DEFAULT true,
    "notifications_orders" BOOLEAN NOT NULL DEFAULT true,
    "notifications_projects" BOOLEAN NOT NULL DEFAULT true,
    "notifications_newsletter" BOOLEAN NOT NULL DEFAULT false,
    "timezone" TEXT,
    "auto_renew" BOOLEAN NOT NULL DEFAULT false,
    "is_hidden" BOOLEAN NOT NULL DEFAULT false,
    "is_professional_active" BOOLEAN NOT NULL DEFAULT false,
    "professional_since" TIMESTAMP(3),
    "subscription_expires_at" TIMESTAMP(3),
    "subscription_mp_id" TEXT,
    "subscription_price" DECIMAL(12,2),
    "subscription_started_at" TIMESTAMP(3),
    "subscription_status" TEXT,
    "subscription_type" TEXT,

    CONSTRAINT "users_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "verification_requests" (
    "id" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "documents" TEXT[],
    "additional_info" JSONB,
    "reviewed_by" TEXT,
    "reviewed_at" TIMESTAMP(3),
    "rejection_reason" TEXT,
    "notes" TEXT,
    "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMP(3) NOT NULL,
    "verification_type" "VerificationType" NOT NULL,
    "status" "VerificationStatus" NOT NULL DEFAULT 'pending',

    CONSTRAINT "verification_requests_pkey" PRIMARY KEY ("id")
);

CREATE TABLE "_prisma_migrations" (
    "id" VARCHAR(36) NOT NULL,
    "checksum" VARCHAR(64) NOT NULL,
    "finished_at" TIMESTAMPTZ,
    "migration_name" VARCHAR(255) NOT NULL,
    "logs" TEXT,
    "rolled_back_at" TIMESTAMPTZ,
    "started_at" TIMESTAMPTZ NOT NULL DEFAULT now(),
    "applied_steps_count" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "_prisma_migrations_pkey" PRIMARY KEY ("id")
);

-- keys and indexes: what a bulk load puts in after the rows

CREATE UNIQUE INDEX "users_email_key" ON "users"("email");
CREATE UNIQUE INDEX "users_dni_key" ON "users"("dni");
CREATE UNIQUE INDEX "categories_name_key" ON "categories"("name");
CREATE UNIQUE INDEX "categories_slug_key" ON "categories"("slug");
CREATE UNIQUE INDEX "subcategories_category_id_slug_key" ON "subcategories"("category_id", "slug");
CREATE UNIQUE INDEX "professional_profiles_user_id_key" ON "professional_profiles"("user_id");
CREATE UNIQUE INDEX "trust_scores_user_id_key" ON "trust_scores"("user_id");
CREATE UNIQUE INDEX "matches_proposal_id_key" ON "matches"("proposal_id");
CREATE UNIQUE INDEX "match_reviews_match_id_reviewer_id_key" ON "match_reviews"("match_id", "reviewer_id");
CREATE UNIQUE INDEX "match_reviews_service_match_id_reviewer_id_key" ON "match_reviews"("service_match_id", "reviewer_id");
CREATE UNIQUE INDEX "phone_reveals_token_key" ON "phone_reveals"("token");
CREATE UNIQUE INDEX "password_reset_tokens_token_key" ON "password_reset_tokens"("token");
CREATE UNIQUE INDEX "email_verification_tokens_token_key" ON "email_verification_tokens"("token");
CREATE UNIQUE INDEX "conversations_project_id_key" ON "conversations"("project_id");
CREATE UNIQUE INDEX "jobs_project_id_key" ON "jobs"("project_id");
CREATE UNIQUE INDEX "jobs_proposal_id_key" ON "jobs"("proposal_id");
CREATE UNIQUE INDEX "payments_transaction_id_key" ON "payments"("transaction_id");
CREATE UNIQUE INDEX "payments_mp_payment_id_key" ON "payments"("mp_payment_id");
CREATE UNIQUE INDEX "payment_preferences_mp_preference_id_key" ON "payment_preferences"("mp_preference_id");
CREATE UNIQUE INDEX "review_helpful_votes_review_id_user_id_key" ON "review_helpful_votes"("review_id", "user_id");
CREATE UNIQUE INDEX "review_flags_review_id_flagger_id_key" ON "review_flags"("review_id", "flagger_id");
CREATE UNIQUE INDEX "favorites_user_id_service_id_key" ON "favorites"("user_id", "service_id");
CREATE UNIQUE INDEX "favorites_user_id_professional_id_key" ON "favorites"("user_id", "professional_id");
CREATE UNIQUE INDEX "feedbacks_from_user_id_to_user_id_job_id_key" ON "feedbacks"("from_user_id", "to_user_id", "job_id");
CREATE UNIQUE INDEX "role_trust_scores_user_id_role_key" ON "role_trust_scores"("user_id", "role");
CREATE UNIQUE INDEX "service_matches_service_request_id_key" ON "service_matches"("service_request_id");

CREATE INDEX "contact_interactions_client_id_idx" ON "contact_interactions"("client_id");
CREATE INDEX "contact_interactions_created_at_idx" ON "contact_interactions"("created_at");
CREATE INDEX "contact_interactions_professional_id_idx" ON "contact_interactions"("professional_id");
CREATE INDEX "contact_interactions_project_id_idx" ON "contact_interactions"("project_id");
CREATE INDEX "contact_interactions_service_id_idx" ON "contact_interactions"("service_id");
CREATE INDEX "contact_messages_status_created_at_idx" ON "contact_messages"("status", "created_at");
CREATE INDEX "conversations_client_id_idx" ON "conversations"("client_id");
CREATE INDEX "conversations_last_message_at_idx" ON "conversations"("last_message_at");
CREATE INDEX "conversations_professional_id_idx" ON "conversations"("professional_id");
CREATE INDEX "email_verification_tokens_expires_at_idx" ON "email_verification_tokens"("expires_at");
CREATE INDEX "email_verification_tokens_user_id_idx" ON "email_verification_tokens"("user_id");
CREATE INDEX "favorites_created_at_idx" ON "favorites"("created_at");
CREATE INDEX "favorites_professional_id_idx" ON "favorites"("professional_id");
CREATE INDEX "favorites_service_id_idx" ON "favorites"("service_id");
CREATE INDEX "feedbacks_job_id_idx" ON "feedbacks"("job_id");
CREATE INDEX "feedbacks_service_id_idx" ON "feedbacks"("service_id");
CREATE INDEX "feedbacks_to_user_id_idx" ON "feedbacks"("to_user_id");
CREATE INDEX "feedbacks_to_user_id_to_user_role_idx" ON "feedbacks"("to_user_id", "to_user_role");
CREATE INDEX "job_milestones_due_date_idx" ON "job_milestones"("due_date");
CREATE INDEX "job_milestones_job_id_idx" ON "job_milestones"("job_id");
CREATE INDEX "job_status_updates_created_at_idx" ON "job_status_updates"("created_at");
CREATE INDEX "job_status_updates_job_id_idx" ON "job_status_updates"("job_id");
CREATE INDEX "job_status_updates_updated_by_user_id_idx" ON "job_status_updates"("updated_by_user_id");
CREATE INDEX "jobs_client_id_idx" ON "jobs"("client_id");
CREATE INDEX "jobs_professional_id_idx" ON "jobs"("professional_id");
CREATE INDEX "jobs_status_idx" ON "jobs"("status");
CREATE INDEX "match_reviews_reviewed_user_id_idx" ON "match_reviews"("reviewed_user_id");
CREATE INDEX "match_reviews_reviewer_id_idx" ON "match_reviews"("reviewer_id");
CREATE INDEX "matches_client_id_idx" ON "matches"("client_id");
CREATE INDEX "matches_professional_id_idx" ON "matches"("professional_id");
CREATE INDEX "matches_service_id_idx" ON "matches"("service_id");
CREATE INDEX "matches_status_idx" ON "matches"("status");
CREATE INDEX "notifications_user_id_idx" ON "notifications"("user_id");
CREATE INDEX "notifications_user_id_created_at_idx" ON "notifications"("user_id", "created_at");
CREATE INDEX "notifications_user_id_read_idx" ON "notifications"("user_id", "read");
CREATE INDEX "password_history_user_id_idx" ON "password_history"("user_id");
CREATE INDEX "password_history_user_id_created_at_idx" ON "password_history"("user_id", "created_at");
CREATE INDEX "password_reset_tokens_expires_at_idx" ON "password_reset_tokens"("expires_at");
CREATE INDEX "password_reset_tokens_user_id_idx" ON "password_reset_tokens"("user_id");
CREATE INDEX "payment_preferences_external_reference_idx" ON "payment_preferences"("external_reference");
CREATE INDEX "payment_preferences_job_id_idx" ON "payment_preferences"("job_id");
CREATE INDEX "payment_preferences_professional_id_idx" ON "payment_preferences"("professional_id");
CREATE INDEX "payment_preferences_service_id_idx" ON "payment_preferences"("service_id");
CREATE INDEX "payment_preferences_user_id_idx" ON "payment_preferences"("user_id");
CREATE INDEX "payments_created_at_idx" ON "payments"("created_at");
CREATE INDEX "payments_external_reference_idx" ON "payments"("external_reference");
CREATE INDEX "payments_job_id_idx" ON "payments"("job_id");
CREATE INDEX "payments_professional_id_idx" ON "payments"("professional_id");
CREATE INDEX "payments_service_id_idx" ON "payments"("service_id");
CREATE INDEX "payments_status_idx" ON "payments"("status");
CREATE INDEX "payments_user_id_idx" ON "payments"("user_id");
CREATE INDEX "phone_reveals_expires_at_idx" ON "phone_reveals"("expires_at");
CREATE INDEX "phone_reveals_match_id_idx" ON "phone_reveals"("match_id");
CREATE INDEX "phone_reveals_service_match_id_idx" ON "phone_reveals"("service_match_id");
CREATE INDEX "phone_reveals_user_id_idx" ON "phone_reveals"("user_id");
CREATE INDEX "portfolio_items_user_id_idx" ON "portfolio_items"("user_id");
CREATE INDEX "portfolio_items_user_id_display_order_idx" ON "portfolio_items"("user_id", "display_order");
CREATE INDEX "professional_profiles_availability_status_idx" ON "professional_profiles"("availability_status");
CREATE INDEX "professional_profiles_rating_idx" ON "professional_profiles"("rating");
CREATE INDEX "projects_category_id_idx" ON "projects"("category_id");
CREATE INDEX "projects_client_id_idx" ON "projects"("client_id");
CREATE INDEX "projects_created_at_idx" ON "projects"("created_at");
CREATE INDEX "projects_location_idx" ON "projects"("location");
CREATE INDEX "projects_status_idx" ON "projects"("status");
CREATE INDEX "proposals_parent_proposal_id_idx" ON "proposals"("parent_proposal_id");
CREATE INDEX "proposals_professional_id_idx" ON "proposals"("professional_id");
CREATE INDEX "proposals_project_id_idx" ON "proposals"("project_id");
CREATE INDEX "proposals_project_id_status_idx" ON "proposals"("project_id", "status");
CREATE INDEX "proposals_status_idx" ON "proposals"("status");
CREATE INDEX "review_flags_flagger_id_idx" ON "review_flags"("flagger_id");
CREATE INDEX "review_flags_resolved_by_idx" ON "review_flags"("resolved_by");
CREATE INDEX "review_helpful_votes_user_id_idx" ON "review_helpful_votes"("user_id");
CREATE INDEX "review_templates_category_active_idx" ON "review_templates"("category", "active");
CREATE INDEX "reviews_job_id_idx" ON "reviews"("job_id");
CREATE INDEX "reviews_moderated_by_idx" ON "reviews"("moderated_by");
CREATE INDEX "reviews_moderation_status_idx" ON "reviews"("moderation_status");
CREATE INDEX "reviews_professional_id_idx" ON "reviews"("professional_id");
CREATE INDEX "reviews_professional_id_created_at_idx" ON "reviews"("professional_id", "created_at");
CREATE INDEX "reviews_reviewer_id_idx" ON "reviews"("reviewer_id");
CREATE INDEX "reviews_service_id_idx" ON "reviews"("service_id");
CREATE INDEX "service_matches_client_id_idx" ON "service_matches"("client_id");
CREATE INDEX "service_matches_professional_id_idx" ON "service_matches"("professional_id");
CREATE INDEX "service_matches_service_id_idx" ON "service_matches"("service_id");
CREATE INDEX "service_matches_status_idx" ON "service_matches"("status");
CREATE INDEX "service_requests_client_id_idx" ON "service_requests"("client_id");
CREATE INDEX "service_requests_professional_id_idx" ON "service_requests"("professional_id");
CREATE INDEX "service_requests_professional_id_status_idx" ON "service_requests"("professional_id", "status");
CREATE INDEX "service_requests_service_id_idx" ON "service_requests"("service_id");
CREATE INDEX "service_requests_status_idx" ON "service_requests"("status");
CREATE INDEX "service_views_service_id_idx" ON "service_views"("service_id");
CREATE INDEX "service_views_service_id_viewed_at_idx" ON "service_views"("service_id", "viewed_at");
CREATE INDEX "service_views_viewed_at_idx" ON "service_views"("viewed_at");
CREATE INDEX "service_views_viewer_id_idx" ON "service_views"("viewer_id");
CREATE INDEX "services_active_featured_idx" ON "services"("active", "featured");
CREATE INDEX "services_category_id_idx" ON "services"("category_id");
CREATE INDEX "services_created_at_idx" ON "services"("created_at");
CREATE INDEX "services_price_idx" ON "services"("price");
CREATE INDEX "services_professional_id_idx" ON "services"("professional_id");
CREATE INDEX "subcategories_slug_idx" ON "subcategories"("slug");
CREATE INDEX "trust_scores_overall_score_idx" ON "trust_scores"("overall_score");
CREATE INDEX "user_activity_action_idx" ON "user_activity"("action");
CREATE INDEX "user_activity_resource_type_resource_id_idx" ON "user_activity"("resource_type", "resource_id");
CREATE INDEX "user_activity_user_id_idx" ON "user_activity"("user_id");
CREATE INDEX "user_activity_user_id_created_at_idx" ON "user_activity"("user_id", "created_at");
CREATE INDEX "user_sessions_expires_at_idx" ON "user_sessions"("expires_at");
CREATE INDEX "user_sessions_refresh_token_idx" ON "user_sessions"("refresh_token");
CREATE INDEX "user_sessions_user_id_idx" ON "user_sessions"("user_id");
CREATE INDEX "users_created_at_idx" ON "users"("created_at");
CREATE INDEX "users_deleted_at_idx" ON "users"("deleted_at");
CREATE INDEX "users_is_professional_active_idx" ON "users"("is_professional_active");
CREATE INDEX "users_user_type_idx" ON "users"("user_type");
CREATE INDEX "verification_requests_reviewed_by_idx" ON "verification_requests"("reviewed_by");
CREATE INDEX "verification_requests_status_idx" ON "verification_requests"("status");
CREATE INDEX "verification_requests_user_id_idx" ON "verification_requests"("user_id");
CREATE INDEX "verification_requests_verification_type_idx" ON "verification_requests"("verification_type");

ALTER TABLE "contact_interactions" ADD CONSTRAINT "contact_interactions_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "contact_interactions" ADD CONSTRAINT "contact_interactions_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "contact_interactions" ADD CONSTRAINT "contact_interactions_project_id_fkey"
    FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "contact_interactions" ADD CONSTRAINT "contact_interactions_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "conversations" ADD CONSTRAINT "conversations_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "conversations" ADD CONSTRAINT "conversations_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "conversations" ADD CONSTRAINT "conversations_project_id_fkey"
    FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "email_verification_tokens" ADD CONSTRAINT "email_verification_tokens_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "favorites" ADD CONSTRAINT "favorites_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "favorites" ADD CONSTRAINT "favorites_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "favorites" ADD CONSTRAINT "favorites_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "feedbacks" ADD CONSTRAINT "feedbacks_from_user_id_fkey"
    FOREIGN KEY ("from_user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "feedbacks" ADD CONSTRAINT "feedbacks_job_id_fkey"
    FOREIGN KEY ("job_id") REFERENCES "jobs"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "feedbacks" ADD CONSTRAINT "feedbacks_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "feedbacks" ADD CONSTRAINT "feedbacks_to_user_id_fkey"
    FOREIGN KEY ("to_user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "job_milestones" ADD CONSTRAINT "job_milestones_job_id_fkey"
    FOREIGN KEY ("job_id") REFERENCES "jobs"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "job_status_updates" ADD CONSTRAINT "job_status_updates_job_id_fkey"
    FOREIGN KEY ("job_id") REFERENCES "jobs"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "job_status_updates" ADD CONSTRAINT "job_status_updates_updated_by_user_id_fkey"
    FOREIGN KEY ("updated_by_user_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_project_id_fkey"
    FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_proposal_id_fkey"
    FOREIGN KEY ("proposal_id") REFERENCES "proposals"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "match_reviews" ADD CONSTRAINT "match_reviews_match_id_fkey"
    FOREIGN KEY ("match_id") REFERENCES "matches"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "match_reviews" ADD CONSTRAINT "match_reviews_reviewed_user_id_fkey"
    FOREIGN KEY ("reviewed_user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "match_reviews" ADD CONSTRAINT "match_reviews_reviewer_id_fkey"
    FOREIGN KEY ("reviewer_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "match_reviews" ADD CONSTRAINT "match_reviews_service_match_id_fkey"
    FOREIGN KEY ("service_match_id") REFERENCES "service_matches"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "matches" ADD CONSTRAINT "matches_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "matches" ADD CONSTRAINT "matches_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "matches" ADD CONSTRAINT "matches_proposal_id_fkey"
    FOREIGN KEY ("proposal_id") REFERENCES "proposals"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "matches" ADD CONSTRAINT "matches_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "notifications" ADD CONSTRAINT "notifications_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "password_history" ADD CONSTRAINT "password_history_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "password_reset_tokens" ADD CONSTRAINT "password_reset_tokens_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "payment_preferences" ADD CONSTRAINT "payment_preferences_job_id_fkey"
    FOREIGN KEY ("job_id") REFERENCES "jobs"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "payment_preferences" ADD CONSTRAINT "payment_preferences_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "payment_preferences" ADD CONSTRAINT "payment_preferences_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "payment_preferences" ADD CONSTRAINT "payment_preferences_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "payments" ADD CONSTRAINT "payments_job_id_fkey"
    FOREIGN KEY ("job_id") REFERENCES "jobs"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "payments" ADD CONSTRAINT "payments_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "payments" ADD CONSTRAINT "payments_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "payments" ADD CONSTRAINT "payments_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "phone_reveals" ADD CONSTRAINT "phone_reveals_match_id_fkey"
    FOREIGN KEY ("match_id") REFERENCES "matches"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "phone_reveals" ADD CONSTRAINT "phone_reveals_service_match_id_fkey"
    FOREIGN KEY ("service_match_id") REFERENCES "service_matches"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "phone_reveals" ADD CONSTRAINT "phone_reveals_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "portfolio_items" ADD CONSTRAINT "portfolio_items_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "professional_profiles" ADD CONSTRAINT "professional_profiles_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "projects" ADD CONSTRAINT "projects_category_id_fkey"
    FOREIGN KEY ("category_id") REFERENCES "categories"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "projects" ADD CONSTRAINT "projects_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "proposals" ADD CONSTRAINT "proposals_parent_proposal_id_fkey"
    FOREIGN KEY ("parent_proposal_id") REFERENCES "proposals"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "proposals" ADD CONSTRAINT "proposals_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "proposals" ADD CONSTRAINT "proposals_project_id_fkey"
    FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "review_flags" ADD CONSTRAINT "review_flags_flagger_id_fkey"
    FOREIGN KEY ("flagger_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "review_flags" ADD CONSTRAINT "review_flags_resolved_by_fkey"
    FOREIGN KEY ("resolved_by") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "review_flags" ADD CONSTRAINT "review_flags_review_id_fkey"
    FOREIGN KEY ("review_id") REFERENCES "reviews"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "review_helpful_votes" ADD CONSTRAINT "review_helpful_votes_review_id_fkey"
    FOREIGN KEY ("review_id") REFERENCES "reviews"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "review_helpful_votes" ADD CONSTRAINT "review_helpful_votes_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "reviews" ADD CONSTRAINT "reviews_job_id_fkey"
    FOREIGN KEY ("job_id") REFERENCES "jobs"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "reviews" ADD CONSTRAINT "reviews_moderated_by_fkey"
    FOREIGN KEY ("moderated_by") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "reviews" ADD CONSTRAINT "reviews_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "reviews" ADD CONSTRAINT "reviews_reviewer_id_fkey"
    FOREIGN KEY ("reviewer_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "reviews" ADD CONSTRAINT "reviews_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "role_trust_scores" ADD CONSTRAINT "role_trust_scores_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "service_matches" ADD CONSTRAINT "service_matches_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "service_matches" ADD CONSTRAINT "service_matches_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "service_matches" ADD CONSTRAINT "service_matches_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "service_matches" ADD CONSTRAINT "service_matches_service_request_id_fkey"
    FOREIGN KEY ("service_request_id") REFERENCES "service_requests"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "service_requests" ADD CONSTRAINT "service_requests_client_id_fkey"
    FOREIGN KEY ("client_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "service_requests" ADD CONSTRAINT "service_requests_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "service_requests" ADD CONSTRAINT "service_requests_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "service_views" ADD CONSTRAINT "service_views_service_id_fkey"
    FOREIGN KEY ("service_id") REFERENCES "services"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "service_views" ADD CONSTRAINT "service_views_viewer_id_fkey"
    FOREIGN KEY ("viewer_id") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "services" ADD CONSTRAINT "services_category_id_fkey"
    FOREIGN KEY ("category_id") REFERENCES "categories"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "services" ADD CONSTRAINT "services_professional_id_fkey"
    FOREIGN KEY ("professional_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "subcategories" ADD CONSTRAINT "subcategories_category_id_fkey"
    FOREIGN KEY ("category_id") REFERENCES "categories"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "trust_scores" ADD CONSTRAINT "trust_scores_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "user_activity" ADD CONSTRAINT "user_activity_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
ALTER TABLE "user_sessions" ADD CONSTRAINT "user_sessions_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE "verification_requests" ADD CONSTRAINT "verification_requests_reviewed_by_fkey"
    FOREIGN KEY ("reviewed_by") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
ALTER TABLE "verification_requests" ADD CONSTRAINT "verification_requests_user_id_fkey"
    FOREIGN KEY ("user_id") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;

INSERT INTO "_prisma_migrations"
    ("id", "checksum", "finished_at", "migration_name", "started_at", "applied_steps_count")
VALUES
    ('3f1f4a56-7d0e-4a6f-9a53-0b8e5b8f6a01', '8d1c7e0b0a1f4cbb8a5d0c7f6f1f5a0d2a5b3c9e4d7f8a6b1c2d3e4f5a6b7c8d', '2024-08-02 11:20:31.482917+00',
     '20240802112005_init', '2024-08-02 11:20:30.911204+00', 1),
    ('a1a5b1de-5b2e-4d0c-8c86-9f1f5b9d7c02', '1b9f0c3d2e5a4f6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b', '2024-11-19 09:02:44.100351+00',
     '20241119090212_match_system', '2024-11-19 09:02:43.687415+00', 1),
    ('5c0de3f2-90ab-4f6e-b1d7-2e4c6a8b0d03', '7e6d5c4b3a2f1e0d9c8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e2d1c0b9a8f7e6d', NULL,
     '20250307154100_dual_users', '2025-03-07 15:41:02.250000+00', 0),
    ('b7e2c9d4-1f3a-4b5c-8d6e-7f8091a2b304', '7e6d5c4b3a2f1e0d9c8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e2d1c0b9a8f7e6d', '2025-03-07 16:05:10.774211+00',
     '20250307154100_dual_users', '2025-03-07 16:05:09.990128+00', 1);
UPDATE "_prisma_migrations"
SET "rolled_back_at" = '2025-03-07 16:01:33.018244+00',
    "logs" = E'A migration failed to apply.\n\nDatabase error code: 55P04\n\tunsafe use of new value "dual" of enum type "UserType"'
WHERE "finished_at" IS NULL;
