//! `turnkey healthcheck`

use super::Error;
use crate::{
    config::HealthcheckSettings,
    grpc::health::{self, Tls},
};

pub async fn run(settings: HealthcheckSettings) -> Result<(), Error> {
    let HealthcheckSettings { address, tls } = settings;
    let tls = tls.map(|tls| Tls { ca: tls.ca, server_name: tls.server_name });
    if health::is_serving(&address, tls).await? {
        Ok(())
    } else {
        Err(format!("the server at {address} is not serving").into())
    }
}
