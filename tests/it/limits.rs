//! What callers can cost, by mistake or on purpose: an answer each, and nobody else's.

use std::time::Duration;

use http::Request as HttpRequest;
use prost::Message as _;
use tokio::{net::TcpStream, task::yield_now};
use tonic::{
    Code, Request, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt as _;
use turnkey::{
    config::ServerSettings,
    grpc::pb::{
        BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, CreateFullyProvisionedRequest,
        GetTenantRequest, PackageUpsert, get_tenant_request::Identifier,
    },
};

use crate::{
    authentication::{Tokens, with},
    cluster::Cluster,
    fixture::{Fixture, ONE_TENANT, bella, channel, reason, settings, violations},
};

pub const CREATE: &str = "/turnkey.v1.TenantProvisioning/CreateFullyProvisioned";

/// Sends bytes as they are, whatever they mean.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

async fn send_bytes(channel: &Channel, bytes: Vec<u8>) -> Code {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    client.unary(Request::new(bytes), CREATE.parse().unwrap(), Bytes).await.unwrap_err().code()
}

#[tokio::test]
async fn bytes_that_are_no_message_and_messages_that_are_too_large_are_refused_by_grpc_itself() {
    let fixture = Fixture::start().await;
    let channel = channel(&fixture.server.address.to_string()).await;
    // A field of 127 bytes of which none comes; a lone surrogate in a text; no wire type at all.
    for bytes in [vec![0x0a, 0x7f], vec![0x0a, 0x03, 0xed, 0xa0, 0x80], vec![0xff; 64]] {
        assert_eq!(send_bytes(&channel, bytes).await, Code::Internal);
    }
    assert_eq!(send_bytes(&channel, vec![0; 5 * 1024 * 1024]).await, Code::ResourceExhausted);
    fixture.create(bella()).await.unwrap();
}

#[tokio::test]
async fn five_hundred_bad_items_at_once_get_an_answer_that_clients_can_read() {
    let fixture = Fixture::start().await;
    let bella = fixture.tenant("bella").await;
    let bad = CreateFullyProvisionedRequest { slug: "-".repeat(2_000), ..Default::default() };
    let batch = BatchCreateFullyProvisionedRequest { requests: vec![bad; 500] };
    let results =
        fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 500);

    let bad = PackageUpsert { name: Some("x".repeat(2_000)), slug: Some("!".repeat(2_000)), ..Default::default() };
    let batch = BatchUpsertPackagesRequest { tenant_id: bella.id, packages: vec![bad; 500] };
    let refused = fixture.catalog.clone().batch_upsert_packages(batch).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(violations(&refused).last().unwrap().0, "…");
    assert!(refused.details().len() <= 6 * 1024);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_caller_that_calls_oftener_than_it_may_is_told_when_to_come_back_and_others_are_not_held_up() {
    let tokens = Tokens::new();
    let (eager, calm) = (tokens.create("eager", &["provisioner"]), tokens.create("calm", &["provisioner"]));
    let limited = ServerSettings { rate_limit_per_caller: Some(5.try_into().unwrap()), ..tokens.settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, limited).await;
    let get = async |token: &str| {
        let identifier = Some(Identifier::Slug("nobody".to_owned()));
        let request = with(GetTenantRequest { identifier }, Some(token));
        fixture.provisioning.clone().get_tenant(request).await.unwrap_err()
    };
    let refused = loop {
        let answer = get(&eager).await;
        if answer.code() != Code::NotFound {
            break answer;
        }
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    let wait = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(200), "{wait:?}");
    assert_eq!(get(&calm).await.code(), Code::NotFound);
}

#[tokio::test]
async fn a_connection_of_age_takes_no_more_calls_and_finishes_those_it_has() {
    let short_lived = ServerSettings { max_connection_age: Duration::from_millis(100), ..settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, short_lived).await;
    let socket = TcpStream::connect(fixture.server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let driving = tokio::spawn(connection);
    // In flight, for its message is still to come.
    let (answer, mut body) = client.send_request(post(CREATE), false).unwrap();
    while let Ok(mut again) = client.clone().ready().await {
        let _ = again.send_request(post("/grpc.health.v1.Health/Check"), true).map(|(answer, _)| tokio::spawn(answer));
        yield_now().await;
    }
    // As gRPC frames it: not compressed, so long.
    let message = bella().encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    body.send_data(frame.into(), true).unwrap();
    let mut answer = answer.await.unwrap();
    while let Some(data) = answer.body_mut().data().await {
        data.unwrap();
    }
    let trailers = answer.body_mut().trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    driving.await.unwrap().unwrap();
}

pub fn post(path: &str) -> HttpRequest<()> {
    let request = HttpRequest::post(format!("http://turnkey{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}
