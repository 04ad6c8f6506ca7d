-- Retries: a call that names itself by a request_id claims it in the statement that does its work, so that a repeat is
-- recognised and answered as the first would have been. Of the request_id only the SHA-256 is kept. The salt is what the
-- new key's secret was derived with; it goes after 24 hours, and with it the way back to the secret.

CREATE TABLE request_claims (
    caller       text        NOT NULL,
    rpc          text        NOT NULL,
    request_hash bytea       NOT NULL,
    fingerprint  bytea       NOT NULL,
    salt         bytea,
    -- What the call made. The key is no foreign key: whoever deletes one by hand need not know of this table.
    tenant_id    uuid        NOT NULL CONSTRAINT request_claims_tenant_id_fkey
                             REFERENCES tenants (id) ON DELETE CASCADE,
    key_id       text COLLATE "C" NOT NULL,
    -- Of a call that made a tenant.
    segment_id   uuid,
    package_ids  uuid[],
    created_at   timestamptz NOT NULL,
    CONSTRAINT request_claims_pkey PRIMARY KEY (request_hash, caller, rpc),
    CONSTRAINT request_claims_hash_lengths CHECK (length(request_hash) = 32 AND length(fingerprint) = 32),
    CONSTRAINT request_claims_salt_length CHECK (length(salt) = 32)
);
CREATE INDEX request_claims_tenant_id_idx ON request_claims (tenant_id);
-- Each claim is in one of these two: those that have a salt to lose, and those that have only themselves.
CREATE INDEX request_claims_salted_idx ON request_claims (created_at) WHERE salt IS NOT NULL;
CREATE INDEX request_claims_unsalted_idx ON request_claims (created_at) WHERE salt IS NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON request_claims TO turnkey_provisioner;
