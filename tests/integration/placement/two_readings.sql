CREATE SCHEMA "Ext";
CREATE EXTENSION citext SCHEMA "Ext";
CREATE TYPE "Kind" AS ENUM ('pro', 'client', 'Odd one');
CREATE DOMAIN "Flag" AS boolean;
CREATE TABLE "Role" (no numeric PRIMARY KEY, name text, label "Kind");
CREATE TABLE "Tag" (tag "Ext".citext PRIMARY KEY, name text);
CREATE TABLE "User" (
    id bigint PRIMARY KEY,
    kind "Kind", "group" text, active boolean, flag "Flag", level integer, code char(3), address inet, "50%" text,
    tag "Ext".citext, "roleNo" numeric,
    tenant integer NOT NULL, "No" numeric NOT NULL, ready boolean NOT NULL,
    handle "Ext".citext UNIQUE, pad char(4) UNIQUE, net inet UNIQUE, weight double precision UNIQUE,
    UNIQUE (tenant, "No", ready)
);
CREATE TABLE "order" (
    id bigint PRIMARY KEY,
    "userId" integer REFERENCES "User",
    "ownTenant" integer, "ownNo" numeric, "ownReady" boolean,
    FOREIGN KEY ("ownTenant", "ownNo", "ownReady") REFERENCES "User" (tenant, "No", ready),
    handle "Ext".citext, pad text, net inet, weight double precision
);
CREATE TABLE "line%item" (id bigint PRIMARY KEY, "order" bigint REFERENCES "order", "user%" bigint, value text);
CREATE TABLE t (id bigint PRIMARY KEY, line bigint REFERENCES "line%item", "order" bigint, a text);
