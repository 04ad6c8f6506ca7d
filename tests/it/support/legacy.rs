//! A tenant with a key in the old form of the platform, as `turnkey adopt` leaves it.

use super::fixture::{Fixture, NewTenant};

pub const LEGACY_PUBLIC: &str = "pk_live_bella--weddings_0123456789abcdef";
pub const LEGACY_SECRET: &str = "sk_live_bella--weddings_00112233445566778899aabbccddeeff";
/// Well-formed, and the key of no tenant.
pub const UNKNOWN_LEGACY_SECRET: &str = "sk_live_bella--weddings_ffeeddccbbaa99887766554433221100";

impl Fixture {
    /// Creates a tenant whose only key is [`LEGACY_SECRET`].
    pub async fn tenant_with_legacy_key(&self, slug: &str) -> NewTenant {
        let tenant = self.tenant(slug).await;
        let sql = format!(
            "UPDATE api_keys
                SET key_id = right('{LEGACY_PUBLIC}', 16), public_key = '{LEGACY_PUBLIC}',
                    secret_hash = 'sha256:' || encode(sha256('{LEGACY_SECRET}'), 'hex')
              WHERE tenant_id = '{}'",
            tenant.id
        );
        self.database.execute(sql).await;
        NewTenant { public_key: LEGACY_PUBLIC.to_owned(), secret_key: LEGACY_SECRET.to_owned(), ..tenant }
    }
}
