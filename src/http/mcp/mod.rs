//! Tools for agents by the Model Context Protocol (<https://modelcontextprotocol.io/specification>): streamable HTTP,
//! without sessions and streams. The official SDK implements the protocol. [`tools`] has the tools: one gRPC call for
//! each.
//!
//! Each request needs a tenant's own key and acts on that tenant alone. [`TenantGate`] authenticates it and receives
//! its body, so that the SDK gets no credential and nothing that is too large.

mod errors;
mod results;
mod tools;

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use prost::bytes::Bytes;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, ClientJsonRpcMessage, ClientRequest, Implementation, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, ServerJsonRpcMessage,
    },
    service::RequestContext,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, streamable_http_server::session::never::NeverSessionManager,
    },
};
use serde_json::error::Category;
use tonic::body::Body;

use super::{
    connect::media_type,
    failure::Failure,
    json,
    refusal::{Dialect, Refusal, json_response},
};
use crate::{
    domain::TenantId,
    error::Error,
    grpc::layers::{InnerService, tenant_gate::TenantGate},
};

pub(super) const PATH: &str = "/mcp";
/// The values in the JSON of a message. The SDK keeps those that are not arguments until its response.
const MAX_VALUES: usize = 1_000;
/// The SDK requires what the specification tells clients to accept. The response is always JSON.
const ACCEPTED: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const INSTRUCTIONS: &str = "Manages the catalog of one tenant of a booking platform: its packages, which customers \
                            book, and the segments that they are in. Prices are in cents.";

/// Serves `/mcp`. Cheap to clone.
pub(super) struct AgentTools<Calls> {
    gate: Arc<TenantGate>,
    protocol: StreamableHttpService<ToolServer<Calls>, NeverSessionManager>,
}

impl<Calls> Clone for AgentTools<Calls> {
    fn clone(&self) -> Self {
        Self { gate: Arc::clone(&self.gate), protocol: self.protocol.clone() }
    }
}

impl<Calls: InnerService> AgentTools<Calls> {
    pub fn new(calls: Calls, gate: TenantGate) -> Self {
        // `browsers` has checked Host and Origin.
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .disable_allowed_hosts();
        let server = move || Ok(ToolServer { calls: calls.clone() });
        let protocol = StreamableHttpService::new(server, Arc::new(NeverSessionManager::default()), config);
        Self { gate: Arc::new(gate), protocol }
    }

    pub async fn respond(&self, mut request: Request<Body>) -> Response<Body> {
        let headers = request.headers();
        let refusal = if request.method() != Method::POST {
            Some(Refusal::method_not_allowed("POST"))
        } else if media_type(headers).as_deref() != Some("application/json") {
            Some(Refusal::unsupported_media_type("application/json"))
        } else if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            Some(Refusal::unsupported_encoding())
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return refusal.into_response(Dialect::Platform);
        }
        let (body, holder) = match self.gate.admit("mcp", &mut request).await {
            Ok(admitted) => admitted,
            Err(status) => return Failure::new(status).into_response(Dialect::Platform, &[]),
        };
        if let Err(error) = json::check_cost(&body, MAX_VALUES) {
            return Failure::of(error).into_response(Dialect::Platform, &[]);
        }
        if let Err(error) = serde_json::from_slice::<ClientJsonRpcMessage>(&body) {
            return unreadable(&error);
        }
        request.headers_mut().remove(header::AUTHORIZATION);
        request.headers_mut().insert(header::ACCEPT, ACCEPTED);
        let response = self.protocol.handle(request.map(|_received| Full::new(body))).await;
        // Never refused at this point: the agent has to learn what its tool has changed.
        let held = holder.hold(response.map(Body::new), false);
        held.unwrap_or_else(|error| Failure::of(error).into_response(Dialect::Platform, &[]))
    }
}

/// The response to a body that is not a message of the protocol.
fn unreadable(error: &serde_json::Error) -> Response<Body> {
    let error = if error.classify() == Category::Data {
        ErrorData::invalid_request("the body must be one JSON-RPC 2.0 message", None)
    } else {
        let (line, column) = (error.line(), error.column());
        ErrorData::parse_error(format!("the JSON is malformed at line {line} column {column}"), None)
    };
    json_response(StatusCode::BAD_REQUEST, &ServerJsonRpcMessage::error(error, None))
}

/// Returns the request of the RPC that a message of an agent makes for this tenant; `None` if it calls no tool. For
/// fuzzing: the service itself leaves to the SDK what is a call.
///
/// # Errors
/// Those of a message that is refused.
#[doc(hidden)]
pub fn parse_message(body: &[u8], tenant_id: TenantId) -> crate::error::Result<Option<Bytes>> {
    json::check_cost(body, MAX_VALUES)?;
    let message = serde_json::from_slice(body).map_err(|error| Error::MalformedMessage(error.to_string()))?;
    let ClientJsonRpcMessage::Request(message) = message else { return Ok(None) };
    let ClientRequest::CallToolRequest(call) = message.request else { return Ok(None) };
    let Some(tool) = tools::find(&call.params.name) else { return Ok(None) };
    let (request, _dry_run) = tool.request(tenant_id, &call.params.arguments.unwrap_or_default())?;
    Ok(Some(request))
}

/// What the SDK calls for a request.
struct ToolServer<Calls> {
    calls: Calls,
}

impl<Calls: InnerService> ServerHandler for ToolServer<Calls> {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("turnkey", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::list()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = tools::find(&request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool {:?}", request.name), None));
        };
        let Some(head) = context.extensions.get::<http::request::Parts>() else {
            return Err(ErrorData::internal_error("the call has no HTTP request", None));
        };
        Ok(tools::call(self.calls.clone(), head, tool, request.arguments.unwrap_or_default()).await.into())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_call_of_a_tool_becomes_a_request_for_the_tenant_and_another_message_does_not() {
        let tenant_id = TenantId::from_uuid(Uuid::from_u128(1));
        let parse = |method: &str, params: &str| {
            let message = format!(r#"{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {params}}}"#);
            parse_message(message.as_bytes(), tenant_id).unwrap()
        };
        let request = parse("tools/call", r#"{"name": "get_packages", "arguments": {}}"#).unwrap();
        assert!(request.starts_with(format!("\n${tenant_id}").as_bytes()), "{request:?}");
        assert_eq!(parse("tools/list", "{}"), None);
    }
}
