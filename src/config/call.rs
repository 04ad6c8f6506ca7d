//! The settings of `turnkey call`.

use std::path::PathBuf;

use clap::Args;

use super::{
    ConfigErrors, DEFAULT_LISTEN, FlagsFirst, ServerUrl,
    client::{ClientArgs, ClientSettings},
    setting::Setting,
};

const SERVER: Setting = Setting::new("server", "TURNKEY_SERVER");

#[derive(Clone, Args)]
pub struct CallArgs {
    /// RPC, such as `GetTenant`; without it, the RPCs are listed
    pub rpc: Option<String>,
    /// Fields of the request: `slug=bella-weddings`, `package.name=Elopement` in a nested message, repeated for a list
    #[arg(value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// Request in JSON, `@FILE` to read it from a file, or `-` from standard input; fields are added to it
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
    /// URL of the server [default: `http://127.0.0.1:50051`]
    #[arg(long = SERVER.flag, env = SERVER.variable, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    client: FlagsFirst<ClientArgs>,
}

pub struct CallSettings {
    /// `None` to list the RPCs.
    pub rpc: Option<String>,
    /// `FIELD=VALUE`
    pub fields: Vec<String>,
    pub data: Option<CallData>,
    pub server: ServerUrl,
    pub client: ClientSettings,
}

/// Where the JSON of the request is.
#[derive(Debug, PartialEq, Eq)]
pub enum CallData {
    Text(String),
    File(PathBuf),
    Stdin,
}

impl CallArgs {
    pub fn settings(&self) -> Result<CallSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let default = format!("http://{DEFAULT_LISTEN}");
        let server = errors.check(SERVER, self.server.as_deref().unwrap_or(&default).parse());
        let client = self.client.0.check(&mut errors);
        errors.into_result(|| {
            Some(CallSettings {
                rpc: self.rpc.clone(),
                fields: self.fields.clone(),
                data: self.data.as_deref().map(CallData::parse),
                server: server?,
                client,
            })
        })
    }
}

impl CallData {
    fn parse(text: &str) -> Self {
        match text.strip_prefix('@') {
            _ if text == "-" || text == "@-" => Self::Stdin,
            Some(path) => Self::File(path.into()),
            None => Self::Text(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_a_file_or_standard_input() {
        for (text, expected) in [
            ("-", CallData::Stdin),
            ("@-", CallData::Stdin),
            ("@package.json", CallData::File("package.json".into())),
            ("{}", CallData::Text("{}".to_owned())),
        ] {
            assert_eq!(CallData::parse(text), expected);
        }
    }
}
