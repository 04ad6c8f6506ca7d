//! The tools: their descriptions, their arguments, and the gRPC call of each. The names are those of the platform's
//! earlier tools (`title` for `name`, `priceCents` for `base_price`), which agents and their prompts know.

use std::sync::Arc;

use http::{Request, request};
use http_body_util::BodyExt as _;
use prost::{Message, bytes::Bytes};
use rmcp::{
    model::{CallToolResult, JsonObject, Tool, ToolAnnotations},
    schemars::{self, JsonSchema},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::{errors, results};
use crate::{
    domain::{InvalidValue, Reason, TenantId, Violations},
    error::{Error, Result},
    grpc::{
        layers::{AuthenticatedCaller, InnerService, transcoding::Transcoder},
        pb,
    },
    http::{call, failure::Failure, json},
};

/// Packages or segments in a result. A hundred packages with the longest texts stay below 4 MiB, as text and as JSON.
const PAGE_SIZE: i32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CatalogTool {
    GetSegments,
    GetPackages,
    UpsertPackage,
}

use CatalogTool::{GetPackages, GetSegments, UpsertPackage};

const TOOLS: [CatalogTool; 3] = [GetSegments, GetPackages, UpsertPackage];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetSegmentsArguments {
    /// `nextPageToken` of the previous result. Absent for the first page.
    page_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetPackagesArguments {
    /// Only the packages of this segment, by its id.
    segment_id: Option<String>,
    /// Only active packages if true, only inactive ones if false.
    active: Option<bool>,
    /// `nextPageToken` of the previous result, with the same other arguments. Absent for the first page.
    page_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpsertPackageArguments {
    /// The id of the package to update. If absent, the package with the slug is updated, or a package is created.
    package_id: Option<String>,
    /// The package's name in URLs: 3 to 63 characters of a-z, 0-9 and -. If absent, a new package gets one from its
    /// title.
    slug: Option<String>,
    /// What customers see: 1 to 200 characters. Required for a new package.
    title: Option<String>,
    /// Up to 2,000 characters. An empty text clears the description.
    description: Option<String>,
    /// The price in cents, 0 or more. Required for a new package.
    price_cents: Option<i64>,
    /// How customers book it: DATE or TIMESLOT. A new package has DATE by default.
    #[schemars(extend("enum" = ["DATE", "TIMESLOT", "", null]))]
    booking_type: Option<String>,
    /// Whether customers can book it. A new package is active by default.
    active: Option<bool>,
    /// The position among the packages, in ascending order. A new package goes after the last by default.
    grouping_order: Option<i32>,
    /// The id of the segment to put the package in. If absent, a new package goes to the General segment and an
    /// existing one stays where it is.
    segment_id: Option<String>,
    /// If true, only checks the call and returns what it would do. Nothing is changed.
    dry_run: Option<bool>,
}

/// Returns the description of each tool.
pub(super) fn list() -> Vec<Tool> {
    TOOLS.into_iter().map(CatalogTool::describe).collect()
}

pub(super) fn find(name: &str) -> Option<CatalogTool> {
    TOOLS.into_iter().find(|tool| tool.name() == name)
}

impl CatalogTool {
    const fn name(self) -> &'static str {
        match self {
            GetSegments => "get_segments",
            GetPackages => "get_packages",
            UpsertPackage => "upsert_package",
        }
    }

    const fn rpc_path(self) -> &'static str {
        match self {
            GetSegments => "/turnkey.v1.PackageCatalog/ListSegments",
            GetPackages => "/turnkey.v1.PackageCatalog/ListPackages",
            UpsertPackage => "/turnkey.v1.PackageCatalog/UpsertPackage",
        }
    }

    fn describe(self) -> Tool {
        let tool = |description| Tool::new(self.name(), description, JsonObject::new());
        let read_only = ToolAnnotations::new().read_only(true).open_world(false);
        match self {
            GetSegments => tool(
                "Lists the segments, in the order of the storefront. If the result has nextPageToken, there are more.",
            )
            .with_input_schema::<GetSegmentsArguments>()
            .annotate(read_only),
            GetPackages => {
                tool("Lists the packages, by groupingOrder. If the result has nextPageToken, there are more.")
                    .with_input_schema::<GetPackagesArguments>()
                    .annotate(read_only)
            }
            UpsertPackage => tool(
                "Creates a package, or changes the given fields of one. Returns the action (CREATED or UPDATED), the \
                 package and, after an update, previousPrice. With dryRun it returns the same and changes nothing.",
            )
            .with_input_schema::<UpsertPackageArguments>()
            .annotate(ToolAnnotations::new().read_only(false).destructive(true).open_world(false)),
        }
    }

    /// Returns the request of the RPC, and whether it changes nothing.
    pub(super) fn request(self, tenant_id: TenantId, arguments: &JsonObject) -> Result<(Bytes, bool)> {
        let tenant_id = tenant_id.to_string();
        let (message, dry_run) = match self {
            GetSegments => {
                let GetSegmentsArguments { page_token } = parse(arguments)?;
                let page_token = page_token.unwrap_or_default();
                (
                    pb::ListSegmentsRequest { tenant_id, page_size: PAGE_SIZE, page_token, active: None }
                        .encode_to_vec(),
                    true,
                )
            }
            GetPackages => {
                let GetPackagesArguments { segment_id, active, page_token } = parse(arguments)?;
                let page_token = page_token.unwrap_or_default();
                let request =
                    pb::ListPackagesRequest { tenant_id, page_size: PAGE_SIZE, page_token, segment_id, active };
                (request.encode_to_vec(), true)
            }
            UpsertPackage => {
                let arguments: UpsertPackageArguments = parse(arguments)?;
                let request = pb::UpsertPackageRequest {
                    tenant_id,
                    package_id: arguments.package_id,
                    slug: arguments.slug,
                    name: arguments.title,
                    description: arguments.description,
                    base_price: arguments.price_cents,
                    booking_type: booking_type(arguments.booking_type.as_deref())?.into(),
                    active: arguments.active,
                    grouping_order: arguments.grouping_order,
                    segment_id: arguments.segment_id,
                    validate_only: arguments.dry_run,
                    ..pb::UpsertPackageRequest::default()
                };
                (request.encode_to_vec(), request.validate_only())
            }
        };
        Ok((message.into(), dry_run))
    }
}

fn parse<Arguments: DeserializeOwned>(arguments: &JsonObject) -> Result<Arguments> {
    json::parse_as(&json::to_json(arguments)?)
}

/// An empty text counts as absent.
fn booking_type(text: Option<&str>) -> Result<pb::BookingType> {
    match text {
        None | Some("") => Ok(pb::BookingType::Unspecified),
        Some("DATE") => Ok(pb::BookingType::Date),
        Some("TIMESLOT") => Ok(pb::BookingType::Timeslot),
        Some(_) => {
            let mut violations = Violations::default();
            violations.add("booking_type", InvalidValue::new(Reason::BadFormat, "must be DATE or TIMESLOT"));
            Err(violations.into())
        }
    }
}

/// Calls the tool for the tenant that `head`, the head of the HTTP request, was authenticated as.
pub(super) async fn call(
    calls: impl InnerService,
    head: &request::Parts,
    tool: CatalogTool,
    arguments: JsonObject,
) -> CallToolResult {
    match try_call(calls, head, tool, arguments).await {
        Ok(result) => CallToolResult::structured(result),
        Err(failure) => errors::tool_error(&failure),
    }
}

async fn try_call(
    mut calls: impl InnerService,
    head: &request::Parts,
    tool: CatalogTool,
    arguments: JsonObject,
) -> std::result::Result<Value, Failure> {
    let caller = head.extensions.get::<AuthenticatedCaller>();
    let key = caller.and_then(|AuthenticatedCaller(caller)| caller.presented_key());
    let key = key.ok_or_else(|| Failure::of(Error::internal("the agent was not authenticated")))?;
    let (message, dry_run) = tool.request(key.tenant_id, &arguments).map_err(Failure::of)?;
    let request = Request::from_parts(head.clone(), Body::empty());
    let Ok(_ready) = calls.ready().await;
    let response = call::send(calls, tool.rpc_path(), request, None, Arc::new(Prepared(message))).await;
    let body = call::unary_message(response).await?.collect().await.map_err(Failure::new)?;
    results::of(tool, body.to_bytes(), dry_run).map_err(Failure::of)
}

/// Replaces the body of the request, which has been received already. The response stays protobuf.
struct Prepared(Bytes);

impl Transcoder for Prepared {
    fn decode_request(&self, _body: Bytes) -> Result<Bytes> {
        Ok(self.0.clone())
    }

    fn encode_response(&self, message: Bytes) -> Result<Bytes> {
        Ok(message)
    }
}
