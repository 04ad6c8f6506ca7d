//! Parses the row of an old tenant, and puts the tenant together.

use time::OffsetDateTime;

use super::{
    AdoptedOwner, AdoptedTenant, Adoption, AdoptionContext, OldTenant, ParsedTenant, Problem, UniqueFields, catalog,
};
use crate::domain::{
    BcryptHash, Branding, CommissionPercent, Description, DisplayName, Email, ExternalId, InvalidValue, Labels,
    PublicKey, Reason, TenantId, Violations, provisioning::NewApiKey,
};

impl OldTenant {
    /// Parses the tenant and all its rows.
    pub fn adopt(self, mut context: AdoptionContext<'_>) -> ParsedTenant {
        let (mut violations, mut repairs) = (Violations::default(), Vec::new());
        let unique = UniqueFields::of(&self, context.new_slug, &mut violations);
        let times = row_times("", self.created_at, self.updated_at, &mut violations);
        let created_at = times.map_or(context.now, |(created_at, _)| created_at);
        let tenant_id = TenantId::from_uuid((context.new_id)(created_at));
        let catalog =
            catalog::parse(tenant_id, self.segments, self.packages, &mut context, &mut violations, &mut repairs);
        let row =
            TenantRow { id: self.id, name: self.name, commission: self.commission_percent, branding: self.branding };
        let row = row.parse(&mut violations, &mut repairs);
        let password_hash = violations.check_optional("passwordHash", self.password_hash.as_deref(), BcryptHash::parse);
        if self.email.is_none() && self.password_hash.is_some() {
            repairs.push("passwordHash: left out, because the tenant has no email".to_owned());
        }
        let labels = violations.check_nested("labels", labels(self.is_test));
        let build = || {
            let ((segments, packages), (external_id, name, commission, branding)) = (catalog?, row?);
            let (created_at, updated_at) = times?;
            let owner = unique.email.clone().map(|email| AdoptedOwner {
                email,
                password_hash,
                // The old database does not have the time. The address was verified by then.
                email_verified_at: self.email_verified.then_some(updated_at),
            });
            let tenant = AdoptedTenant {
                id: tenant_id,
                external_id,
                slug: unique.slug.clone()?,
                name,
                commission,
                branding,
                is_active: self.is_active,
                labels: labels?,
                owner,
                key: legacy_key(&unique)?,
                created_at,
                updated_at,
            };
            Some(Adoption { tenant, segments, packages })
        };
        let adoption = violations.into_result(build);
        let adoption = adoption.map_err(|violations| violations.as_slice().iter().cloned().map(Problem::new).collect());
        if let (Some(email), Some(parsed)) = (&self.email, unique.email.as_ref().map(Email::as_str)) {
            note_normalized(email, parsed, "email", &mut repairs);
        }
        ParsedTenant { unique, repairs, adoption }
    }
}

/// The columns of a tenant that depend on nothing else.
struct TenantRow {
    id: String,
    name: String,
    commission: String,
    branding: Option<String>,
}

impl TenantRow {
    fn parse(
        self,
        violations: &mut Violations,
        repairs: &mut Vec<String>,
    ) -> Option<(ExternalId, DisplayName, CommissionPercent, Branding)> {
        let external_id = violations.check("id", ExternalId::parse(&self.id));
        let name = name(&self.name, "name", violations, repairs);
        let not_a_number = |_error| InvalidValue::new(Reason::BadFormat, "must be a number");
        let percent = self.commission.parse().map_err(not_a_number);
        let commission = violations.check("commissionPercent", percent.and_then(CommissionPercent::parse));
        let branding = self.branding.ok_or_else(Branding::too_long).and_then(Branding::parse);
        let branding = violations.check("branding", branding);
        Some((external_id?, name?, commission?, branding?))
    }
}

/// A tenant for tests has the label `test`.
fn labels(is_test: bool) -> Result<Labels, Violations> {
    Labels::parse(is_test.then(|| ("test".to_owned(), "true".to_owned())).into_iter().collect())
}

/// A key of the old form is found by its hash, and its id is the end of its public half.
fn legacy_key(unique: &UniqueFields) -> Option<NewApiKey> {
    let (public_key, hash) = (unique.public_key.as_ref()?, unique.key_hash.as_ref()?);
    Some(NewApiKey {
        key_id: PublicKey::key_id(public_key).to_owned(),
        public_key: public_key.as_str().to_owned(),
        secret_hash: hash.as_str().to_owned(),
    })
}

pub(super) fn name(
    text: &str,
    field: &str,
    violations: &mut Violations,
    repairs: &mut Vec<String>,
) -> Option<DisplayName> {
    let name = violations.check(field, DisplayName::parse(text))?;
    note_normalized(text, name.as_str(), field, repairs);
    Some(name)
}

pub(super) fn description(
    text: Option<&str>,
    field: &str,
    violations: &mut Violations,
    repairs: &mut Vec<String>,
) -> Option<Description> {
    let text = text.unwrap_or_default();
    let description = violations.check(field, Description::parse(text))?;
    note_normalized(text, description.as_str(), field, repairs);
    Some(description)
}

fn note_normalized(old: &str, new: &str, field: &str, repairs: &mut Vec<String>) {
    if old != new {
        repairs.push(format!("{field}: white space or spelling normalized"));
    }
}

/// Returns when the row was created and updated. `path` precedes the names of the columns.
pub(super) fn row_times(
    path: &str,
    created_at: Option<OffsetDateTime>,
    updated_at: Option<OffsetDateTime>,
    violations: &mut Violations,
) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let unfit = || InvalidValue::new(Reason::OutOfRange, "must be in the years 1 to 9999");
    let created_at = violations.check(format!("{path}createdAt"), created_at.ok_or_else(unfit));
    let updated_at = violations.check(format!("{path}updatedAt"), updated_at.ok_or_else(unfit));
    Some((created_at?, updated_at?))
}
