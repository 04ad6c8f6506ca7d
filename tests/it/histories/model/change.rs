//! Changes as their events describe them, and which call can have left one.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use turnkey::grpc::pb::Event;

use super::super::history::Call;

/// What an event says, and what it tells of ids that no response contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: String,
    /// The texts of its data, with numbers as texts. Lists are left out.
    data: BTreeMap<String, String>,
}

impl Change {
    pub fn of(event: &Event) -> Self {
        let text = |kind: &Kind| match kind {
            Kind::StringValue(text) => Some(text.clone()),
            Kind::NumberValue(number) => Some(format!("{number}")),
            Kind::BoolValue(is_true) => Some(is_true.to_string()),
            _ => None,
        };
        let fields = event.data.iter().flat_map(|data| &data.fields);
        let data = fields.filter_map(|(name, value)| Some((name.clone(), text(value.kind.as_ref()?)?)));
        let tenant_id = ("tenant_id".to_owned(), event.tenant_id.clone());
        Self { kind: event.r#type.clone(), data: data.chain([tenant_id]).collect() }
    }

    pub fn new(kind: &str, data: &[(&str, &str)]) -> Self {
        let data = data.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { kind: kind.to_owned(), data }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.data.get(name).map(String::as_str)
    }

    /// Whether it is of this kind and has these data.
    pub fn has(&self, kind: &str, data: &[(&str, &str)]) -> bool {
        self.kind == kind && data.iter().all(|(name, value)| self.get(name) == Some(value))
    }
}

impl Call {
    /// Whether this can be the first event of the call.
    pub fn may_leave(&self, change: &Change) -> bool {
        match self {
            Self::Create => change.kind == "tenant.created",
            Self::Rename { name, .. } => change.has("tenant.updated", &[("name", name)]),
            Self::SetActive(true) => change.kind == "tenant.reactivated",
            Self::SetActive(false) => change.kind == "tenant.suspended",
            Self::Delete { .. } => change.kind == "tenant.deleted",
            Self::Undelete => change.kind == "tenant.undeleted",
            Self::Purge => change.kind == "tenant.purged",
            Self::Repair => change.kind == "tenant.repaired",
            Self::SetOwner { .. } => change.kind == "owner.set",
            Self::ResetPassword { .. } | Self::ChangePassword { .. } => change.kind == "owner.password_changed",
            Self::VerifyEmail { .. } => change.kind == "owner.email_verified",
            Self::CreateKey { .. } => change.kind == "api_key.created",
            Self::Rotate { .. } => change.kind == "api_key.rotated",
            Self::Revoke { public_key } => change.has("api_key.revoked", &[("public_key", public_key)]),
            Self::UpsertPackages { items, .. } => change.get("base_price") == Some(&items[0].1.to_string()),
            Self::DeletePackage { id, .. } => change.has("package.deleted", &[("package_id", id)]),
            Self::UpsertSegment { name, .. } => change.get("name") == Some(name),
            Self::DeleteSegment { id, .. } => change.has("segment.deleted", &[("segment_id", id)]),
            Self::CreateOwnerToken { .. }
            | Self::Damage
            | Self::GetTenant
            | Self::ListKeys
            | Self::VerifyKey { .. }
            | Self::VerifyPassword { .. }
            | Self::ListPackages
            | Self::ListSegments => false,
        }
    }
}
