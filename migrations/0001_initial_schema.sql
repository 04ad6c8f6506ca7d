-- The initial schema: tenants and their segments, packages, API keys and owners; idempotency records; attempts to enter
-- a password; events; the triggers that reject an incomplete tenant at COMMIT; the grants and row-level security of the
-- service's roles. The roles themselves are created before the migrations run (src/store/roles.sql).
--
-- Deletes do not cascade, except to idempotency records and usage counters: a transaction that deletes a tenant has to
-- name every other table, so no tenant is deleted by accident. Slugs and key ids use COLLATE "C": they are ASCII, so
-- byte order is alphabetical order, and a search by prefix can use the index. No column has a business default, except
-- the scope of a key; the defaults of a new tenant are in src/domain/defaults.rs.

-- An enum is four bytes wide. On an empty table, Postgres assumes 32 for a text, and for a wider row of packages it
-- would plan a slug's lookup by any index that begins with the tenant.
CREATE TYPE booking_type AS ENUM ('DATE', 'TIMESLOT');

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
    -- True for tenants created by CreateFromSignup or adopted with an owner: for these, a missing owner is damage. A
    -- repair that finds the owner lost clears it, because the address is lost too. SetOwner can give the tenant an
    -- owner again.
    is_signup          boolean       NOT NULL DEFAULT false,
    -- A trigger renews it whenever a column of the resource changes. NULL until then.
    revision           uuid,
    external_id        text COLLATE "C", -- the id that another system knows the tenant by
    labels             jsonb         NOT NULL DEFAULT '{}',
    -- About the memory that the branding takes as a message: its text, and 100 bytes for each JSON value. Commas and
    -- opening brackets are at least as many as the values. ListTenants limits its pages by it.
    branding_bytes     integer       NOT NULL GENERATED ALWAYS AS
                       (octet_length(branding::text)
                        + 100 * (length(branding::text) - length(translate(branding::text, ',[{', '')))) STORED,
    CONSTRAINT tenants_slug_format CHECK (length(slug) BETWEEN 3 AND 63 AND slug ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'),
    CONSTRAINT tenants_external_id_length CHECK (length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT tenants_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT tenants_commission_percent_range CHECK (commission_percent BETWEEN 0 AND 100),
    CONSTRAINT tenants_branding_object CHECK (jsonb_typeof(branding) = 'object'),
    -- The service stores at most 64 KiB, to which jsonb adds spaces. This bounds what others can store.
    CONSTRAINT tenants_branding_length CHECK (octet_length(branding::text) <= 131072),
    -- An object of at most 50 texts, as the service stores it (src/domain/labels.rs). The length of the whole bounds
    -- those of keys and values, which others can store longer.
    CONSTRAINT tenants_labels_valid CHECK (labels = '{}' OR (
        jsonb_typeof(labels) = 'object'
        AND NOT jsonb_path_exists(labels, '$.* ? (@.type() <> "string")')
        AND jsonb_array_length(jsonb_path_query_array(labels, '$.keyvalue()')) <= 50
        AND octet_length(labels::text) <= 65536))
);
-- Partial, so that a tenant without an external id has no entry. As those of segments and packages.
CREATE UNIQUE INDEX tenants_external_id_key ON tenants (external_id) WHERE external_id IS NOT NULL;
-- ListTenants reads each state (deleted or not, active or not) as one range of an index, and merges the ranges
-- (docs/adr/0015-lists-read-index-ranges.md). A new tenant has an entry in one index of each pair.
CREATE INDEX tenants_live_created_at_idx ON tenants (is_active, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tenants_deleted_created_at_idx ON tenants (is_active, created_at, id) WHERE deleted_at IS NOT NULL;
CREATE INDEX tenants_live_slug_idx ON tenants (is_active, slug) WHERE deleted_at IS NULL;
CREATE INDEX tenants_deleted_slug_idx ON tenants (is_active, slug) WHERE deleted_at IS NOT NULL;
-- A deleted tenant leaves dead entries, which lists step over until VACUUM removes them. By default it runs when a
-- fifth of the rows have changed.
ALTER TABLE tenants SET (autovacuum_vacuum_scale_factor = 0.02);
-- Purge selects tenants by deletion time.
CREATE INDEX tenants_deleted_at_idx ON tenants (deleted_at) WHERE deleted_at IS NOT NULL;

-- The labels of tenants as rows: ListTenants reads the tenants with a label as ranges of an index, one for each state,
-- as it does without labels. Triggers on tenants write and delete them, and nothing else does, so there is no foreign
-- key. The columns besides key and value are the tenant's.
CREATE TABLE tenant_labels (
    tenant_id  uuid        NOT NULL,
    key        text COLLATE "C" NOT NULL,
    value      text COLLATE "C" NOT NULL,
    is_active  boolean     NOT NULL,
    is_deleted boolean     NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT tenant_labels_pkey PRIMARY KEY (tenant_id, key)
);
CREATE INDEX tenant_labels_created_at_idx ON tenant_labels (key, value, is_deleted, is_active, created_at, tenant_id);
-- As of tenants.
ALTER TABLE tenant_labels SET (autovacuum_vacuum_scale_factor = 0.02);

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
    revision    uuid, -- as that of tenants
    external_id text COLLATE "C",
    -- The number of its packages, as in tenant_usage. NULL in a segment that was inserted in psql: its packages are
    -- counted whenever it is read.
    package_count integer,
    CONSTRAINT segments_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT segments_slug_key UNIQUE (tenant_id, slug),
    CONSTRAINT segments_slug_format CHECK (length(slug) BETWEEN 3 AND 63 AND slug ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'),
    CONSTRAINT segments_external_id_length CHECK (length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT segments_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT segments_hero_title_length CHECK (length(hero_title) BETWEEN 1 AND 200),
    CONSTRAINT segments_description_length CHECK (length(description) <= 2000)
);
CREATE UNIQUE INDEX segments_external_id_key ON segments (tenant_id, external_id) WHERE external_id IS NOT NULL;
-- The integrity check distinguishes a package in another tenant's segment from one in no segment.
CREATE INDEX segments_id_idx ON segments (id);
-- ListSegments; and a new segment without a sort order follows the last one.
CREATE INDEX segments_sort_order_idx ON segments (tenant_id, sort_order, id);

-- The foreign key to segments includes the tenant, so a package cannot be in another tenant's segment. A foreign key to
-- tenants is not needed: the segment has one.
CREATE TABLE packages (
    tenant_id      uuid        NOT NULL,
    id             uuid        NOT NULL,
    segment_id     uuid        NOT NULL,
    slug           text COLLATE "C" NOT NULL,
    name           text        NOT NULL,
    description    text        NOT NULL,
    base_price     bigint      NOT NULL, -- in minor units (cents)
    booking_type   booking_type NOT NULL,
    grouping_order integer     NOT NULL,
    active         boolean     NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    revision       uuid, -- as that of tenants
    external_id    text COLLATE "C",
    CONSTRAINT packages_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT packages_segment_id_fkey FOREIGN KEY (tenant_id, segment_id) REFERENCES segments (tenant_id, id),
    CONSTRAINT packages_slug_key UNIQUE (tenant_id, slug),
    CONSTRAINT packages_slug_format CHECK (length(slug) BETWEEN 3 AND 63 AND slug ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'),
    CONSTRAINT packages_external_id_length CHECK (length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT packages_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT packages_description_length CHECK (length(description) <= 2000),
    CONSTRAINT packages_base_price_range CHECK (base_price BETWEEN 0 AND 1000000000000)
);
CREATE UNIQUE INDEX packages_external_id_key ON packages (tenant_id, external_id) WHERE external_id IS NOT NULL;
-- ListPackages, with and without a segment; and a new package without a grouping order follows the last one. The second
-- index is also that of the foreign key: it finds out whether a segment has packages.
CREATE INDEX packages_grouping_order_idx ON packages (tenant_id, active, grouping_order, id);
CREATE INDEX packages_segment_idx ON packages (tenant_id, segment_id, active, grouping_order, id);

-- The planner expects many rows of each tenant. By the true statistics a tenant has one segment and three packages, and
-- a scan of all of them in any index would seem as cheap as one row by its primary key, also in a tenant that has
-- thousands.
ALTER TABLE segments ALTER tenant_id SET (n_distinct = -0.001);
ALTER TABLE packages ALTER tenant_id SET (n_distinct = -0.001);

-- The secret of a key is stored only as a hash. The public key ends with the key id. Keys in the platform's old form
-- (docs/adr/0021-legacy-keys.md) come only from `turnkey adopt`.
CREATE TABLE api_keys (
    key_id       text COLLATE "C" NOT NULL CONSTRAINT api_keys_pkey PRIMARY KEY,
    tenant_id    uuid        NOT NULL CONSTRAINT api_keys_tenant_id_fkey REFERENCES tenants (id),
    public_key   text        NOT NULL,
    secret_hash  text        NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    name         text,
    -- What the key permits. A key that is inserted without a scope has that of every tenant's first key.
    scope        text        NOT NULL DEFAULT 'CATALOG',
    -- Not exact: it is written at most once an hour (src/service/key_usage.rs).
    last_used_at timestamptz,
    -- When a rotation replaced the key. Such a key verifies until expires_at, but can have no further successor and
    -- does not count towards the quota of usable keys.
    rotated_at   timestamptz,
    CONSTRAINT api_keys_key_id_format CHECK (key_id ~ '^[0-9A-Za-z]{16}$'),
    CONSTRAINT api_keys_public_key_format
        CHECK (CASE WHEN starts_with(secret_hash, 'sha256:') THEN public_key ~ '^pk_live_[a-z0-9-]{1,63}_[0-9a-f]{16}$'
                    ELSE public_key ~ '^pk_(live|test)_[a-z0-9]{1,16}_[0-9A-Za-z]{16}$' END),
    CONSTRAINT api_keys_public_key_matches_key_id CHECK (right(public_key, 17) = '_' || key_id),
    -- Argon2id of the random part, or SHA-256 of a whole old key.
    CONSTRAINT api_keys_secret_hash_format
        CHECK (starts_with(secret_hash, '$argon2id$') OR secret_hash ~ '^sha256:[0-9a-f]{64}$'),
    CONSTRAINT api_keys_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT api_keys_scope_known CHECK (scope IN ('CATALOG', 'CATALOG_READ'))
);
-- An old key is found by its hash: its secret half does not contain the key id.
CREATE UNIQUE INDEX api_keys_legacy_hash_key ON api_keys (secret_hash) WHERE starts_with(secret_hash, 'sha256:');
-- ListApiKeys, newest first. The service keeps few keys of a tenant (src/store/api_keys.rs), so the other queries by
-- tenant read all of them.
CREATE INDEX api_keys_created_at_idx ON api_keys (tenant_id, created_at, key_id);

-- The login of a tenant, from CreateFromSignup or SetOwner.
--
-- An owner has at most one token of each purpose: a new one replaces the older. Only the SHA-256 of a token is stored,
-- and that of a used one is kept until it expires, so that a repeated reset is recognized.
CREATE TABLE owners (
    tenant_id       uuid NOT NULL CONSTRAINT owners_pkey PRIMARY KEY
                    CONSTRAINT owners_tenant_id_fkey REFERENCES tenants (id),
    email           text NOT NULL, -- as it is shown
    -- The form in which addresses are compared: the part before the @ by Unicode case folding, the domain in its ASCII
    -- form (src/domain/email.rs). Postgres has neither function, so the service writes both columns.
    canonical_email text COLLATE "C" NOT NULL CONSTRAINT owners_email_key UNIQUE,
    password_hash   text, -- NULL until the first reset of an owner that has none yet
    email_verified_at             timestamptz,
    reset_token_hash              bytea,
    reset_token_expires_at        timestamptz,
    reset_token_used_at           timestamptz,
    verification_token_hash       bytea,
    verification_token_expires_at timestamptz,
    -- As that of tenants, for the columns that a tenant shows. The owner of a sign-up begins with the tenant's id.
    revision        uuid NOT NULL DEFAULT gen_random_uuid(),
    -- An administrator who changes an address has to change both columns. For ASCII addresses, Postgres can check that.
    CONSTRAINT owners_canonical_email_matches_email
        CHECK (canonical_email = lower(email COLLATE "C") OR octet_length(email) > length(email)),
    -- bcrypt only from `turnkey adopt`, until the owner has logged in.
    CONSTRAINT owners_password_hash_format
        CHECK (starts_with(password_hash, '$argon2id$') OR password_hash ~ '^\$2[aby]\$[01][0-9]\$[./A-Za-z0-9]{53}$'),
    CONSTRAINT owners_token_hash_lengths
        CHECK (length(reset_token_hash) = 32 AND length(verification_token_hash) = 32),
    CONSTRAINT owners_tokens_expire
        CHECK ((reset_token_hash IS NULL) = (reset_token_expires_at IS NULL)
               AND (verification_token_hash IS NULL) = (verification_token_expires_at IS NULL))
);
-- A token is found by its hash.
CREATE UNIQUE INDEX owners_reset_token_hash_idx ON owners (reset_token_hash) WHERE reset_token_hash IS NOT NULL;
CREATE UNIQUE INDEX owners_verification_token_hash_idx ON owners (verification_token_hash)
    WHERE verification_token_hash IS NOT NULL;

-- Attempts to enter a password, for each pair of e-mail address and client address (src/domain/log_in.rs), whether or
-- not an owner has the address. Both are stored as SHA-256 only. An attempt is pending until its password has been
-- compared, so that concurrent attempts cannot exceed the limit. The cleanup deletes rows whose window is over.
CREATE TABLE password_attempts (
    email_hash bytea       NOT NULL,
    pair_hash  bytea       NOT NULL,
    wrong      integer     NOT NULL,
    pending    integer     NOT NULL,
    started_at timestamptz NOT NULL, -- of the window
    -- A minute later, pending attempts no longer count: their ends were lost with a replica or a connection.
    last_attempt_at timestamptz NOT NULL,
    -- By e-mail address first: a reset deletes all pairs of one.
    CONSTRAINT password_attempts_pkey PRIMARY KEY (email_hash, pair_hash),
    CONSTRAINT password_attempts_hash_lengths CHECK (length(email_hash) = 32 AND length(pair_hash) = 32)
);
CREATE INDEX password_attempts_started_at_idx ON password_attempts (started_at);

-- Idempotency records: one for each call with a request_id. A repeated call finds the record and returns what the first
-- call created, instead of creating it again. Records expire after 30 days.
--
-- The request_id itself is not stored, only its SHA-256 (request_hash). A new key's secret is derived from the
-- request_id and the salt, and is not stored either. The salt is deleted after 24 hours; from then on the secret cannot
-- be derived from this database, not even with the request_id. It can be derived from an earlier dump that still
-- contains the salt, together with the request_id. The fingerprint is a SHA-256 of the request's fields without the
-- password: a repeated request_id with another fingerprint is an error.
CREATE TABLE idempotency_records (
    caller       text        NOT NULL,
    rpc          text        NOT NULL,
    request_hash bytea       NOT NULL,
    fingerprint  bytea       NOT NULL,
    salt         bytea,
    -- key_id is not a foreign key, so that an administrator can delete a key without knowing this table. A replay then
    -- has no secret. deleted_key is the key as the service deleted it, because the tenant had too many ended keys.
    tenant_id    uuid        NOT NULL CONSTRAINT idempotency_records_tenant_id_fkey
                             REFERENCES tenants (id) ON DELETE CASCADE,
    key_id       text COLLATE "C" NOT NULL,
    deleted_key  jsonb,
    -- NULL for RotateApiKey and CreateApiKey, which create only a key.
    segment_id   uuid,
    package_ids  uuid[],
    created_at   timestamptz NOT NULL,
    CONSTRAINT idempotency_records_pkey PRIMARY KEY (request_hash, caller, rpc),
    CONSTRAINT idempotency_records_hash_lengths CHECK (length(request_hash) = 32 AND length(fingerprint) = 32),
    CONSTRAINT idempotency_records_salt_length CHECK (length(salt) = 32)
);
-- With the key id, which finds the record of a key that is deleted.
CREATE INDEX idempotency_records_tenant_id_idx ON idempotency_records (tenant_id, key_id);
-- The cleanup deletes salts by idempotency_records_salted_idx, and records without a salt by
-- idempotency_records_unsalted_idx.
CREATE INDEX idempotency_records_salted_idx ON idempotency_records (created_at) WHERE salt IS NOT NULL;
CREATE INDEX idempotency_records_unsalted_idx ON idempotency_records (created_at) WHERE salt IS NULL;

-- How many packages and segments a tenant has, so that a quota is checked without counting rows. Each statement of the
-- service that inserts or deletes packages or segments also updates the counters, and those of the packages in a
-- segment; changes in psql do not, so a counter can be wrong (a finding of `turnkey doctor`). A tenant that was
-- inserted in psql has no row until its catalog changes.
CREATE TABLE tenant_usage (
    tenant_id     uuid    NOT NULL CONSTRAINT tenant_usage_pkey PRIMARY KEY
                          CONSTRAINT tenant_usage_tenant_id_fkey REFERENCES tenants (id) ON DELETE CASCADE,
    package_count integer NOT NULL,
    segment_count integer NOT NULL
);

-- Events: one for each change, written by the statement or transaction that makes the change (docs/events.md). Tenants
-- are not referenced, because the event of a purge outlives its tenant.
--
-- The order is (history, xid, id). Ids are assigned before COMMIT, so a reader of ids alone would skip an event that
-- commits late. A reader therefore reads only the events of transactions before which no other is open: xid <
-- pg_snapshot_xmin(pg_current_snapshot()). Transactions of one tenant take its advisory lock before their first write,
-- which assigns the xid, so the events of a tenant are in the order of its changes.
--
-- A dump that is restored in another cluster contains xids from the future. `turnkey migrate` then begins a new
-- history, whose events follow all others, by another default of the column.
CREATE TABLE event_histories (
    number smallint NOT NULL CONSTRAINT event_histories_pkey PRIMARY KEY,
    -- Random, so that the cursors of two clusters differ that were restored from the same dump.
    tag    bigint   NOT NULL DEFAULT trunc(random() * 4294967296),
    -- The highest xid of the events that the cleanup has deleted: an earlier cursor misses events.
    deleted_through xid8 NOT NULL DEFAULT '0',
    CONSTRAINT event_histories_tag_range CHECK (tag BETWEEN 0 AND 4294967295)
);
INSERT INTO event_histories (number) VALUES (0);

CREATE TABLE events (
    history   smallint    NOT NULL DEFAULT 0,
    xid       xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id        bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    type      text        NOT NULL,
    time      timestamptz NOT NULL,
    tenant_id uuid        NOT NULL,
    -- The name of a service, `tenant:` and the public key, `anonymous`, or `cli`.
    caller    text        NOT NULL,
    trace_id  text,
    -- Ids, names of changed fields, and the new values of short ones. Nothing secret and no e-mail address.
    data      jsonb       NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (history, xid, id)
);
CREATE INDEX events_tenant_id_idx ON events (tenant_id, history, xid, id);
-- The cleanup, and ListEvents from a point in time.
CREATE INDEX events_time_idx ON events (time);

-- Returns the key of a tenant's advisory lock: the last 8 bytes of its id, which are random.
CREATE FUNCTION tenant_lock_key(tenant_id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ('x' || right(replace(tenant_id::text, '-', ''), 16))::bit(64)::bigint;

-- Returns the data of an event from a row before and after its change: the names of the columns that differ, and the
-- new values of those that are short and not the text of a person.
CREATE FUNCTION changed_columns(before jsonb, after jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT jsonb_build_object('fields', coalesce(jsonb_agg(key ORDER BY key), '[]'))
                   || coalesce(jsonb_object_agg(key, value)
                                   FILTER (WHERE key NOT IN ('branding', 'description', 'labels')), '{}')
              FROM jsonb_each(after) AS column_after (key, value)
             WHERE value IS DISTINCT FROM before -> key
               AND key NOT IN ('updated_at', 'branding_bytes', 'is_signup', 'package_count', 'revision'));

-- Return the owner and the keys of a tenant as they are now. VOLATILE: each call has a snapshot of its own. The
-- snapshot of a statement that waited for the tenant's lock is older than what the holder of the lock has committed.
CREATE FUNCTION current_owner(of_tenant uuid) RETURNS SETOF owners LANGUAGE sql VOLATILE ROWS 1
BEGIN ATOMIC
    SELECT * FROM owners WHERE tenant_id = of_tenant;
END;
CREATE FUNCTION current_api_keys(of_tenant uuid) RETURNS SETOF api_keys LANGUAGE sql VOLATILE ROWS 5
BEGIN ATOMIC
    SELECT * FROM api_keys WHERE tenant_id = of_tenant;
END;

-- Rejects, at COMMIT, a tenant without its General segment, a package or an API key, regardless of the role.
--
-- SECURITY DEFINER, because the current role may lack the privilege to read all three tables, and row-level security
-- may hide rows from it.
--
-- When a part was deleted, this trigger first updates the tenant's row, so that two transactions that each delete one
-- of the last two packages serialize. The second one then sees that no package would remain (READ COMMITTED), or fails
-- with a serialization error (REPEATABLE READ). A row lock instead of the update would leave a REPEATABLE READ
-- transaction on its old snapshot.
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
            RETURN NULL; -- The transaction deletes the tenant, too.
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
        MESSAGE = format('tenant %s is incomplete', checked_id),
        DETAIL = 'It has no ' || concat_ws(', no ',
            CASE WHEN NOT has_general THEN 'General segment' END,
            CASE WHEN NOT has_package THEN 'package' END,
            CASE WHEN NOT has_key THEN 'API key' END) || '.',
        HINT = 'Write or delete a tenant, its General segment, its packages and its API keys in one transaction.';
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

-- TRUNCATE fires no row triggers, and its triggers cannot be deferred. It is allowed only if no tenant remains.
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
            MESSAGE = format('cannot truncate %I while there are tenants', TG_TABLE_NAME),
            HINT = 'Truncate tenants in the same statement.';
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

-- Renews the revision of a row that changes, regardless of the role. Etags are made of revisions
-- (docs/adr/0020-etags-are-revisions.md). A condition cannot compare whole rows of tenants, which have a generated
-- column.
CREATE FUNCTION renew_revision() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.revision := gen_random_uuid();
    RETURN NEW;
END
$$;
CREATE TRIGGER renew_revision BEFORE UPDATE ON tenants FOR EACH ROW
    WHEN ((OLD.id, OLD.slug, OLD.name, OLD.commission_percent, OLD.branding, OLD.is_active, OLD.created_at,
           OLD.updated_at, OLD.deleted_at, OLD.external_id, OLD.labels)
          IS DISTINCT FROM
          (NEW.id, NEW.slug, NEW.name, NEW.commission_percent, NEW.branding, NEW.is_active, NEW.created_at,
           NEW.updated_at, NEW.deleted_at, NEW.external_id, NEW.labels))
    EXECUTE FUNCTION renew_revision();
-- Not when the number of packages changes.
CREATE TRIGGER renew_revision BEFORE UPDATE ON segments FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.id, OLD.slug, OLD.name, OLD.hero_title, OLD.description, OLD.sort_order, OLD.active,
           OLD.created_at, OLD.updated_at, OLD.external_id)
          IS DISTINCT FROM
          (NEW.tenant_id, NEW.id, NEW.slug, NEW.name, NEW.hero_title, NEW.description, NEW.sort_order, NEW.active,
           NEW.created_at, NEW.updated_at, NEW.external_id))
    EXECUTE FUNCTION renew_revision();
CREATE TRIGGER renew_revision BEFORE UPDATE ON packages FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION renew_revision();
CREATE TRIGGER renew_revision BEFORE UPDATE ON owners FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.email, OLD.email_verified_at)
          IS DISTINCT FROM (NEW.tenant_id, NEW.email, NEW.email_verified_at))
    EXECUTE FUNCTION renew_revision();

-- Writes the labels of a tenant as rows, and deletes them with it, regardless of the role: SECURITY DEFINER, because no
-- role of the service has a right to write them.
CREATE FUNCTION write_tenant_labels() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE public.tenant_labels;
        RETURN NULL;
    END IF;
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        DELETE FROM public.tenant_labels WHERE tenant_id = OLD.id;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        INSERT INTO public.tenant_labels (tenant_id, key, value, is_active, is_deleted, created_at)
        SELECT NEW.id, key, value, NEW.is_active, NEW.deleted_at IS NOT NULL, NEW.created_at
          FROM jsonb_each_text(NEW.labels) AS label (key, value);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER write_labels AFTER INSERT ON tenants FOR EACH ROW
    WHEN (NEW.labels <> '{}') EXECUTE FUNCTION write_tenant_labels();
CREATE TRIGGER delete_labels AFTER DELETE ON tenants FOR EACH ROW
    WHEN (OLD.labels <> '{}') EXECUTE FUNCTION write_tenant_labels();
CREATE TRIGGER truncate_labels AFTER TRUNCATE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION write_tenant_labels();
CREATE TRIGGER replace_labels AFTER UPDATE ON tenants FOR EACH ROW
    WHEN ((OLD.labels <> '{}' OR NEW.labels <> '{}')
          AND (OLD.id, OLD.labels, OLD.is_active, OLD.deleted_at IS NULL, OLD.created_at)
              IS DISTINCT FROM (NEW.id, NEW.labels, NEW.is_active, NEW.deleted_at IS NULL, NEW.created_at))
    EXECUTE FUNCTION write_tenant_labels();

REVOKE EXECUTE ON FUNCTION refuse_orphaned_tenant(), refuse_truncate_with_tenants(), renew_revision(),
    write_tenant_labels() FROM PUBLIC;

-- Grants and row-level security. The login role of the service is a member of turnkey_provisioner, which sees all
-- tenants. A catalog transaction runs as turnkey_catalog, which sees only the rows of the tenant in
-- `turnkey.tenant_id`, and no rows if that is not set. (After the transaction that set it, the setting is '' and not
-- NULL.) Row-level security does not apply to the owner of the tables, because the triggers above run as the owner and
-- must see all rows.
GRANT SELECT, INSERT, UPDATE, DELETE ON tenants, segments, packages, api_keys, owners, idempotency_records,
    password_attempts
    TO turnkey_provisioner;
GRANT SELECT ON tenant_labels TO turnkey_provisioner;
GRANT SELECT, INSERT, UPDATE, DELETE ON segments, packages TO turnkey_catalog;
GRANT SELECT (id, deleted_at) ON tenants TO turnkey_catalog;
-- Counters are deleted with their tenant. A repair deletes those of a missing tenant.
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_usage TO turnkey_provisioner;
GRANT SELECT, INSERT, UPDATE (package_count, segment_count) ON tenant_usage TO turnkey_catalog;
-- Events never change. The cleanup and the purge of a tenant delete them.
GRANT SELECT, INSERT, DELETE ON events TO turnkey_provisioner;
GRANT SELECT, UPDATE (deleted_through) ON event_histories TO turnkey_provisioner;
GRANT INSERT (type, time, tenant_id, caller, trace_id, data) ON events TO turnkey_catalog;

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE segments ENABLE ROW LEVEL SECURITY;
ALTER TABLE packages ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_tenants ON tenants TO turnkey_provisioner USING (true);
CREATE POLICY all_tenants ON segments TO turnkey_provisioner USING (true);
CREATE POLICY all_tenants ON packages TO turnkey_provisioner USING (true);
CREATE POLICY all_tenants ON tenant_usage TO turnkey_provisioner USING (true);
CREATE POLICY all_tenants ON events TO turnkey_provisioner USING (true);
CREATE POLICY one_tenant ON tenants TO turnkey_catalog
    USING (id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
CREATE POLICY one_tenant ON segments TO turnkey_catalog
    USING (tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
CREATE POLICY one_tenant ON packages TO turnkey_catalog
    USING (tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
CREATE POLICY one_tenant ON tenant_usage TO turnkey_catalog
    USING (tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
CREATE POLICY one_tenant ON events FOR INSERT TO turnkey_catalog
    WITH CHECK (tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);
