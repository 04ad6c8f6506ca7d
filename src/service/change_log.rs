//! One INFO line for each change, with the ids of what changed. The span of the call or command adds the caller and the
//! RPC. A call that changes nothing, and a replay, have no line.
//!
//! Operators rely on the messages: docs/operations.md lists them. The line of a new tenant is in `provisioning.rs`.

use time::OffsetDateTime;

use crate::{
    domain::{
        ApiKey, Package, PackageId, Segment, SegmentId, Tenant, TenantChange, TenantId, adoption::Adoption,
        catalog::UpsertResult, idempotency::IdempotentRpc, owner::OwnerTokenPurpose,
    },
    store::{RepairResult, ResetResult},
};

/// `now` is the time of the change. A change to the same values leaves an earlier `updated_at`, and has no line.
pub(super) fn tenant_changed(tenant: &Tenant, change: &TenantChange, now: OffsetDateTime) {
    if tenant.updated_at != now {
        return;
    }
    let message = match change {
        TenantChange::Update(_) => "Updated tenant",
        TenantChange::Suspend => "Suspended tenant",
        TenantChange::Reactivate => "Reactivated tenant",
        TenantChange::Delete(_) => "Deleted tenant",
        TenantChange::Undelete => "Undeleted tenant",
    };
    tracing::info!(tenant_id = %tenant.id, "{message}");
}

pub(super) fn tenant_adopted(adoption: &Adoption) {
    let Adoption { tenant, segments, packages } = adoption;
    tracing::info!(
        tenant_id = %tenant.id,
        slug = tenant.slug.as_str(),
        segments = segments.len(),
        packages = packages.len(),
        "Adopted tenant"
    );
}

pub(super) fn tenant_purged(tenant_id: TenantId) {
    tracing::info!(%tenant_id, "Purged tenant");
}

/// A repair that found nothing to do has no line.
pub(super) fn tenant_repaired(tenant_id: TenantId, result: &RepairResult) {
    if result.has_changes() {
        tracing::info!(
            %tenant_id,
            segments_created = result.segments_created,
            packages_created = result.packages_created,
            api_keys_created = result.api_keys_created,
            packages_moved = result.packages_moved,
            usage_counts_corrected = result.usage_counts_corrected,
            emails_corrected = result.emails_corrected,
            signups_cleared = result.signups_cleared,
            idempotency_records_deleted = result.idempotency_records_deleted,
            "Repaired tenant"
        );
    }
}

pub(super) fn stray_rows_deleted(tenant_id: TenantId, rows_deleted: i64) {
    tracing::info!(%tenant_id, rows_deleted, "Deleted rows of a missing tenant");
}

/// `key` is the new key.
pub(super) fn api_key_added(key: &ApiKey, rpc: IdempotentRpc) {
    let message = if rpc == IdempotentRpc::RotateApiKey { "Rotated API key" } else { "Created API key" };
    tracing::info!(tenant_id = %key.tenant_id, public_key = key.public_key, "{message}");
}

/// A key that was revoked earlier keeps its time, and has no line.
pub(super) fn api_key_revoked(key: &ApiKey, now: OffsetDateTime) {
    if key.revoked_at == Some(now) {
        tracing::info!(tenant_id = %key.tenant_id, public_key = key.public_key, "Revoked API key");
    }
}

pub(super) fn owner_set(tenant_id: TenantId) {
    tracing::info!(%tenant_id, "Set owner");
}

pub(super) fn owner_token_created(tenant_id: TenantId, purpose: OwnerTokenPurpose) {
    tracing::info!(%tenant_id, %purpose, "Created owner token");
}

pub(super) fn password_changed(tenant_id: TenantId) {
    tracing::info!(%tenant_id, "Changed password");
}

pub(super) fn password_reset(tenant_id: TenantId, result: &ResetResult) {
    let ResetResult { is_email_verified, api_keys_revoked } = result;
    tracing::info!(%tenant_id, is_email_verified, api_keys_revoked, "Reset password");
}

pub(super) fn email_verified(tenant_id: TenantId) {
    tracing::info!(%tenant_id, "Verified e-mail address");
}

pub(super) fn package_upserted(result: &UpsertResult<Package>, now: OffsetDateTime) {
    let Package { tenant_id, id: package_id, segment_id, .. } = &result.item;
    if let Some(verb) = upsert_verb(result.created, result.item.updated_at, now) {
        tracing::info!(%tenant_id, %package_id, %segment_id, "{verb} package");
    }
}

pub(super) fn package_deleted(tenant_id: TenantId, package_id: PackageId) {
    tracing::info!(%tenant_id, %package_id, "Deleted package");
}

pub(super) fn segment_upserted(result: &UpsertResult<Segment>, now: OffsetDateTime) {
    let Segment { tenant_id, id: segment_id, .. } = &result.item;
    if let Some(verb) = upsert_verb(result.created, result.item.updated_at, now) {
        tracing::info!(%tenant_id, %segment_id, "{verb} segment");
    }
}

pub(super) fn segment_deleted(tenant_id: TenantId, segment_id: SegmentId) {
    tracing::info!(%tenant_id, %segment_id, "Deleted segment");
}

/// Returns `None` if the upsert changed nothing.
fn upsert_verb(created: bool, updated_at: OffsetDateTime, now: OffsetDateTime) -> Option<&'static str> {
    match (created, updated_at == now) {
        (true, _) => Some("Created"),
        (false, true) => Some("Updated"),
        (false, false) => None,
    }
}
