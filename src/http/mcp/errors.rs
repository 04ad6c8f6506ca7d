//! Failed calls in words that an agent can act on: what is wrong with which argument, by the names of the tools, and
//! what to do. Programs read the reason at the beginning.

use rmcp::model::{CallToolResult, ContentBlock};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::{grpc::status::code_name, http::failure::Failure};

/// The fields of the RPCs that have another name in the tools.
const ARGUMENTS: [(&str, &str); 8] = [
    ("package_id", "packageId"),
    ("segment_id", "segmentId"),
    ("name", "title"),
    ("base_price", "priceCents"),
    ("booking_type", "bookingType"),
    ("grouping_order", "groupingOrder"),
    ("page_token", "pageToken"),
    ("validate_only", "dryRun"),
];

pub(super) fn tool_error(failure: &Failure) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(describe(failure.status()))])
}

fn describe(status: &Status) -> String {
    let info = status.get_details_error_info();
    let reason = info.as_ref().map_or_else(|| code_name(status.code()), |info| info.reason.as_str());
    let quota = status.get_details_quota_failure().and_then(|quota| quota.violations.into_iter().next());
    let invalid = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    let mut lines: Vec<String> = invalid
        .iter()
        .map(|violation| format!("{} {}", argument(&violation.field), words(&violation.description)))
        .collect();
    if lines.is_empty() {
        // The description of a quota begins with the message, and says more.
        lines.push(quota.map_or_else(|| status.message().to_owned(), |quota| quota.description));
    }
    if reason == "PACKAGE_NOT_FOUND" {
        lines.push("Use get_packages to find the packages.".to_owned());
    }
    if let Some(delay) = status.get_details_retry_info().and_then(|retry| retry.retry_delay) {
        lines.push(format!("Try again in {} ms.", delay.as_millis()));
    }
    // The message about a missing segment names the RPC that finds segments.
    format!("{reason}: {}", lines.join("\n")).replace("ListSegments", "get_segments")
}

fn argument(field: &str) -> &str {
    ARGUMENTS.iter().find(|(name, _)| *name == field).map_or(field, |(_, argument)| argument)
}

fn words(description: &str) -> &str {
    match description {
        "must be i32" | "must be i64" => "must be a whole number",
        "is not a field of this request" => "is not an argument of this tool",
        other => other,
    }
}
