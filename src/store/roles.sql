-- Creates the roles of the service if they do not exist. Roles belong to the cluster and not to a database, so this is
-- not a migration: it runs before the migrations, each time, and is retried if the migration of another database of the
-- cluster creates the roles at the same moment.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'turnkey_catalog') THEN
        CREATE ROLE turnkey_catalog NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'turnkey_provisioner') THEN
        CREATE ROLE turnkey_provisioner NOLOGIN;
        -- The owner that created the roles can also serve (`serve --migrate`).
        GRANT turnkey_provisioner TO CURRENT_USER;
    END IF;
    -- SET LOCAL ROLE turnkey_catalog, with which catalog transactions begin, requires this membership.
    IF NOT pg_has_role('turnkey_provisioner', 'turnkey_catalog', 'MEMBER') THEN
        GRANT turnkey_catalog TO turnkey_provisioner;
    END IF;
END
$$;
