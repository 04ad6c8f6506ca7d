-- The first tables: a tenant, what makes it bookable, and the rules that make an orphan impossible to commit.
--
-- Nothing cascades: whoever removes a tenant names every table. Slugs and key ids compare by bytes (COLLATE "C"): they
-- are ASCII, so that is their alphabetical order, and a prefix can use the index. No column has a business default:
-- those are in the service, in one place.

CREATE TABLE tenants (
    id                 uuid          NOT NULL CONSTRAINT tenants_pkey PRIMARY KEY,
    slug               text COLLATE "C" NOT NULL CONSTRAINT tenants_slug_key UNIQUE,
    name               text          NOT NULL,
    commission_percent numeric(5, 2) NOT NULL,
    branding           jsonb         NOT NULL,
    is_active          boolean       NOT NULL,
    created_at         timestamptz   NOT NULL,
    updated_at         timestamptz   NOT NULL,
    deleted_at         timestamptz,
    -- True for tenants created by CreateFromSignup: a missing owner is damage for these, and normal for the others.
    is_signup          boolean       NOT NULL DEFAULT false,
    CONSTRAINT tenants_slug_format CHECK (length(slug) BETWEEN 3 AND 63 AND slug ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'),
    CONSTRAINT tenants_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT tenants_commission_percent_range CHECK (commission_percent BETWEEN 0 AND 100),
    CONSTRAINT tenants_branding_object CHECK (jsonb_typeof(branding) = 'object')
);
-- ListTenants pages by creation; purge looks for tenants by the time of their deletion.
CREATE INDEX tenants_created_at_id_idx ON tenants (created_at, id);
CREATE INDEX tenants_deleted_at_idx ON tenants (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE segments (
    tenant_id   uuid        NOT NULL CONSTRAINT segments_tenant_id_fkey REFERENCES tenants (id),
    id          uuid        NOT NULL,
    slug        text COLLATE "C" NOT NULL,
    name        text        NOT NULL,
    hero_title  text        NOT NULL,
    description text        NOT NULL,
    sort_order  integer     NOT NULL,
    active      boolean     NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    CONSTRAINT segments_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT segments_slug_key UNIQUE (tenant_id, slug),
    CONSTRAINT segments_slug_format CHECK (length(slug) BETWEEN 3 AND 63 AND slug ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'),
    CONSTRAINT segments_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT segments_hero_title_length CHECK (length(hero_title) BETWEEN 1 AND 200),
    CONSTRAINT segments_description_length CHECK (length(description) <= 2000)
);

-- The key to segments holds the tenant too: a package in another tenant's segment has no row to point at. That the
-- tenant exists follows from the segment.
CREATE TABLE packages (
    tenant_id      uuid        NOT NULL,
    id             uuid        NOT NULL,
    segment_id     uuid        NOT NULL,
    slug           text COLLATE "C" NOT NULL,
    name           text        NOT NULL,
    description    text        NOT NULL,
    base_price     bigint      NOT NULL,
    booking_type   text        NOT NULL,
    grouping_order integer     NOT NULL,
    active         boolean     NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    CONSTRAINT packages_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT packages_segment_id_fkey FOREIGN KEY (tenant_id, segment_id) REFERENCES segments (tenant_id, id),
    CONSTRAINT packages_slug_key UNIQUE (tenant_id, slug),
    CONSTRAINT packages_slug_format CHECK (length(slug) BETWEEN 3 AND 63 AND slug ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'),
    CONSTRAINT packages_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT packages_description_length CHECK (length(description) <= 2000),
    CONSTRAINT packages_base_price_range CHECK (base_price BETWEEN 0 AND 1000000000000),
    CONSTRAINT packages_booking_type_known CHECK (booking_type IN ('DATE', 'TIMESLOT'))
);

CREATE TABLE api_keys (
    key_id      text COLLATE "C" NOT NULL CONSTRAINT api_keys_pkey PRIMARY KEY,
    tenant_id   uuid        NOT NULL CONSTRAINT api_keys_tenant_id_fkey REFERENCES tenants (id),
    public_key  text        NOT NULL,
    secret_hash text        NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    CONSTRAINT api_keys_key_id_format CHECK (key_id ~ '^[0-9A-Za-z]{16}$'),
    CONSTRAINT api_keys_public_key_matches_key_id CHECK (right(public_key, 17) = '_' || key_id),
    CONSTRAINT api_keys_secret_hash_is_argon2id CHECK (starts_with(secret_hash, '$argon2id$'))
);
CREATE INDEX api_keys_tenant_id_idx ON api_keys (tenant_id);

CREATE TABLE owners (
    tenant_id     uuid NOT NULL CONSTRAINT owners_pkey PRIMARY KEY
                  CONSTRAINT owners_tenant_id_fkey REFERENCES tenants (id),
    email         text NOT NULL,
    password_hash text NOT NULL,
    CONSTRAINT owners_password_hash_is_argon2id CHECK (starts_with(password_hash, '$argon2id$'))
);
-- COLLATE "C", because lower() otherwise depends on the database's locale (in a Turkish one, even for an ASCII I).
-- The service stores letters beyond ASCII in lower case.
CREATE UNIQUE INDEX owners_email_key ON owners (lower(email COLLATE "C"));

-- TEXT-IDEMPOTENCY
CREATE TABLE idempotency_records (
    caller       text        NOT NULL,
    rpc          text        NOT NULL,
    request_hash bytea       NOT NULL,
    fingerprint  bytea       NOT NULL,
    salt         bytea,
    -- What the call made. The key is no foreign key: whoever deletes one by hand need not know of this table.
    tenant_id    uuid        NOT NULL CONSTRAINT idempotency_records_tenant_id_fkey
                             REFERENCES tenants (id) ON DELETE CASCADE,
    key_id       text COLLATE "C" NOT NULL,
    -- Of a call that made a tenant.
    segment_id   uuid,
    package_ids  uuid[],
    created_at   timestamptz NOT NULL,
    CONSTRAINT idempotency_records_pkey PRIMARY KEY (request_hash, caller, rpc),
    CONSTRAINT idempotency_records_hash_lengths CHECK (length(request_hash) = 32 AND length(fingerprint) = 32),
    CONSTRAINT idempotency_records_salt_length CHECK (length(salt) = 32)
);
CREATE INDEX idempotency_records_tenant_id_idx ON idempotency_records (tenant_id);
-- Each claim is in one of these two: those that have a salt to lose, and those that have only themselves.
CREATE INDEX idempotency_records_salted_idx ON idempotency_records (created_at) WHERE salt IS NOT NULL;
CREATE INDEX idempotency_records_unsalted_idx ON idempotency_records (created_at) WHERE salt IS NULL;

-- Orphans are refused at COMMIT, whoever makes them.
--
-- SECURITY DEFINER, because it looks at tables that the role at work may have no right on, and past row-level security.
-- Whoever takes something away first writes to the tenant's row: two transactions that each remove one of the last two
-- packages take turns there, and the later one sees that it would leave none (READ COMMITTED) or fails with a
-- serialization error (REPEATABLE READ, where a mere lock would let it look at its old snapshot).
CREATE FUNCTION refuse_orphaned_tenant() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    checked_id  uuid;
    has_general boolean;
    has_package boolean;
    has_key     boolean;
BEGIN
    IF TG_TABLE_NAME = 'tenants' THEN
        checked_id := NEW.id;
    ELSE
        checked_id := OLD.tenant_id;
        UPDATE public.tenants SET updated_at = updated_at WHERE id = checked_id;
        IF NOT FOUND THEN
            RETURN NULL; -- the tenant goes with its parts
        END IF;
    END IF;
    SELECT EXISTS (SELECT FROM public.segments WHERE tenant_id = checked_id AND slug = 'general'),
           EXISTS (SELECT FROM public.packages WHERE tenant_id = checked_id),
           EXISTS (SELECT FROM public.api_keys WHERE tenant_id = checked_id)
      INTO has_general, has_package, has_key;
    IF (has_general AND has_package AND has_key) OR NOT EXISTS (SELECT FROM public.tenants WHERE id = checked_id) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        SCHEMA = 'public',
        TABLE = 'tenants',
        CONSTRAINT = 'tenant_fully_provisioned',
        MESSAGE = format('tenant %s would be an orphan', checked_id),
        DETAIL = 'It has no ' || concat_ws(', no ',
            CASE WHEN NOT has_general THEN 'General segment' END,
            CASE WHEN NOT has_package THEN 'package' END,
            CASE WHEN NOT has_key THEN 'API key' END) || '.',
        HINT = 'A tenant, its General segment, a package and an API key stand or fall together, in one transaction.';
END
$$;

CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
    AFTER INSERT OR UPDATE OF id ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_orphaned_tenant();
CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
    AFTER DELETE OR UPDATE OF tenant_id, slug ON segments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.slug = 'general') EXECUTE FUNCTION refuse_orphaned_tenant();
CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
    AFTER DELETE OR UPDATE OF tenant_id ON packages
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_orphaned_tenant();
CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
    AFTER DELETE OR UPDATE OF tenant_id ON api_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_orphaned_tenant();

-- TRUNCATE fires no row triggers and cannot be deferred: it is fine only where no tenant stays behind.
CREATE FUNCTION refuse_truncate_with_tenants() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM public.tenants) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            SCHEMA = 'public',
            TABLE = 'tenants',
            CONSTRAINT = 'tenant_fully_provisioned',
            MESSAGE = format('truncating %I would orphan every tenant', TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER tenant_fully_provisioned_truncate AFTER TRUNCATE ON segments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate_with_tenants();
CREATE TRIGGER tenant_fully_provisioned_truncate AFTER TRUNCATE ON packages
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate_with_tenants();
CREATE TRIGGER tenant_fully_provisioned_truncate AFTER TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate_with_tenants();

REVOKE EXECUTE ON FUNCTION refuse_orphaned_tenant(), refuse_truncate_with_tenants() FROM PUBLIC;

-- Who may do what. The service logs in as a member of turnkey_provisioner, which sees all tenants; a catalog call works
-- as turnkey_catalog, which sees the rows of the tenant named by `turnkey.tenant_id` and none where that is not set
-- (a setting once made in a session reads '' afterwards, not NULL). The owner of the tables is neither, and is not
-- held by row-level security: the triggers above must see everything.
GRANT SELECT, INSERT, UPDATE, DELETE ON tenants, segments, packages, api_keys, owners, idempotency_records
    TO turnkey_provisioner;
GRANT SELECT, INSERT, UPDATE, DELETE ON segments, packages TO turnkey_catalog;
GRANT SELECT (id, deleted_at) ON tenants TO turnkey_catalog;

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE segments ENABLE ROW LEVEL SECURITY;
ALTER TABLE packages ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_tenants ON tenants TO turnkey_provisioner USING (true);
CREATE POLICY all_tenants ON segments TO turnkey_provisioner USING (true);
CREATE POLICY all_tenants ON packages TO turnkey_provisioner USING (true);
CREATE POLICY one_tenant ON tenants TO turnkey_catalog
    USING (id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
CREATE POLICY one_tenant ON segments TO turnkey_catalog
    USING (tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
CREATE POLICY one_tenant ON packages TO turnkey_catalog
    USING (tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
