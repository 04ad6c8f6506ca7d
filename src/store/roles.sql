-- The roles of the service. They belong to the cluster, not to a database, so they are no migration: this is run before
-- every migration, does nothing where they exist, and is run again where another database's migration got in between.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'turnkey_catalog') THEN
        CREATE ROLE turnkey_catalog NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'turnkey_provisioner') THEN
        CREATE ROLE turnkey_provisioner NOLOGIN;
        -- So that an owner who made the roles can also serve (`serve --migrate`).
        GRANT turnkey_provisioner TO CURRENT_USER;
    END IF;
    -- A catalog call leaves the provisioner's rights behind by SET LOCAL ROLE, which needs this membership.
    IF NOT pg_has_role('turnkey_provisioner', 'turnkey_catalog', 'MEMBER') THEN
        GRANT turnkey_catalog TO turnkey_provisioner;
    END IF;
END
$$;
