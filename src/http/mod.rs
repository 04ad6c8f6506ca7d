//! HTTP and JSON in front of gRPC. Each request becomes the gRPC request of the same RPC, passes the same layers and
//! handlers, and the response is converted back. Nothing is decided here that gRPC decides: who may call, limits,
//! deadlines, validation.
//!
//! [`connect`] serves every RPC by the Connect protocol, [`platform`] the two calls that the platform made before there
//! was a gRPC API. `mcp` has tools for agents. [`browsers`] refuses the requests of web pages that are not allowed to
//! call.

mod browsers;
mod call;
mod connect;
mod failure;
pub mod json;
mod lingering_body;
#[cfg(feature = "mcp")]
mod mcp;
mod platform;
mod refusal;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;

use self::refusal::{Dialect, Refusal};
#[cfg(feature = "mcp")]
use crate::grpc::layers::tenant_gate::TenantGate;
use crate::grpc::{
    Connection,
    layers::{InnerService, take_ready},
};
pub use browsers::Browsers;
#[cfg(feature = "mcp")]
#[doc(hidden)]
pub use mcp::parse_message;

const HEALTHZ: &str = "/healthz";
const LIVEZ: &str = "/livez";

/// Serves HTTP with the layers and handlers of `calls`, which serve gRPC.
#[derive(Clone)]
pub struct HttpService<Calls> {
    calls: Calls,
    shared: Arc<Shared>,
    /// `None` without tools for agents.
    #[cfg(feature = "mcp")]
    agent_tools: Option<mcp::AgentTools<Calls>>,
}

#[derive(Debug)]
struct Shared {
    browsers: Browsers,
    readiness: watch::Receiver<bool>,
}

impl<Calls: InnerService> HttpService<Calls> {
    pub fn new(calls: Calls, browsers: Browsers, readiness: watch::Receiver<bool>) -> Self {
        json::prepare();
        let shared = Arc::new(Shared { browsers, readiness });
        Self {
            calls,
            shared,
            #[cfg(feature = "mcp")]
            agent_tools: None,
        }
    }

    /// Also serves the tools for agents.
    #[cfg(feature = "mcp")]
    #[must_use]
    pub fn with_agent_tools(self, gate: TenantGate) -> Self {
        let agent_tools = mcp::AgentTools::new(self.calls.clone(), gate);
        Self { agent_tools: Some(agent_tools), ..self }
    }
}

impl<Calls: InnerService> Service<Request<Body>> for HttpService<Calls> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.calls.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = take_ready(self);
        Box::pin(async move { Ok(service.respond(request).await) })
    }
}

impl<Calls: InnerService> HttpService<Calls> {
    async fn respond(self, request: Request<Body>) -> Response<Body> {
        // A request that becomes no call keeps its connection from being idle, too.
        let _in_use = request.extensions().get::<Arc<Connection>>().map(Connection::begin_call);
        let request = lingering_body::wrap(request);
        let shared = Arc::clone(&self.shared);
        let mut response = match shared.browsers.check(&request) {
            Err(refusal) => refusal.into_response(Dialect::of_path(request.uri().path())),
            Ok(origin) => {
                let origin = origin.cloned();
                let mut response = match Browsers::preflight(&request) {
                    Some(response) => response,
                    None => self.route(request).await,
                };
                shared.browsers.expose(&mut response, origin);
                response
            }
        };
        // Responses contain keys.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    async fn route(self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        #[cfg(feature = "mcp")]
        if let Some(agent_tools) = self.agent_tools.as_ref().filter(|_| path == mcp::PATH) {
            return agent_tools.respond(request).await;
        }
        if path == HEALTHZ || path == LIVEZ {
            let is_healthy = path == LIVEZ || *self.shared.readiness.borrow();
            health(request.method(), is_healthy)
        } else if let Some(call) = platform::find(path) {
            platform::respond(self.calls, call, request).await
        } else if let Some(rpc) = json::find_rpc(path) {
            connect::respond(self.calls, rpc, request).await
        } else {
            Refusal::not_found().into_response(Dialect::Connect)
        }
    }
}

fn health(method: &Method, is_healthy: bool) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return Refusal::method_not_allowed("GET, HEAD").into_response(Dialect::Connect);
    }
    let (status, text) =
        if is_healthy { (StatusCode::OK, "SERVING") } else { (StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING") };
    refusal::json_response(status, &serde_json::json!({ "status": text }))
}
