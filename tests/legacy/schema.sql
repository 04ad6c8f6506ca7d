-- The tables of the platform's old database that `turnkey adopt` reads, as Prisma created them. Times are in UTC.
CREATE TYPE "BookingType" AS ENUM ('DATE', 'TIMESLOT');

CREATE TABLE "Tenant" (
    "id" text PRIMARY KEY,
    "slug" text NOT NULL UNIQUE,
    "name" text NOT NULL,
    "email" text UNIQUE,
    "passwordHash" text,
    "apiKeyPublic" text NOT NULL UNIQUE,
    "apiKeySecret" text NOT NULL,
    "commissionPercent" numeric(5, 2) NOT NULL DEFAULT 10.0,
    "branding" jsonb NOT NULL DEFAULT '{}',
    "emailVerified" boolean NOT NULL DEFAULT false,
    "isActive" boolean NOT NULL DEFAULT true,
    "is_test_tenant" boolean NOT NULL DEFAULT false,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL
);

CREATE TABLE "Segment" (
    "id" text PRIMARY KEY,
    "tenantId" text NOT NULL REFERENCES "Tenant" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    "slug" text NOT NULL,
    "name" text NOT NULL,
    "heroTitle" text NOT NULL,
    "description" text,
    "sortOrder" integer NOT NULL DEFAULT 0,
    "active" boolean NOT NULL DEFAULT true,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    UNIQUE ("tenantId", "slug")
);

CREATE TABLE "Package" (
    "id" text PRIMARY KEY,
    "tenantId" text NOT NULL REFERENCES "Tenant" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    "slug" text NOT NULL,
    "name" text NOT NULL,
    "description" text,
    "basePrice" integer NOT NULL,
    "active" boolean NOT NULL DEFAULT true,
    "segmentId" text REFERENCES "Segment" ("id") ON DELETE SET NULL ON UPDATE CASCADE,
    "groupingOrder" integer,
    "bookingType" "BookingType" NOT NULL DEFAULT 'DATE',
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    UNIQUE ("tenantId", "slug")
);
