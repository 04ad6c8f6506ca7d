-- The same roles as in production: one owns the tables and is not a superuser, the other serves and owns nothing. This
-- script creates the two NOLOGIN roles, because the owner may not create roles.
CREATE ROLE turnkey_catalog NOLOGIN;
CREATE ROLE turnkey_provisioner NOLOGIN;
GRANT turnkey_catalog TO turnkey_provisioner;
CREATE ROLE owner LOGIN PASSWORD 'development';
CREATE ROLE booking LOGIN PASSWORD 'development';
GRANT turnkey_provisioner TO booking;
CREATE DATABASE turnkey OWNER owner;
