//! The same calls by HTTP and JSON, compared with gRPC. The callers speak the Connect protocol over HTTP/2 in plaintext
//! and share a connection on each thread, as those of gRPC do, so that the ratio shows what the translation costs. They
//! do not parse the responses.

use std::{net::SocketAddr, time::Duration};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::codegen::Bytes;
use uuid::Uuid;

use crate::{
    environment::BenchEnv,
    load::{Measurement, Target, generate_load},
    workloads::{self, CALLERS, Goal, Runner, SampleTenant, of_caller, short_id},
};

const GOAL: Goal = Goal::MinRate(0.6);

#[derive(Debug, Clone, Copy)]
pub struct HttpTarget(pub SocketAddr);

#[derive(Debug, Clone)]
pub struct HttpClient {
    requests: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Target for HttpTarget {
    type Client = HttpClient;

    async fn connect(&self) -> HttpClient {
        let socket = TcpStream::connect(self.0).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        HttpClient { requests, address: self.0 }
    }
}

impl HttpClient {
    async fn call(mut self, rpc: &str, message: Value) -> u64 {
        let request = Request::post(format!("http://{}/turnkey.v1.{rpc}", self.address))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(message.to_string())))
            .unwrap();
        let response = self.requests.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{rpc}");
        response.into_body().collect().await.unwrap();
        1
    }
}

/// Compares each call with the same call by gRPC.
pub fn compare(runner: &mut Runner<'_>, env: &BenchEnv, tenants: &[SampleTenant], window: Duration) {
    let baseline = |_| workloads::create(env, CALLERS, window).rate;
    runner.compare("CreateFullyProvisioned by HTTP", || create(env, window), "by gRPC", baseline, GOAL);
    let baseline = |_| workloads::get_package(env, tenants, window).rate;
    runner.compare("GetPackage by HTTP", || get_package(env, tenants, window), "by gRPC", baseline, GOAL);
    let baseline = |_| workloads::list_packages(env, tenants, window).rate;
    runner.compare("ListPackages (3) by HTTP", || list_packages(env, tenants, window), "by gRPC", baseline, GOAL);
    let baseline = |_| workloads::update_package(env, tenants, window).rate;
    runner.compare("UpsertPackage by HTTP", || update_package(env, tenants, window), "by gRPC", baseline, GOAL);
    let baseline = |_| workloads::verify_api_key(env, &tenants[0], window).rate;
    runner.compare("VerifyApiKey by HTTP", || verify_api_key(env, &tenants[0], window), "by gRPC", baseline, GOAL);
}

fn create(env: &BenchEnv, window: Duration) -> Measurement {
    let run = short_id();
    generate_load(&env.http, CALLERS, window, |client, caller, number| {
        let slug = format!("h{run}-{caller}-{number}");
        let request = json!({ "slug": slug, "name": "Bella Weddings", "requestId": Uuid::new_v4() });
        client.call("TenantProvisioning/CreateFullyProvisioned", request)
    })
}

fn get_package(env: &BenchEnv, tenants: &[SampleTenant], window: Duration) -> Measurement {
    generate_load(&env.http, CALLERS, window, |client, caller, _| {
        let tenant = of_caller(tenants, caller);
        let request = json!({ "tenantId": tenant.id, "packageId": tenant.package_id });
        client.call("PackageCatalog/GetPackage", request)
    })
}

fn list_packages(env: &BenchEnv, tenants: &[SampleTenant], window: Duration) -> Measurement {
    generate_load(&env.http, CALLERS, window, |client, caller, _| {
        client.call("PackageCatalog/ListPackages", json!({ "tenantId": of_caller(tenants, caller).id }))
    })
}

fn update_package(env: &BenchEnv, tenants: &[SampleTenant], window: Duration) -> Measurement {
    generate_load(&env.http, CALLERS, window, |client, caller, number| {
        let tenant = of_caller(tenants, caller);
        let request = json!({ "tenantId": tenant.id, "packageId": tenant.package_id, "basePrice": number + 1 });
        client.call("PackageCatalog/UpsertPackage", request)
    })
}

fn verify_api_key(env: &BenchEnv, tenant: &SampleTenant, window: Duration) -> Measurement {
    generate_load(&env.http, CALLERS, window, |client, _, _| {
        client.call("TenantProvisioning/VerifyApiKey", json!({ "secretKey": tenant.secret_key }))
    })
}
