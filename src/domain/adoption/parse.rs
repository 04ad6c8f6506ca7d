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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{
        super::{OldPackage, OldSegment},
        *,
    };

    const TIME: Option<OffsetDateTime> = Some(OffsetDateTime::UNIX_EPOCH);

    fn whole_tenant() -> OldTenant {
        OldTenant {
            id: "cl9ebqhxk00003b600tymydho".to_owned(),
            slug: "bella-weddings".to_owned(),
            name: "Bella Weddings".to_owned(),
            email: None,
            password_hash: None,
            api_key_public: "pk_live_bella-weddings_0123456789abcdef".to_owned(),
            api_key_secret: "0".repeat(64),
            commission_percent: "12.34".to_owned(),
            branding: Some("{}".to_owned()),
            email_verified: true,
            is_active: true,
            is_test: false,
            created_at: TIME,
            updated_at: TIME,
            segments: Vec::new(),
            packages: Vec::new(),
        }
    }

    fn segment(id: &str, slug: &str, name: &str) -> OldSegment {
        OldSegment {
            id: id.to_owned(),
            slug: slug.to_owned(),
            name: name.to_owned(),
            hero_title: "Hero".to_owned(),
            description: None,
            sort_order: 0,
            active: true,
            created_at: TIME,
            updated_at: TIME,
        }
    }

    fn package(id: &str, segment_id: Option<&str>, slug: &str, grouping_order: Option<i32>) -> OldPackage {
        OldPackage {
            id: id.to_owned(),
            segment_id: segment_id.map(str::to_owned),
            slug: slug.to_owned(),
            name: "Gold".to_owned(),
            description: None,
            base_price: 1,
            booking_type: "DATE".to_owned(),
            grouping_order,
            active: true,
            created_at: TIME,
            updated_at: TIME,
        }
    }

    fn adopt(old: OldTenant) -> ParsedTenant {
        let mut next = 0;
        let mut new_id = |_time| {
            next += 1;
            Uuid::from_u128(next)
        };
        old.adopt(AdoptionContext { new_slug: None, now: OffsetDateTime::UNIX_EPOCH, new_id: &mut new_id })
    }

    #[test]
    fn packages_without_an_order_follow_the_last_one_even_at_the_end_of_the_range() {
        let packages = vec![
            package("1", None, "one", None),
            package("2", None, "two", Some(i32::MAX)),
            package("3", None, "three", None),
        ];
        let adoption = adopt(OldTenant { packages, ..whole_tenant() }).adoption.unwrap();
        assert!(adoption.packages.iter().all(|package| package.grouping_order == i32::MAX));
        assert_eq!(adoption.segments[0].package_count, 3);
    }

    #[test]
    fn an_invalid_segment_is_the_only_problem_of_a_tenant_with_packages_in_it() {
        let (segments, packages) = (vec![segment("s", "general", "")], vec![package("p", Some("s"), "one", Some(1))]);
        let problems = adopt(OldTenant { segments, packages, ..whole_tenant() }).adoption.unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["segments[s].name"]);
    }

    proptest! {
        /// The result itself asserts that a tenant without an adoption has a problem.
        #[test]
        fn every_old_tenant_is_adopted_whole_or_has_problems(
            texts in prop::collection::vec("(\\PC{0,80}|[a-z0-9-]{0,60})", 10),
            order in any::<Option<i32>>(),
            price in any::<i32>(),
        ) {
            let [slug, name, email, hash, commission, branding, segment_slug, segment_name, package_slug, kind] =
                <[String; 10]>::try_from(texts).unwrap();
            let old = OldTenant {
                slug,
                name,
                email: Some(email),
                password_hash: Some(hash),
                commission_percent: commission,
                branding: Some(branding),
                segments: vec![segment("s", &segment_slug, &segment_name), segment("t", &package_slug, &segment_name)],
                packages: vec![
                    OldPackage { base_price: price, booking_type: kind, ..package("p", Some("s"), &package_slug, order) },
                    package("q", Some("u"), &segment_slug, None),
                ],
                ..whole_tenant()
            };
            if let Ok(adoption) = adopt(old).adoption {
                prop_assert_eq!(adoption.packages.len(), 2);
            }
        }
    }
}
