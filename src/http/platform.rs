//! The two calls of the platform's earlier API, for callers that cannot change: the same paths, field names and
//! responses. Each is one RPC.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use prost::{Message as _, bytes::Bytes};
use serde::{Deserialize, Serialize};
use tonic::body::Body;

use super::{
    call,
    connect::media_type,
    json,
    refusal::{Dialect, Refusal},
};
use crate::{
    error::{Error, Result},
    grpc::{
        layers::{InnerService, transcoding::Transcoder},
        pb,
    },
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlatformCall {
    CreateTenant,
    SignUp,
}

pub(super) fn find(path: &str) -> Option<PlatformCall> {
    match path {
        "/api/v1/admin/tenants" => Some(PlatformCall::CreateTenant),
        "/v1/auth/signup" => Some(PlatformCall::SignUp),
        _ => None,
    }
}

impl PlatformCall {
    const fn rpc_path(self) -> &'static str {
        match self {
            Self::CreateTenant => "/turnkey.v1.TenantProvisioning/CreateFullyProvisioned",
            Self::SignUp => "/turnkey.v1.TenantProvisioning/CreateFromSignup",
        }
    }

    /// The fields of the RPC that have another name here.
    const fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::CreateTenant => &[("commission_percent", "commission"), ("request_id", "Idempotency-Key")],
            Self::SignUp => &[("business_name", "businessName"), ("request_id", "Idempotency-Key")],
        }
    }
}

/// An absent required field is left to the RPC, which reports it together with the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateTenant {
    slug: Option<String>,
    name: Option<String>,
    commission: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignUp {
    email: Option<String>,
    password: Option<String>,
    business_name: Option<String>,
    slug: Option<String>,
}

/// The response, whose sign-up form has the fields of [`SignedUp`] too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provisioned<'a> {
    #[serde(flatten)]
    signed_up: Option<SignedUp<'a>>,
    tenant: Tenant<'a>,
    secret_key: &'a str,
    segment: Named<'a>,
    packages: Vec<Named<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedUp<'a> {
    tenant_id: &'a str,
    slug: &'a str,
    email: &'a str,
    api_key_public: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tenant<'a> {
    #[serde(flatten)]
    named: Named<'a>,
    api_key_public: &'a str,
    commission_percent: f64,
    is_active: bool,
    /// In the form of RFC 3339.
    created_at: String,
}

#[derive(Serialize)]
struct Named<'a> {
    id: &'a str,
    slug: &'a str,
    name: &'a str,
}

pub(super) async fn respond(calls: impl InnerService, call: PlatformCall, request: Request<Body>) -> Response<Body> {
    let headers = request.headers();
    if request.method() != Method::POST {
        return Refusal::method_not_allowed("POST").into_response(Dialect::Platform);
    }
    if media_type(headers).as_deref() != Some("application/json") {
        return Refusal::unsupported_media_type("application/json").into_response(Dialect::Platform);
    }
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Refusal::unsupported_encoding().into_response(Dialect::Platform);
    }
    let idempotency_key = idempotency_key(headers);
    let transcoder = Arc::new(PlatformTranscoder {
        call,
        idempotency_key,
        is_decoded: AtomicBool::new(false),
        is_replay: AtomicBool::new(false),
    });
    let response =
        call::send(calls, call.rpc_path(), request, None, Arc::<PlatformTranscoder>::clone(&transcoder)).await;
    match call::unary_message(response).await {
        Ok(body) => {
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::CREATED;
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if transcoder.is_replay.load(Ordering::Relaxed) {
                headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            }
            response
        }
        Err(failure) => {
            // An error about the JSON has the caller's names already.
            let fields = if transcoder.is_decoded.load(Ordering::Relaxed) { call.fields() } else { &[] };
            failure.into_response(Dialect::Platform, fields)
        }
    }
}

/// Returns the header as the `request_id`, which the RPC validates. Several headers, or one that is not text, become a
/// text that is not valid.
fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(IDEMPOTENCY_KEY).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values.map(String::from).reduce(|all, next| format!("{all}, {next}"))
}

struct PlatformTranscoder {
    call: PlatformCall,
    idempotency_key: Option<String>,
    /// Whether the request has been converted.
    is_decoded: AtomicBool,
    /// Known once the response has been converted.
    is_replay: AtomicBool,
}

impl Transcoder for PlatformTranscoder {
    fn decode_request(&self, body: Bytes) -> Result<Bytes> {
        let request_id = self.idempotency_key.clone();
        let message = match self.call {
            PlatformCall::CreateTenant => {
                let CreateTenant { slug, name, commission } = json::parse_as(&body)?;
                pb::CreateFullyProvisionedRequest {
                    slug: slug.unwrap_or_default(),
                    name: name.unwrap_or_default(),
                    commission_percent: commission,
                    request_id,
                    ..pb::CreateFullyProvisionedRequest::default()
                }
                .encode_to_vec()
            }
            PlatformCall::SignUp => {
                let SignUp { email, password, business_name, slug } = json::parse_as(&body)?;
                pb::CreateFromSignupRequest {
                    business_name: business_name.unwrap_or_default(),
                    email: email.unwrap_or_default(),
                    password: password.unwrap_or_default(),
                    slug,
                    request_id,
                }
                .encode_to_vec()
            }
        };
        self.is_decoded.store(true, Ordering::Relaxed);
        Ok(message.into())
    }

    fn encode_response(&self, message: Bytes) -> Result<Bytes> {
        let (json, is_replay) = match self.call {
            PlatformCall::CreateTenant => {
                let created = pb::CreateFullyProvisionedResponse::decode(message).map_err(Error::internal)?;
                let (tenant, segment) = (created.tenant.unwrap_or_default(), created.segment.unwrap_or_default());
                let response = provisioned(&tenant, &created.secret_key, &segment, &created.packages);
                (json::to_json(&response), created.replayed)
            }
            PlatformCall::SignUp => {
                let created = pb::CreateFromSignupResponse::decode(message).map_err(Error::internal)?;
                let (tenant, segment) = (created.tenant.unwrap_or_default(), created.segment.unwrap_or_default());
                let response = Provisioned {
                    signed_up: Some(SignedUp {
                        tenant_id: &tenant.id,
                        slug: &tenant.slug,
                        email: tenant.owner_email(),
                        api_key_public: &tenant.api_key_public,
                    }),
                    ..provisioned(&tenant, &created.secret_key, &segment, &created.packages)
                };
                (json::to_json(&response), created.replayed)
            }
        };
        self.is_replay.store(is_replay, Ordering::Relaxed);
        json
    }
}

fn provisioned<'a>(
    tenant: &'a pb::Tenant,
    secret_key: &'a str,
    segment: &'a pb::Segment,
    packages: &'a [pb::Package],
) -> Provisioned<'a> {
    let packages =
        packages.iter().map(|package| Named { id: &package.id, slug: &package.slug, name: &package.name }).collect();
    Provisioned {
        signed_up: None,
        tenant: Tenant {
            named: Named { id: &tenant.id, slug: &tenant.slug, name: &tenant.name },
            api_key_public: &tenant.api_key_public,
            commission_percent: tenant.commission_percent,
            is_active: tenant.is_active,
            created_at: tenant.created_at.unwrap_or_default().to_string(),
        },
        secret_key,
        segment: Named { id: &segment.id, slug: &segment.slug, name: &segment.name },
        packages,
    }
}
