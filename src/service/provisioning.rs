//! Creates tenants from a request, a sign-up or the items of a batch: generates ids and keys, hashes the keys, stores
//! everything, and replays repeated calls. The order of a batch's items is in `batch.rs`.

use std::{collections::HashMap, sync::Arc};

use rand::Rng;
use secrecy::SecretString;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    TenantService,
    batch::{response_too_large, run_each},
    idempotency::replayed_secret,
    ids::{new_id, random_slug_suffix, system_rng},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        Actor, CommissionPercent, CreateFromSignup, CreateFullyProvisioned, DisplayName, ExternalId, Labels, PackageId,
        ProvisionedTenant, ProvisioningSource, RequestId, SegmentId, SignupForm, SignupSlug, TenantId, TenantSlug,
        defaults,
        idempotency::{CreatedTenant, Fingerprint, IdempotencyRecord, IdempotencyScope, IdempotentRpc, Replay},
        provisioning::{CreateOutcome, CreateResult, NewApiKey, NewOwner, NewTenant, TenantInsert},
        response_size::new_tenant_text_bytes,
    },
    error::{Error, Precondition, Result, UniqueField},
    secrets::{MintedKey, PasswordUse, mint_key},
    store::{Insertion, Lane},
    telemetry::metrics,
};

/// Upper bound of the slugs that are tried for a sign-up without a slug. The first has no suffix. Two random suffixes
/// are equal with a probability of one in hundreds of millions.
const MAX_SLUG_ATTEMPTS: usize = 5;

/// A tenant to create, requested by a single call, a sign-up or an item of a batch.
pub(super) struct TenantSpec {
    pub slug: TenantSlug,
    pub name: DisplayName,
    pub commission: CommissionPercent,
    pub external_id: Option<ExternalId>,
    pub labels: Labels,
    pub owner: Option<NewOwner>,
    pub request_id: Option<RequestId>,
    pub fingerprint: Fingerprint,
}

impl TenantSpec {
    /// Returns an upper bound of the bytes of its texts in a response.
    pub fn text_bytes(&self) -> usize {
        new_tenant_text_bytes(&self.name, self.external_id.as_ref(), &self.labels)
    }
}

/// A new tenant with everything that the statement inserts, and its secret key.
struct PreparedTenant<'a> {
    spec: &'a TenantSpec,
    insert: Arc<TenantInsert>,
    secret_key: SecretString,
    /// The part of the secret key that is hashed.
    random_part: SecretString,
}

impl PreparedTenant<'_> {
    fn into_provisioned(self) -> ProvisionedTenant {
        let TenantInsert { tenant, key, .. } = Arc::unwrap_or_clone(self.insert);
        tenant.into_provisioned(key.public_key, self.secret_key)
    }
}

impl TenantService {
    /// Creates a tenant with its General segment, packages and key, or nothing.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] for the slug, [`Error::FailedPrecondition`] for a reused request id.
    pub async fn create_fully_provisioned(
        &self,
        actor: Actor,
        request: CreateFullyProvisioned,
    ) -> Result<CreateResult> {
        let scope = IdempotencyScope { actor, rpc: IdempotentRpc::CreateFullyProvisioned };
        let dry_run = request.validate_only;
        let outcome = if dry_run {
            self.validate(&scope, request.into()).await?
        } else {
            self.provision_tenant(&scope, ProvisioningSource::Admin, request.into()).await?
        };
        Ok(CreateResult { outcome, dry_run })
    }

    /// Creates a tenant and its owner for a business that signs up.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] with all violations, [`Error::AlreadyExists`] for the slug or the e-mail address,
    /// [`Error::FailedPrecondition`] for a reused request id, [`Error::Conflict`] if every derived slug exists.
    pub async fn create_from_signup(&self, actor: Actor, form: SignupForm) -> Result<CreateOutcome> {
        let is_guessable = match &form.password {
            Some(password) => {
                self.hasher.is_guessable(PasswordUse::SignUp, password.clone(), form.user_inputs()).await?
            }
            None => false,
        };
        let signup = form.validate(is_guessable)?;
        let fingerprint = signup.fingerprint();
        let CreateFromSignup { business_name: name, email, password, slug, request_id } = signup;
        let password_hash = self.hasher.hash_password(PasswordUse::SignUp, password.clone(), &mut system_rng()).await?;
        let owner = NewOwner { email, password_hash };
        let scope = IdempotencyScope { actor, rpc: IdempotentRpc::CreateFromSignup };
        for attempt in 0..MAX_SLUG_ATTEMPTS {
            let candidate = slug.candidate(attempt == 0, &random_slug_suffix(&mut system_rng()));
            let spec = TenantSpec {
                slug: candidate.ok_or_else(|| Error::internal("no valid slug can be derived from the name"))?,
                name: name.clone(),
                commission: defaults::COMMISSION,
                external_id: None,
                labels: Labels::default(),
                owner: Some(owner.clone()),
                request_id: request_id.clone(),
                fingerprint,
            };
            match self.provision_tenant(&scope, ProvisioningSource::Signup, spec).await {
                Err(Error::AlreadyExists { field: UniqueField::TenantSlug, .. })
                    if matches!(slug, SignupSlug::Derived(_)) => {}
                Ok(CreateOutcome::Replayed(replay)) => {
                    // The fingerprint does not cover the password, so verify it against the stored hash.
                    let stored_hash = replay.created.password_hash.clone();
                    let verification =
                        self.hasher.verify_password(PasswordUse::SignUp, password.into(), stored_hash).await?;
                    let reused = Error::FailedPrecondition(Precondition::RequestIdReused);
                    return if verification.matches { Ok(CreateOutcome::Replayed(replay)) } else { Err(reused) };
                }
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    /// Returns the outcome that the call would have, and writes nothing.
    async fn validate(&self, scope: &IdempotencyScope, spec: TenantSpec) -> Result<CreateOutcome> {
        let records = self.find_records(scope, std::iter::once(&spec)).await?;
        if !records.is_empty() {
            return self.replay(scope, &spec, records.first(), UniqueField::TenantSlug);
        }
        if let Some(existing) = self.store.existing_field(&spec.slug, spec.external_id.as_ref()).await? {
            return self.replay(scope, &spec, None, existing);
        }
        Ok(CreateOutcome::Created(self.prepare(&spec, self.clock.now())?.into_provisioned()))
    }

    async fn provision_tenant(
        &self,
        scope: &IdempotencyScope,
        source: ProvisioningSource,
        spec: TenantSpec,
    ) -> Result<CreateOutcome> {
        let outcomes = self.provision_tenants(scope, source, &[&spec]).await?;
        outcomes.into_iter().next().ok_or_else(|| Error::internal("the only tenant has no outcome"))?
    }

    /// Creates each tenant completely or not at all. The outcome of a tenant that was not created is a replay, if an
    /// earlier call had the same request id, or its error.
    ///
    /// # Errors
    /// Only errors that occur before anything is created.
    pub(super) async fn provision_tenants(
        &self,
        scope: &IdempotencyScope,
        source: ProvisioningSource,
        specs: &[&TenantSpec],
    ) -> Result<Vec<Result<CreateOutcome>>> {
        let now = self.clock.now();
        let mut prepared = specs.iter().map(|&spec| self.prepare(spec, now)).collect::<Result<Vec<_>>>()?;
        let random_parts = prepared.iter().map(|tenant| tenant.random_part.clone()).collect();
        let secret_hashes = self.hasher.hash_keys(random_parts, &mut system_rng()).await?;
        for (tenant, secret_hash) in prepared.iter_mut().zip(secret_hashes) {
            Arc::make_mut(&mut tenant.insert).key.secret_hash = secret_hash;
        }
        let insertions = self.insert(scope, source, &prepared).await;

        let is_refused = |insertion: &Result<_>| !matches!(insertion, Ok(Insertion::Created) | Err(_));
        let refused = prepared.iter().zip(&insertions).filter(|(_, insertion)| is_refused(insertion));
        let records = self.find_records(scope, refused.map(|(tenant, _)| tenant.spec)).await;
        let positions: HashMap<_, _> = prepared.iter().map(|tenant| tenant.insert.tenant.id).zip(0..).collect();
        let replay = |position, spec: &TenantSpec, existing| {
            let hash = spec.request_id.as_ref().map(RequestId::hash);
            let mut records = records.as_ref().map_err(Error::clone)?.iter();
            // The record of a later tenant with the same request id did not exist when this one was refused.
            let is_later = |record: &&IdempotencyRecord<CreatedTenant>| {
                positions.get(&record.created.tenant.id).is_some_and(|&later| later > position)
            };
            let record = records.find(|record| Some(record.request_hash) == hash).filter(|record| !is_later(record));
            self.replay(scope, spec, record, existing)
        };
        let outcomes = (0..).zip(prepared.into_iter().zip(insertions));
        let outcomes = outcomes.map(|(position, (tenant, insertion))| match insertion? {
            Insertion::Created => Ok(CreateOutcome::Created(tenant.into_provisioned())),
            Insertion::Exists => replay(position, tenant.spec, UniqueField::TenantSlug),
            Insertion::EmailExists => replay(position, tenant.spec, UniqueField::OwnerEmail),
            Insertion::ExternalIdExists => replay(position, tenant.spec, UniqueField::TenantExternalId),
        });
        Ok(outcomes.collect())
    }

    /// Inserts tenants, each with its own result.
    async fn insert(
        &self,
        scope: &IdempotencyScope,
        source: ProvisioningSource,
        tenants: &[PreparedTenant<'_>],
    ) -> Vec<Result<Insertion>> {
        let lane = if tenants.len() == 1 { Lane::Single } else { Lane::Batch };
        run_each(tenants, |tenant| self.insert_tenant(scope, source, lane, &tenant.insert)).await
    }

    /// Inserts a tenant and logs it if it was created.
    async fn insert_tenant(
        &self,
        scope: &IdempotencyScope,
        source: ProvisioningSource,
        lane: Lane,
        insert: &Arc<TenantInsert>,
    ) -> Result<Insertion> {
        let insertion = retry_on_conflict(|| self.store.create_fully_provisioned(scope, lane, insert)).await?;
        if insertion == Insertion::Created {
            log_provisioned(&insert.tenant, source);
        }
        Ok(insertion)
    }

    /// Returns the records of the request ids of these tenants.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if there are several and what they refer to is too large for a response.
    pub(super) async fn find_records<'a>(
        &self,
        scope: &IdempotencyScope,
        specs: impl Iterator<Item = &'a TenantSpec>,
    ) -> Result<Vec<IdempotencyRecord<CreatedTenant>>> {
        let hashes: Vec<_> = specs.filter_map(|spec| spec.request_id.as_ref()).map(RequestId::hash).collect();
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.store.find_tenant_records(scope, &hashes, self.clock.now()).await?;
        records.ok_or_else(|| response_too_large("requests"))
    }

    /// Returns the outcome of a tenant that was not created: a replay if there is a record of its request id, otherwise
    /// the error that its slug, its external id or the e-mail address of its owner already exists.
    fn replay(
        &self,
        scope: &IdempotencyScope,
        spec: &TenantSpec,
        record: Option<&IdempotencyRecord<CreatedTenant>>,
        existing: UniqueField,
    ) -> Result<CreateOutcome> {
        let Some((record, request_id)) = record.zip(spec.request_id.as_ref()) else {
            let value = match existing {
                UniqueField::TenantSlug => Some(spec.slug.as_str()),
                UniqueField::TenantExternalId => spec.external_id.as_ref().map(ExternalId::as_str),
                _ => None,
            };
            return Err(Error::already_exists(existing, value));
        };
        let secret_key = replayed_secret(scope.rpc, record, request_id, spec.fingerprint, self.clock.now())?;
        Ok(CreateOutcome::Replayed(Replay { created: record.created.clone(), secret_key }))
    }

    /// Generates all ids and the key before anything is written, so that one statement can write everything. The
    /// secret's hash stays empty: the keys of a batch are hashed together.
    fn prepare<'a>(&self, spec: &'a TenantSpec, created_at: OffsetDateTime) -> Result<PreparedTenant<'a>> {
        let (secret, record) = Self::new_secret(spec.request_id.as_ref(), spec.fingerprint)?;
        let MintedKey { key_id, public_key, secret_key, random_part } =
            mint_key(self.key_mode, spec.slug.as_str(), secret, &mut system_rng());
        let ids = TenantIds::generate(created_at, &mut system_rng());
        let tenant = NewTenant {
            id: ids.tenant,
            slug: spec.slug.clone(),
            name: spec.name.clone(),
            commission: spec.commission,
            external_id: spec.external_id.clone(),
            labels: spec.labels.clone(),
            segment_id: ids.segment,
            package_ids: ids.packages,
            owner: spec.owner.clone(),
            created_at,
        };
        let key = NewApiKey { key_id, public_key, secret_hash: String::new() };
        Ok(PreparedTenant { spec, insert: Arc::new(TenantInsert { tenant, key, record }), secret_key, random_part })
    }
}

impl From<CreateFullyProvisioned> for TenantSpec {
    fn from(request: CreateFullyProvisioned) -> Self {
        let fingerprint = request.fingerprint();
        let CreateFullyProvisioned { slug, name, commission, external_id, labels, request_id, .. } = request;
        Self { slug, name, commission, external_id, labels, owner: None, request_id, fingerprint }
    }
}

struct TenantIds {
    tenant: TenantId,
    segment: SegmentId,
    packages: [PackageId; defaults::PACKAGES.len()],
}

impl TenantIds {
    fn generate(now: OffsetDateTime, rng: &mut impl Rng) -> Self {
        let mut id = || -> Uuid { new_id(now, rng) };
        let (tenant, segment) = (TenantId::from_uuid(id()), SegmentId::from_uuid(id()));
        Self { tenant, segment, packages: std::array::from_fn(|_index| PackageId::from_uuid(id())) }
    }
}

/// Writes the log line that operators count, without any secret.
fn log_provisioned(tenant: &NewTenant, source: ProvisioningSource) {
    tracing::info!(
        tenant_id = %tenant.id,
        slug = tenant.slug.as_str(),
        segment_id = %tenant.segment_id,
        packages_created = tenant.package_ids.len(),
        flow = source.as_str(),
        "Fully provisioned new tenant"
    );
    metrics::count_provisioned_tenant(source.as_str());
}
