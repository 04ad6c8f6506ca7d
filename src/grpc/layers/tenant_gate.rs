//! Admits requests that are not calls themselves but may lead to one: those of agents. They need a tenant's own key,
//! also where calls need no credential, and their bodies are received within the limits of calls.

use std::sync::Arc;

use http::{Request, Response};
use prost::bytes::Bytes;
use tokio::time::timeout;
use tonic::{Status, body::Body};

use super::{
    admission::{Admission, Payer},
    authentication::{AuthenticatedCaller, CallerName},
    call_context::MAX_CALL_DURATION,
    held_response::ResponseHolder,
    refusal_log::RefusalLog,
};
use crate::{
    error::Error,
    grpc::{authenticator::Authenticator, connection::Connection, fair_limit::FairLimit, status},
};

#[derive(Debug, Clone)]
pub struct TenantGate {
    authenticator: Authenticator,
    admission: Admission,
    requests: FairLimit<Payer>,
    refusals: RefusalLog,
}

impl TenantGate {
    /// `admission` is that of the calls, and `requests` limits the requests in progress. These have a limit of their
    /// own, because each call takes a permit, too: requests that hold all permits could make none of their calls.
    pub fn new(authenticator: Authenticator, admission: Admission, requests: FairLimit<Payer>) -> Self {
        Self { authenticator, admission, requests, refusals: RefusalLog::default() }
    }

    /// Identifies the tenant and receives the body. The caller is then an extension of the request, and a call with
    /// these extensions is not authenticated again. `name` is that of the request in the log of refusals.
    pub async fn admit(
        &self,
        name: &'static str,
        request: &mut Request<Body>,
    ) -> Result<(Bytes, ResponseHolder), Status> {
        let mut caller_name = None;
        let admit = async {
            let connection = request.extensions().get::<Arc<Connection>>().map(Arc::clone);
            let connection = connection.ok_or_else(|| Error::internal("the request has no connection"))?;
            let caller = self.authenticator.authenticate_tenant(request.headers(), &connection).await?;
            caller_name = Some(CallerName(Arc::clone(caller.name())));
            let payer = Payer::Caller(Arc::clone(caller.name()));
            let body = std::mem::take(request.body_mut());
            let received = self.admission.receive(&self.requests, &payer, connection, body).await?;
            request.extensions_mut().insert(AuthenticatedCaller(caller));
            Ok(received)
        };
        let result = timeout(MAX_CALL_DURATION, admit).await.unwrap_or(Err(Error::DeadlineExceeded));
        result.map_err(|error| {
            let status = status::of_refused_request(error);
            let mut response: Response<Body> = status.clone().into_http();
            if let Some(name) = caller_name {
                response.extensions_mut().insert(name);
            }
            self.refusals.observe(name, &response);
            status
        })
    }
}
