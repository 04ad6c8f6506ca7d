//! Decides when a stream that would last has to end: with its credential, with its connection, and with the server.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::sleep;
use tonic::Request;

use super::{authenticator::HeldCredential, connection::Connection};
use crate::{error::Error, service::StreamEnd};

/// With the second in which a change of the tokens file is noticed, below the guaranteed 2 s.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Resolves to the error that ends the stream of this request.
pub fn stream_end<Message>(request: &Request<Message>) -> StreamEnd {
    let credential = request.extensions().get::<HeldCredential>().cloned();
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let credential_ended = async move {
        let Some(credential) = credential else { return std::future::pending().await };
        while credential.is_in_force() {
            sleep(CHECK_INTERVAL).await;
        }
    };
    let connection_closing = async move {
        match connection {
            Some(connection) => connection.going_away.cancelled().await,
            None => std::future::pending().await,
        }
    };
    async move {
        tokio::select! {
            () = credential_ended => Error::Unauthenticated,
            () = connection_closing => Error::ConnectionClosing,
        }
    }
    .boxed()
}
