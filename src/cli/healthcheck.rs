//! `turnkey healthcheck`

use std::net::SocketAddr;

use super::Error;
use crate::grpc::health;

pub async fn run(address: SocketAddr) -> Result<(), Error> {
    if health::is_serving(&address.to_string()).await? {
        Ok(())
    } else {
        Err(format!("the server at {address} is not serving").into())
    }
}
