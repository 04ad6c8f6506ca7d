-- Distributes the catalog of a migrated database over the workers of Citus, in one transaction, and refuses a database
-- in which that is not possible (docs/adr/0023-citus.md). It runs after the migrations, each time; what is already
-- distributed stays as it is. The statements are in one block, because Citus sends the whole text of a query to the
-- workers.
DO $citus$
DECLARE
    distributed_table regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        RETURN; -- Plain Postgres.
    END IF;
    IF (SELECT split_part(extversion, '.', 1)::int < 13
          FROM pg_extension WHERE extname = 'citus') THEN
        RAISE EXCEPTION 'the version of Citus is too old: update it to 13 or newer';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0) THEN
        RAISE EXCEPTION 'Citus does not know the address of this coordinator: run citus_set_coordinator_host';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_dist_node WHERE shouldhaveshards AND isactive) THEN
        RAISE EXCEPTION 'Citus has no node for the catalog: add workers with citus_add_node, or drop the extension';
    END IF;
    -- The names of tables that Citus manages in another way than this file.
    SELECT logicalrelid INTO distributed_table
      FROM pg_dist_partition AS part
      JOIN pg_class ON pg_class.oid = logicalrelid
     WHERE relnamespace = 'public'::regnamespace
       AND CASE WHEN relname IN ('segments', 'packages')
                THEN partmethod <> 'h'
                     OR NOT EXISTS (SELECT FROM pg_dist_partition AS tenants
                                     WHERE tenants.logicalrelid = to_regclass('catalog.tenants')
                                       AND tenants.colocationid = part.colocationid)
                WHEN relname = 'two_phase_commit' THEN partmethod <> 'n'
                ELSE relname IN ('tenants', 'tenant_labels', 'api_keys', 'owners', 'password_attempts', 'idempotency_records',
                                 'tenant_usage', 'event_histories', 'events', '_sqlx_migrations')
           END
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'Citus manages the table % in another way than Turnkey needs: run undistribute_table(''%'')',
            distributed_table, distributed_table;
    END IF;
    IF to_regprocedure('public.enter_catalog(uuid)') IS NOT NULL THEN
        RETURN; -- Done before.
    END IF;

    SET LOCAL client_min_messages = warning;
    -- The triggers below keep to the shard of their row.
    SET LOCAL citus.enable_unsafe_triggers = on;
    -- A transaction that moves rows uses one connection for each worker.
    SET LOCAL citus.multi_shard_modify_mode = 'sequential';

    -- Workers are asked as the current role. How they authenticate it is their pg_hba.conf's concern.
    IF NOT (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'turnkey_catalog') THEN
        ALTER ROLE turnkey_catalog LOGIN;
    END IF;

    -- In the schema `catalog` (citus.rs), what a transaction of the catalog finds as `tenants`: a row for each tenant,
    -- on the worker that has its catalog. Triggers copy it from the table of the coordinator.
    CREATE TABLE catalog.tenants (
        id         uuid NOT NULL CONSTRAINT tenants_pkey PRIMARY KEY,
        deleted_at timestamptz
    );
    INSERT INTO catalog.tenants SELECT id, deleted_at FROM public.tenants;
    GRANT SELECT, INSERT, UPDATE, DELETE ON catalog.tenants TO turnkey_provisioner;
    GRANT SELECT ON catalog.tenants TO turnkey_catalog;
    ALTER TABLE catalog.tenants ENABLE ROW LEVEL SECURITY;
    CREATE POLICY all_tenants ON catalog.tenants TO turnkey_provisioner USING (true);
    CREATE POLICY one_tenant ON catalog.tenants TO turnkey_catalog
        USING (id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);

    -- A foreign key can follow only when both tables are distributed.
    ALTER TABLE public.segments DROP CONSTRAINT segments_tenant_id_fkey;
    ALTER TABLE public.packages DROP CONSTRAINT packages_segment_id_fkey;
    DROP TRIGGER tenant_fully_provisioned ON public.segments;
    DROP TRIGGER tenant_fully_provisioned ON public.packages;
    DROP TRIGGER tenant_fully_provisioned_truncate ON public.segments;
    DROP TRIGGER tenant_fully_provisioned_truncate ON public.packages;
    PERFORM create_distributed_table('catalog.tenants', 'id', colocate_with => 'none');
    PERFORM create_distributed_table('public.segments', 'tenant_id', colocate_with => 'catalog.tenants');
    PERFORM create_distributed_table('public.packages', 'tenant_id', colocate_with => 'catalog.tenants');
    ALTER TABLE public.segments ADD CONSTRAINT segments_tenant_id_fkey
        FOREIGN KEY (tenant_id) REFERENCES catalog.tenants (id);
    ALTER TABLE public.packages ADD CONSTRAINT packages_segment_id_fkey
        FOREIGN KEY (tenant_id, segment_id) REFERENCES public.segments (tenant_id, id);

    GRANT USAGE ON SCHEMA catalog TO turnkey_provisioner, turnkey_catalog;

    -- Citus inserts into events with an explicit nextval.
    GRANT USAGE ON SEQUENCE public.events_id_seq TO turnkey_provisioner, turnkey_catalog;

    -- Always empty. Citus does not notice that a transaction writes plain tables, and would commit a single worker
    -- before the coordinator. A statement that writes a table that it manages on the coordinator makes it use two-phase
    -- commit.
    CREATE TABLE public.two_phase_commit (never smallint NOT NULL CONSTRAINT two_phase_commit_pkey PRIMARY KEY);
    PERFORM citus_add_local_table_to_metadata('public.two_phase_commit');
    GRANT SELECT, DELETE ON public.two_phase_commit TO turnkey_provisioner;

    CREATE PROCEDURE public.use_two_phase_commit() LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    BEGIN
        DELETE FROM public.two_phase_commit WHERE never = 0;
    END
    $body$;

    -- Sets the role and the tenant of a transaction, here and on the workers. Citus repeats SET LOCAL on the workers as
    -- the whole text of its query, so each has its own here.
    CREATE PROCEDURE public.enter_catalog(tenant_id uuid) LANGUAGE plpgsql
    AS $body$
    BEGIN
        SET LOCAL citus.propagate_set_commands = 'local';
        SET LOCAL search_path = catalog, public;
        SET LOCAL ROLE turnkey_catalog;
        EXECUTE format('SET LOCAL turnkey.tenant_id = %L', tenant_id);
    END
    $body$;

    -- What a statement that creates tenants finds as `segments` and `packages`. Their rows exist only until the end of
    -- the statement. So the statement has tables of the coordinator only, which Postgres plans, and Citus receives one
    -- INSERT for each table. A statement of many CTEs costs Citus a hundred times as much.
    CREATE SCHEMA new_tenants;
    GRANT USAGE ON SCHEMA new_tenants TO turnkey_provisioner;
    CREATE UNLOGGED TABLE new_tenants.segments (LIKE public.segments INCLUDING DEFAULTS)
        WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
    CREATE UNLOGGED TABLE new_tenants.packages (LIKE public.packages INCLUDING DEFAULTS)
        WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
    CREATE INDEX segments_tenant_id_idx ON new_tenants.segments (tenant_id);
    CREATE INDEX packages_tenant_id_idx ON new_tenants.packages (tenant_id);
    GRANT SELECT, INSERT, DELETE ON new_tenants.segments, new_tenants.packages TO turnkey_provisioner;

    -- Inserts these rows, whose columns are the keys, into a distributed table: one INSERT, because Citus plans each,
    -- and of VALUES, because it would copy the rows of a SELECT with COPY, which row-level security rejects.
    CREATE PROCEDURE public.insert_distributed(target regclass, new_rows jsonb[]) LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        statement text := (
            SELECT format('INSERT INTO %s (%s) VALUES %s', target,
                          (SELECT string_agg(quote_ident(key), ', ' ORDER BY key) FROM jsonb_object_keys(new_rows[1]) AS key),
                          string_agg(format('(%s)', (SELECT string_agg(quote_nullable(value), ', ' ORDER BY key)
                                                       FROM jsonb_each_text(new_row))), ', '))
              FROM unnest(new_rows) AS new_row);
    BEGIN
        IF new_rows IS NOT NULL THEN
            EXECUTE statement;
        END IF;
    END
    $body$;

    -- Keeps catalog.tenants up to date, and moves the catalogs of new tenants to the workers. It is a procedure,
    -- because Citus runs the statements of a trigger in transactions of their own on the workers, unless a procedure
    -- runs them.
    CREATE PROCEDURE public.copy_tenants(operation text, ids uuid[], deletion_times timestamptz[]) LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        new_rows      jsonb[];
        changed_id    uuid;
        deletion_time timestamptz;
    BEGIN
        CALL public.use_two_phase_commit();
        CASE operation
            WHEN 'INSERT' THEN
                -- Held until the workers have committed, which is after others see the coordinator's rows (citus.rs).
                PERFORM pg_advisory_xact_lock(public.tenant_lock_key(id)) FROM unnest(ids) AS id;
                SELECT array_agg(to_jsonb(tenant)) INTO new_rows FROM unnest(ids, deletion_times) AS tenant (id, deleted_at);
                CALL public.insert_distributed('catalog.tenants', new_rows);
                WITH moved AS (DELETE FROM new_tenants.segments WHERE tenant_id = ANY (ids) RETURNING *)
                SELECT array_agg(to_jsonb(moved)) INTO new_rows FROM moved;
                CALL public.insert_distributed('public.segments', new_rows);
                WITH moved AS (DELETE FROM new_tenants.packages WHERE tenant_id = ANY (ids) RETURNING *)
                SELECT array_agg(to_jsonb(moved)) INTO new_rows FROM moved;
                CALL public.insert_distributed('public.packages', new_rows);
            WHEN 'UPDATE' THEN
                changed_id := ids[1];
                deletion_time := deletion_times[1];
                UPDATE catalog.tenants SET deleted_at = deletion_time WHERE id = changed_id;
            WHEN 'DELETE' THEN
                DELETE FROM catalog.tenants WHERE id = ANY (ids);
        END CASE;
    END
    $body$;

    -- Makes catalog.tenants agree with tenants, after a superuser has changed one of them without triggers.
    CREATE PROCEDURE public.restore_tenant(restored_id uuid) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        deletion_time timestamptz;
    BEGIN
        SELECT deleted_at INTO deletion_time FROM public.tenants WHERE id = restored_id;
        IF FOUND THEN
            INSERT INTO catalog.tenants (id, deleted_at) VALUES (restored_id, deletion_time)
                ON CONFLICT (id) DO UPDATE SET deleted_at = excluded.deleted_at;
        ELSE
            DELETE FROM catalog.tenants WHERE id = restored_id;
        END IF;
    END
    $body$;

    CREATE FUNCTION public.copy_tenants() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        ids            uuid[];
        deletion_times timestamptz[];
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            IF NEW.id <> OLD.id THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'feature_not_supported',
                    MESSAGE = 'the id of a tenant cannot change: its catalog is distributed by it';
            END IF;
            ids := ARRAY[NEW.id];
            deletion_times := ARRAY[NEW.deleted_at];
        ELSE
            SELECT array_agg(id), array_agg(deleted_at) INTO ids, deletion_times FROM written;
        END IF;
        IF ids IS NOT NULL THEN
            CALL public.copy_tenants(TG_OP, ids, deletion_times);
        END IF;
        RETURN NULL;
    END
    $body$;
    -- After all CTEs of the statement.
    CREATE TRIGGER copy_inserted AFTER INSERT ON public.tenants REFERENCING NEW TABLE AS written
        FOR EACH STATEMENT EXECUTE FUNCTION public.copy_tenants();
    CREATE TRIGGER copy_updated AFTER UPDATE OF id, deleted_at ON public.tenants
        FOR EACH ROW WHEN ((OLD.id, OLD.deleted_at) IS DISTINCT FROM (NEW.id, NEW.deleted_at))
        EXECUTE FUNCTION public.copy_tenants();
    CREATE TRIGGER copy_deleted AFTER DELETE ON public.tenants REFERENCING OLD TABLE AS written
        FOR EACH STATEMENT EXECUTE FUNCTION public.copy_tenants();

    -- The function of the migration, in two. On the coordinator, it checks API keys.
    CREATE OR REPLACE FUNCTION public.refuse_orphaned_tenant() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        checked_id uuid;
    BEGIN
        IF TG_TABLE_NAME = 'tenants' THEN
            checked_id := NEW.id;
        ELSE
            checked_id := OLD.tenant_id;
            UPDATE public.tenants SET updated_at = updated_at WHERE id = checked_id;
        END IF;
        IF NOT EXISTS (SELECT FROM public.api_keys WHERE tenant_id = checked_id)
           AND EXISTS (SELECT FROM public.tenants WHERE id = checked_id) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'check_violation',
                SCHEMA = 'public',
                TABLE = 'tenants',
                CONSTRAINT = 'tenant_fully_provisioned',
                MESSAGE = format('tenant %s is incomplete', checked_id),
                DETAIL = 'It has no API key.',
                HINT = 'Write or delete a tenant, its General segment, its packages and its API keys in one transaction.';
        END IF;
        RETURN NULL;
    END
    $body$;

    -- On the worker, it checks the General segment and the packages of a new tenant, or after one of them was deleted.
    -- It runs on a shard, and reads only the shards of the same tenants, which are on the same worker. As in the
    -- migration, two transactions that each delete one of the last two packages serialize by updating the tenant's row.
    CREATE FUNCTION public.refuse_orphaned_catalog() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        checked_id  uuid := CASE WHEN TG_OP = 'INSERT' THEN to_jsonb(NEW) ->> 'id' ELSE to_jsonb(OLD) ->> 'tenant_id' END;
        -- Identifies the shards with the same tenants.
        first_hash  text := (SELECT shardminvalue FROM pg_dist_shard
                              WHERE shardid = substring(TG_TABLE_NAME FROM '_([0-9]+)$')::bigint);
        tenants     text := (SELECT format('catalog.tenants_%s', shardid) FROM pg_dist_shard
                              WHERE logicalrelid = 'catalog.tenants'::regclass AND shardminvalue = first_hash);
        segments    text := (SELECT format('public.segments_%s', shardid) FROM pg_dist_shard
                              WHERE logicalrelid = 'public.segments'::regclass AND shardminvalue = first_hash);
        packages    text := (SELECT format('public.packages_%s', shardid) FROM pg_dist_shard
                              WHERE logicalrelid = 'public.packages'::regclass AND shardminvalue = first_hash);
        has_tenant  boolean;
        has_general boolean;
        has_package boolean;
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            EXECUTE format('UPDATE %s SET deleted_at = deleted_at WHERE id = $1', tenants) USING checked_id;
        END IF;
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE id = $1),
                               EXISTS (SELECT FROM %s WHERE tenant_id = $1 AND slug = ''general''),
                               EXISTS (SELECT FROM %s WHERE tenant_id = $1)', tenants, segments, packages)
           INTO has_tenant, has_general, has_package
          USING checked_id;
        IF has_tenant AND NOT (has_general AND has_package) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'check_violation',
                -- Of an error on a worker, Citus keeps the text only.
                MESSAGE = format('tenant %s is incomplete: it violates "tenant_fully_provisioned"', checked_id),
                DETAIL = 'It has no ' || concat_ws(', no ',
                    CASE WHEN NOT has_general THEN 'General segment' END,
                    CASE WHEN NOT has_package THEN 'package' END) || '.',
                HINT = 'Write or delete a tenant, its General segment, its packages and its API keys in one transaction.';
        END IF;
        RETURN NULL;
    END
    $body$;
    -- TRUNCATE fires no row triggers. On a shard, it is a part of one that was checked before. The check uses the
    -- connections of the TRUNCATE, which Citus requires: one for each worker, as the same role. No row may be hidden
    -- from it.
    CREATE FUNCTION public.refuse_truncated_catalog() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off
        SET citus.multi_shard_modify_mode = 'sequential'
    AS $body$
    BEGIN
        IF TG_TABLE_NAME ~ '_[0-9]+$' OR NOT EXISTS (SELECT 1 FROM catalog.tenants) THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            SCHEMA = 'public',
            TABLE = 'tenants',
            CONSTRAINT = 'tenant_fully_provisioned',
            MESSAGE = format('cannot truncate %I while there are tenants', TG_TABLE_NAME),
            HINT = 'Delete the tenants instead.';
    END
    $body$;
    REVOKE EXECUTE ON FUNCTION public.refuse_orphaned_catalog(), public.refuse_truncated_catalog(), public.copy_tenants()
        FROM PUBLIC;
    CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
        AFTER INSERT ON catalog.tenants
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.refuse_orphaned_catalog();
    CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
        AFTER DELETE OR UPDATE OF tenant_id, slug ON public.segments
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.slug = 'general')
        EXECUTE FUNCTION public.refuse_orphaned_catalog();
    CREATE CONSTRAINT TRIGGER tenant_fully_provisioned
        AFTER DELETE OR UPDATE OF tenant_id ON public.packages
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.refuse_orphaned_catalog();
    -- Before any of the tables is truncated.
    CREATE TRIGGER tenant_fully_provisioned_truncate BEFORE TRUNCATE ON public.tenants
        FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_truncated_catalog();
    CREATE TRIGGER tenant_fully_provisioned_truncate BEFORE TRUNCATE ON catalog.tenants
        FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_truncated_catalog();
    CREATE TRIGGER tenant_fully_provisioned_truncate BEFORE TRUNCATE ON public.segments
        FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_truncated_catalog();
    CREATE TRIGGER tenant_fully_provisioned_truncate BEFORE TRUNCATE ON public.packages
        FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_truncated_catalog();
END
$citus$;
