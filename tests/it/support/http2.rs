//! HTTP/2 below gRPC, for clients that misbehave.

use http::Request;
use tokio::net::TcpStream;

pub const CREATE_PATH: &str = "/turnkey.v1.TenantProvisioning/CreateFullyProvisioned";

pub fn grpc_post(path: &str) -> Request<()> {
    let request = Request::post(format!("http://turnkey{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// "Rapid reset", CVE-2023-44487: opens streams and resets them at once, so that none of them counts as open. Returns how
/// many streams the server accepted before it sent GOAWAY, at most `limit`.
pub async fn reset_streams(address: &str, limit: usize) -> usize {
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut resets = 0;
    let mut ready = client.ready().await;
    while let Ok(mut client) = ready
        && resets < limit
    {
        let Ok((_response, mut stream)) = client.send_request(grpc_post(CREATE_PATH), false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        resets += 1;
        ready = client.ready().await;
    }
    connection.abort();
    resets
}
