//! The reflection service, in both versions. Their messages are the same.

use tonic::{Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use super::requests::with_bearer;

const VERSIONS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Returns the names of the services that both versions list; each lists itself, too.
pub async fn list_services(channel: &Channel, credential: Option<&str>) -> Result<Vec<String>, Status> {
    let mut listed = Vec::new();
    for path in VERSIONS {
        listed.push(list(channel, path, credential).await);
    }
    let names = |result: &Result<Vec<String>, Status>| result.clone().map_err(|status| status.code());
    assert_eq!(names(&listed[0]), names(&listed[1]));
    listed.swap_remove(0)
}

async fn list(channel: &Channel, path: &str, credential: Option<&str>) -> Result<Vec<String>, Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
    let requests = with_bearer(tokio_stream::iter([request]), credential);
    let mut responses = client.streaming(requests, path.parse().unwrap(), codec).await?.into_inner();
    let response = responses.message().await?.unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = response else { panic!("{response:?}") };
    let names = list.service.into_iter().map(|service| service.name);
    Ok(names.filter(|name| !name.starts_with("grpc.reflection.")).collect())
}
