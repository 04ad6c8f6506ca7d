//! `turnkey protoset`: the descriptors of the API, for tools such as grpcurl.

use std::io::{self, IsTerminal as _, Write as _};

use super::{Error, output::Stdout};
use crate::grpc::pb;

/// Writes a serialized `google.protobuf.FileDescriptorSet`, comments included, to standard output.
pub fn run() -> Result<(), Error> {
    if io::stdout().is_terminal() {
        return Err(
            "the descriptors are binary: redirect standard output, as in `turnkey protoset > turnkey.binpb`".into()
        );
    }
    Stdout.write_all(pb::DESCRIPTORS)?;
    Ok(Stdout.flush()?)
}
