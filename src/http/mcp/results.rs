//! The results of the tools in JSON: the responses of the RPCs, by the names of the platform's earlier tools.

use prost::{Message, bytes::Bytes};
use serde::Serialize;
use serde_json::{Value, json};

use super::tools::CatalogTool;
use crate::{
    error::{Error, Result},
    grpc::pb,
};

/// Converts the response of the RPC.
pub(super) fn of(tool: CatalogTool, response: Bytes, dry_run: bool) -> Result<Value> {
    match tool {
        CatalogTool::GetSegments => {
            let page: pb::ListSegmentsResponse = decode(response)?;
            let segments: Vec<Segment> = page.segments.into_iter().map(Segment::from).collect();
            Ok(with_next_page(json!({ "segments": segments }), page.next_page_token))
        }
        CatalogTool::GetPackages => {
            let page: pb::ListPackagesResponse = decode(response)?;
            let packages: Vec<Package> = page.packages.into_iter().map(Package::from).collect();
            Ok(with_next_page(json!({ "packages": packages }), page.next_page_token))
        }
        CatalogTool::UpsertPackage => {
            let response: pb::UpsertPackageResponse = decode(response)?;
            let action = if response.action() == pb::UpsertAction::Created { "CREATED" } else { "UPDATED" };
            let package = Package::from(response.package.unwrap_or_default());
            let mut result = json!({ "action": action, "dryRun": dry_run, "package": package });
            if let Some(previous) = response.previous {
                result["previousPrice"] = previous.base_price().into();
            }
            Ok(result)
        }
    }
}

fn with_next_page(mut result: Value, next_page_token: String) -> Value {
    if !next_page_token.is_empty() {
        result["nextPageToken"] = next_page_token.into();
    }
    result
}

fn decode<Response: Message + Default>(response: Bytes) -> Result<Response> {
    Response::decode(response).map_err(Error::internal)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment {
    id: String,
    slug: String,
    name: String,
    hero_title: String,
    description: String,
    sort_order: i32,
    active: bool,
}

impl From<pb::Segment> for Segment {
    fn from(segment: pb::Segment) -> Self {
        let pb::Segment { id, slug, name, hero_title, description, sort_order, active, .. } = segment;
        Self { id, slug, name, hero_title, description, sort_order, active }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    /// Absent before a package exists.
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    segment_id: String,
    slug: String,
    title: String,
    description: String,
    price_cents: i64,
    booking_type: &'static str,
    active: bool,
    grouping_order: i32,
}

impl From<pb::Package> for Package {
    fn from(package: pb::Package) -> Self {
        let booking_type = match package.booking_type() {
            pb::BookingType::Timeslot => "TIMESLOT",
            pb::BookingType::Date | pb::BookingType::Unspecified => "DATE",
        };
        Self {
            price_cents: package.base_price(),
            booking_type,
            id: package.id,
            segment_id: package.segment_id,
            slug: package.slug,
            title: package.name,
            description: package.description,
            active: package.active,
            grouping_order: package.grouping_order,
        }
    }
}
