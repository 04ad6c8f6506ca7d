-- The roles as in production: one that owns the tables and is no superuser, and one that serves and owns nothing. The
-- two NOLOGIN roles are made here, because the owner may not create roles.
CREATE ROLE turnkey_catalog NOLOGIN;
CREATE ROLE turnkey_provisioner NOLOGIN;
GRANT turnkey_catalog TO turnkey_provisioner;
CREATE ROLE owner LOGIN PASSWORD 'development';
CREATE ROLE booking LOGIN PASSWORD 'development';
GRANT turnkey_provisioner TO booking;
CREATE DATABASE turnkey OWNER owner;
