//! What the role of the service may do beyond its needs, which an attacker who takes over the service could do, too.
//!
//! The service needs a login role that is a member of `turnkey_provisioner` and owns nothing. The query considers what
//! the role can do by itself and what it can do as any role that it is a member of, whether it inherits that role's
//! privileges or would have to run SET ROLE.

use super::Probe;

impl Probe {
    /// Returns the privileges of the serving role that the service does not need, as the end of a sentence ("is a
    /// superuser, may create roles"); `None` if there are none.
    pub async fn excess_privilege(&self) -> Result<Option<String>, sqlx::Error> {
        let mut connection = self.hosts.connect().await?;
        sqlx::query_scalar!(
            r#"
              WITH reachable AS (
                   SELECT pg_roles.*,
                          CASE WHEN rolname <> session_user
                               THEN format(' through the role %I', rolname) ELSE '' END AS path
                     FROM pg_roles
                    -- A superuser counts as a member of every role, so the others add nothing. Only the owner of the
                    -- database is a member of pg_database_owner.
                    WHERE CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
                               THEN rolname = session_user
                               ELSE pg_has_role(session_user, oid, 'MEMBER') AND rolname <> 'pg_database_owner'
                          END
                   ),
                   grantees AS (SELECT oid, path FROM reachable UNION ALL SELECT 0, ''), -- 0 is PUBLIC
                   excess (rank, text) AS (
                   SELECT 1, 'is a superuser' || path FROM reachable WHERE rolsuper
                   UNION ALL
                   SELECT 2, 'bypasses row-level security' || path FROM reachable WHERE rolbypassrls
                   UNION ALL
                   SELECT 3, 'may create roles' || path FROM reachable WHERE rolcreaterole
                   UNION ALL
                   SELECT 4, 'may create databases' || path FROM reachable WHERE rolcreatedb
                   UNION ALL
                   SELECT 5, 'may replicate the cluster' || path FROM reachable WHERE rolreplication
                   UNION ALL
                   SELECT 6, 'owns the database' || path
                     FROM reachable
                     JOIN pg_database ON datdba = reachable.oid AND datname = current_database()
                   UNION ALL
                   SELECT 7, format('owns the schema %I', nspname) || path
                     FROM reachable
                     JOIN pg_namespace ON nspowner = reachable.oid
                    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                   UNION ALL
                   SELECT 8, 'owns tables' || path
                     FROM reachable
                    WHERE EXISTS (SELECT FROM pg_class
                                    JOIN pg_namespace ON pg_namespace.oid = relnamespace
                                   WHERE relowner = reachable.oid AND relkind IN ('r', 'p', 'v', 'm', 'f')
                                     AND nspname !~ '^pg_' AND nspname <> 'information_schema')
                   UNION ALL
                   SELECT 9, format('is a member of %I', rolname)
                     FROM reachable
                    WHERE rolname ~ '^pg_' AND path <> ''
                   UNION ALL
                   SELECT 10, format('may grant %I', name)
                     FROM unnest(ARRAY['turnkey_provisioner', 'turnkey_catalog']) AS role (name)
                    WHERE pg_has_role(session_user, name, 'MEMBER WITH ADMIN OPTION')
                   UNION ALL
                   SELECT 11, 'may create schemas' || path
                     FROM pg_database, aclexplode(datacl) AS acl
                     JOIN grantees ON grantees.oid = acl.grantee
                    WHERE datname = current_database() AND acl.privilege_type = 'CREATE' AND acl.grantee <> datdba
                   UNION ALL
                   SELECT 12, format('may create objects in the schema %I', nspname) || path
                     FROM pg_namespace, aclexplode(nspacl) AS acl
                     JOIN grantees ON grantees.oid = acl.grantee
                    WHERE acl.privilege_type = 'CREATE' AND acl.grantee <> nspowner
                   UNION ALL
                   SELECT 13, format('has privileges on tables that turnkey_provisioner lacks (%s)',
                                     string_agg(DISTINCT privilege, ', ')) || path
                     FROM pg_class, aclexplode(relacl) AS acl
                     JOIN grantees ON grantees.oid = acl.grantee,
                          concat(acl.privilege_type, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) AS privilege
                    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND acl.grantee <> relowner
                          -- The service needs none of the other privileges, even if PUBLIC has them.
                      AND (is_grantable OR acl.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
                           OR NOT has_table_privilege('turnkey_provisioner', pg_class.oid, acl.privilege_type))
                    GROUP BY path
                   )
            SELECT string_agg(text, ', ' ORDER BY rank, text) FROM excess
            "#
        )
        .fetch_one(&mut connection)
        .await
    }
}
