//! Limits on what one client can cost: message sizes, error sizes, call rates and connection age.

use std::time::Duration;

use prost::Message as _;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, yield_now},
    time::timeout,
};
use tonic::{
    Code, Request, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt as _;
use turnkey::{
    config::{Bounds, ServerSettings},
    grpc::pb::{
        BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, CreateFullyProvisionedRequest,
        GetTenantRequest, PackageUpsert, get_tenant_request::Identifier,
    },
};

use crate::support::{
    fixture::{Fixture, ONE_TENANT, channel, settings},
    http2::{CREATE_PATH, grpc_post},
    requests::{bella, with_bearer},
    responses::{reason, violations},
    tokens::Tokens,
};

/// Sends bytes that need not be a message.
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

async fn send_bytes(channel: &Channel, bytes: Vec<u8>) -> Status {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    client.unary(Request::new(bytes), CREATE_PATH.parse().unwrap(), Bytes).await.unwrap_err()
}

#[tokio::test]
async fn invalid_bytes_and_too_large_messages_are_rejected() {
    let fixture = Fixture::start().await;
    let channel = channel(&fixture.server.address.to_string()).await;
    // A field of 127 bytes without content; an unpaired surrogate in a string; an unknown wire type.
    for bytes in [vec![0x0a, 0x7f], vec![0x0a, 0x03, 0xed, 0xa0, 0x80], vec![0xff; 64]] {
        let status = send_bytes(&channel, bytes).await;
        assert_eq!(status.code(), Code::Internal);
        // Of the decoder. A panic in the service would have the service's own message and details.
        assert!(status.message().starts_with("failed to decode Protobuf message"), "{status:?}");
        assert!(status.get_details_error_info().is_none(), "{status:?}");
    }
    assert_eq!(send_bytes(&channel, vec![0; 5 * 1024 * 1024]).await.code(), Code::ResourceExhausted);
    fixture.create(bella()).await.unwrap();
}

#[tokio::test]
async fn batches_of_500_invalid_items_get_a_response_that_clients_can_read() {
    let fixture = Fixture::start().await;
    let bella = fixture.tenant("bella").await;
    let invalid = CreateFullyProvisionedRequest { slug: "-".repeat(2_000), ..Default::default() };
    let batch = BatchCreateFullyProvisionedRequest { requests: vec![invalid; 500] };
    let results =
        fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 500);

    let invalid = PackageUpsert { name: Some("x".repeat(2_000)), slug: Some("!".repeat(2_000)), ..Default::default() };
    let batch = BatchUpsertPackagesRequest { tenant_id: bella.id, packages: vec![invalid; 500] };
    let error = fixture.catalog.clone().batch_upsert_packages(batch).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(violations(&error).last().unwrap().0, "…");
    assert!(error.details().len() <= 6 * 1024);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_caller_above_its_rate_limit_gets_a_retry_delay_and_other_callers_are_not_affected() {
    let tokens = Tokens::new();
    let (frequent, rare) = (tokens.create("frequent", &["provisioner"]), tokens.create("rare", &["provisioner"]));
    let limited = ServerSettings { rate_limit_per_caller: Some(5.try_into().unwrap()), ..tokens.settings() };
    let fixture = Fixture::with_settings(limited).await;
    let get = async |token: &str| {
        let identifier = Some(Identifier::Slug("unknown".to_owned()));
        let request = with_bearer(GetTenantRequest { identifier }, Some(token));
        fixture.provisioning.clone().get_tenant(request).await.unwrap_err()
    };
    let error = loop {
        let response = get(&frequent).await;
        if response.code() != Code::NotFound {
            break response;
        }
    };
    assert_eq!((error.code(), reason(&error).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    let wait = error.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(200), "{wait:?}");
    assert_eq!(get(&rare).await.code(), Code::NotFound);
}

async fn connect(
    fixture: &Fixture,
) -> (h2::client::SendRequest<prost::bytes::Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let socket = TcpStream::connect(fixture.server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    (client, tokio::spawn(connection))
}

#[tokio::test]
async fn a_connection_past_its_maximum_age_accepts_no_calls_and_finishes_its_open_ones() {
    let short_lived = ServerSettings { max_connection_age: Duration::from_millis(100), ..settings() };
    let fixture = Fixture::with_settings(short_lived).await;
    let (mut client, connection) = connect(&fixture).await;
    // The call is open, because its message has not been sent.
    let (response, mut body) = client.send_request(grpc_post(CREATE_PATH), false).unwrap();
    while let Ok(mut repeated) = client.clone().ready().await {
        let _ = repeated
            .send_request(grpc_post("/grpc.health.v1.Health/Check"), true)
            .map(|(response, _)| tokio::spawn(response));
        yield_now().await;
    }
    // A gRPC frame: not compressed, the length, the message.
    let message = bella().encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    body.send_data(frame.into(), true).unwrap();
    let mut response = response.await.unwrap();
    while let Some(data) = response.body_mut().data().await {
        data.unwrap();
    }
    let trailers = response.body_mut().trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    connection.await.unwrap().unwrap();
}

/// Waits until the server has closed the connection, without GOAWAY if it is an error.
async fn end_of(connection: JoinHandle<Result<(), h2::Error>>) -> Result<(), h2::Error> {
    timeout(Duration::from_secs(20), connection).await.expect("the server closes the connection").unwrap()
}

#[tokio::test]
async fn a_connection_whose_calls_do_not_end_is_closed_some_time_after_its_goaway() {
    let bounds = Bounds {
        message_timeout: Duration::from_mins(10),
        connection_grace: Duration::from_millis(100),
        ..Bounds::default()
    };
    let short_lived = ServerSettings { max_connection_age: Duration::from_millis(100), bounds, ..settings() };
    let fixture = Fixture::with_settings(short_lived).await;
    let (mut client, connection) = connect(&fixture).await;
    let (response, _body) = client.send_request(grpc_post(CREATE_PATH), false).unwrap();
    response.await.unwrap_err();
    let _ = end_of(connection).await;
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_after_goaway_and_one_with_a_health_watch_stays_open() {
    let bounds = Bounds { connection_idle_timeout: Duration::from_millis(300), ..Bounds::default() };
    let fixture = Fixture::with_settings(ServerSettings { bounds, ..settings() }).await;
    let (idle_client, idle) = connect(&fixture).await;
    let mut watch = fixture.health().await.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    // An orderly end: GOAWAY without an error.
    end_of(idle).await.unwrap();
    drop(idle_client);
    let unchanged = timeout(Duration::from_millis(700), async { while watch.message().await.unwrap().is_some() {} });
    unchanged.await.unwrap_err();
}
