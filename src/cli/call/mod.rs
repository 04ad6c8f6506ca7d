//! `turnkey call`: any RPC from the shell. Requests and responses are protobuf's JSON, as over HTTP; the descriptors
//! are part of the program, so the server needs no reflection.

mod fields;
mod rpcs;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Map, Value};
use turnkey_client::Client;

use self::rpcs::Entry;
pub use self::rpcs::names as rpc_names;
use super::{
    Error, client,
    output::{Stdout, print_message},
};
use crate::{
    config::{CallData, CallSettings},
    error,
    http::json::{self, Rpc},
};

/// Of a call with one response. The server ends it after this time, too.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Exit code 0: the RPC succeeded; 1: it returned an error. An error of this function means that the RPC was not
/// called.
pub async fn run(settings: CallSettings) -> Result<ExitCode, Error> {
    let CallSettings { rpc, fields, data, server, client: credentials } = settings;
    let Some(name) = rpc else {
        rpcs::print_list()?;
        return Ok(ExitCode::SUCCESS);
    };
    let Entry { path, .. } = rpcs::find(&name)?;
    let rpc = json::find_rpc(&path).ok_or_else(|| format!("{name} cannot be called"))?;
    let request = request(rpc, data, &fields)?;
    let request = json::to_protobuf(&rpc.request, request.to_string().as_bytes()).map_err(describe)?;
    let client = client::connect(server, credentials).await?;
    match call(&client, rpc, request).await? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            print_error(&error);
            Ok(ExitCode::from(1))
        }
    }
}

/// The JSON of the request, with the fields of the command line.
fn request(rpc: &Rpc, data: Option<CallData>, fields: &[String]) -> Result<Value, Error> {
    let mut request = match data {
        None => Map::new(),
        Some(data) => {
            let text = read(data)?;
            serde_json::from_str(&text).map_err(|error| format!("the data is not a JSON object: {error}"))?
        }
    };
    fields::set_all(&rpc.request, &mut request, fields)?;
    Ok(Value::Object(request))
}

fn read(data: CallData) -> Result<String, Error> {
    match data {
        CallData::Text(text) => Ok(text),
        CallData::File(path) => {
            fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
        }
        CallData::Stdin => {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map_err(|error| format!("cannot read standard input: {error}"))?;
            Ok(text)
        }
    }
}

/// Calls the RPC and prints its responses: one indented, those of a stream one a line. The inner error is the RPC's.
async fn call(
    client: &Client,
    rpc: &Rpc,
    request: prost_reflect::bytes::Bytes,
) -> Result<Result<(), turnkey_client::Error>, Error> {
    let limit = (!rpc.is_server_streaming).then_some(CALL_TIMEOUT);
    let mut responses = match client.send_raw(&rpc.path, request, limit).await {
        Ok(responses) => responses,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let response = match responses.next().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        let to_json = if rpc.is_server_streaming { json::from_protobuf } else { json::indented_from_protobuf };
        Stdout.write_all(&to_json(&rpc.response, response)?)?;
        Stdout.write_all(b"\n")?;
        Stdout.flush()?;
    }
}

/// Prints code, reason, message, violations and when to retry.
fn print_error(error: &turnkey_client::Error) {
    print_message(format_args!("turnkey: {error}"));
    for violation in error.violations() {
        print_message(format_args!("  {}: {} ({})", violation.field, violation.description, violation.reason));
    }
    if let Some(delay) = error.retry_delay() {
        print_message(format_args!("  retry after {}", humantime::format_duration(delay)));
    }
}

/// An error of the request's JSON, which names the field and not its value.
fn describe(error: error::Error) -> Error {
    match error {
        error::Error::InvalidRequest(violations) => {
            let line =
                |violation: &crate::domain::Violation| format!("{} {}", violation.field, violation.invalid.description);
            violations.as_slice().iter().map(line).collect::<Vec<_>>().join("; ").into()
        }
        error => error.into(),
    }
}
