//! The standard `OTEL_*` variables. The OpenTelemetry libraries read them too, but ignore what is invalid or not
//! supported. This file therefore checks every value, and lists the variables that have no effect. `exporters.rs`
//! derives from them what is exported.
//!
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>,
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>

use std::{ffi::OsString, net::IpAddr, str::FromStr};

use http::{HeaderName, Uri};

use super::{ConfigErrors, ExporterSettings, OtlpProtocol, setting::is_host_name};

/// The export that the variables request.
#[derive(Debug, Clone, Default)]
pub struct OpenTelemetrySettings {
    pub exporters: ExporterSettings,
    /// The names of the variables that have no effect, sorted.
    pub unsupported: Vec<String>,
}

/// The names and values of the variables that are set, sorted.
pub(super) struct Variables(pub Vec<(String, String)>);

impl Variables {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(set, _)| set == name).map(|(_, value)| value.as_str())
    }
}

/// `expected` completes "must be …".
#[derive(Clone, Copy)]
struct Format {
    expected: &'static str,
    is_valid: fn(&str) -> bool,
}

const ANY: Format = Format { expected: "a text", is_valid: |_text| true };
const BOOL: Format = Format { expected: "true or false", is_valid: |text| is_one_of(&["true", "false"], text) };
const MILLISECONDS: Format =
    Format { expected: "a whole number of milliseconds", is_valid: |text| text.parse::<u64>().is_ok() };
const POSITIVE_MILLISECONDS: Format =
    Format { expected: "a positive number of milliseconds", is_valid: |text| is_positive::<u64>(text) };
const POSITIVE: Format = Format { expected: "a positive integer", is_valid: |text| is_positive::<usize>(text) };
const LIMIT: Format =
    Format { expected: "an integer from 0 to 4294967295", is_valid: |text| text.parse::<u32>().is_ok() };
const TRACES_EXPORTER: Format = Format {
    expected: "otlp or none: no other exporter is built in",
    is_valid: |text| ["otlp", "none"].contains(&text),
};
const METRICS_EXPORTER: Format = Format {
    expected: "otlp, prometheus, otlp,prometheus or none: no other exporter is built in",
    is_valid: |text| text == "none" || text.split(',').all(|name| ["otlp", "prometheus"].contains(&name.trim())),
};
const ENDPOINT: Format = Format { expected: "a URL such as http://collector:4317", is_valid: is_endpoint };
const HEADERS: Format =
    Format { expected: "a list such as name=value,name2=value2", is_valid: |text| is_list(text, is_header) };
const ATTRIBUTES: Format =
    Format { expected: "a list such as key=value,key2=value2", is_valid: |text| is_list(text, |key| !key.is_empty()) };
const COMPRESSION: Format = Format { expected: "gzip or none", is_valid: |text| is_one_of(&["gzip", "none"], text) };
const PROTOCOL: Format =
    Format { expected: "grpc, http/protobuf or http/json", is_valid: |text| text.parse::<OtlpProtocol>().is_ok() };
const HOST: Format = Format {
    expected: "an IP address or a host name",
    is_valid: |text| text.parse::<IpAddr>().is_ok() || is_host_name(text),
};
const PORT: Format =
    Format { expected: "a port from 0 to 65535; 0 selects a free port", is_valid: |text| text.parse::<u16>().is_ok() };
const TEMPORALITY: Format = Format {
    expected: "cumulative, delta or lowmemory",
    is_valid: |text| is_one_of(&["cumulative", "delta", "lowmemory"], text),
};
const SAMPLER: Format = Format {
    expected: "always_on, always_off, traceidratio or one of these after parentbased_",
    is_valid: |text| {
        ["always_on", "always_off", "traceidratio"].contains(&text.strip_prefix("parentbased_").unwrap_or(text))
    },
};
const RATIO: Format = Format {
    expected: "a number from 0 to 1",
    is_valid: |text| text.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)),
};

/// Variables of the exporter, after the prefix for all signals or for one.
const EXPORTER_VARIABLES: [(&str, Format); 6] = [
    ("ENDPOINT", ENDPOINT),
    ("HEADERS", HEADERS),
    ("TIMEOUT", MILLISECONDS),
    ("COMPRESSION", COMPRESSION),
    ("PROTOCOL", PROTOCOL),
    ("INSECURE", BOOL),
];
const EXPORTER_PREFIXES: [&str; 3] =
    ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_"];

/// All other variables that have an effect.
const VARIABLES: [(&str, Format); 17] = [
    ("OTEL_SDK_DISABLED", BOOL),
    ("OTEL_SERVICE_NAME", ANY),
    ("OTEL_RESOURCE_ATTRIBUTES", ATTRIBUTES),
    ("OTEL_TRACES_EXPORTER", TRACES_EXPORTER),
    ("OTEL_METRICS_EXPORTER", METRICS_EXPORTER),
    ("OTEL_TRACES_SAMPLER", SAMPLER),
    ("OTEL_TRACES_SAMPLER_ARG", RATIO),
    ("OTEL_BSP_SCHEDULE_DELAY", MILLISECONDS),
    ("OTEL_BSP_MAX_QUEUE_SIZE", POSITIVE),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", POSITIVE),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", LIMIT),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", LIMIT),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", LIMIT),
    ("OTEL_METRIC_EXPORT_INTERVAL", POSITIVE_MILLISECONDS),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", TEMPORALITY),
    ("OTEL_EXPORTER_PROMETHEUS_HOST", HOST),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", PORT),
];

/// Values of unsupported variables that request what Turnkey does anyway.
const INHERENT: [(&str, &str); 3] = [
    ("OTEL_LOGS_EXPORTER", "none"),
    ("OTEL_PROPAGATORS", "tracecontext"),
    ("OTEL_PROPAGATORS", "tracecontext,baggage"),
];

impl OpenTelemetrySettings {
    /// An empty variable counts as unset.
    pub(super) fn from_environment(errors: &mut ConfigErrors) -> Self {
        Self::from_variables(std::env::vars_os(), errors)
    }

    fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>, errors: &mut ConfigErrors) -> Self {
        let mut set = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("OTEL_")) else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => set.push((name.to_owned(), value)),
                Err(_invalid) => errors.add(name, "must be UTF-8"),
            }
        }
        set.sort();
        let mut unsupported = Vec::new();
        for (name, value) in &set {
            match format(name) {
                Some(format) if !(format.is_valid)(value) => errors.add(name, format!("must be {}", format.expected)),
                None if !INHERENT.contains(&(name, value)) => unsupported.push(name.clone()),
                _ => {}
            }
        }
        let exporters = ExporterSettings::from_variables(&Variables(set), errors);
        Self { exporters, unsupported }
    }
}

/// Returns `None` for a variable that has no effect.
fn format(name: &str) -> Option<Format> {
    let format_in = |variables: &[(&str, Format)], name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    };
    let exporter_variable = EXPORTER_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    format_in(&VARIABLES, name).or_else(|| format_in(&EXPORTER_VARIABLES, exporter_variable?))
}

fn is_one_of(words: &[&str], text: &str) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn is_positive<T: FromStr + Default + PartialOrd>(text: &str) -> bool {
    text.parse::<T>().is_ok_and(|number| number > T::default())
}

/// The scheme may be missing: `OTEL_EXPORTER_OTLP_INSECURE` then decides.
fn is_endpoint(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        uri.host().is_some_and(|host| !host.is_empty()) && matches!(uri.scheme_str(), None | Some("http" | "https"))
    })
}

fn is_header(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

fn is_list(text: &str, is_key: fn(&str) -> bool) -> bool {
    text.split_terminator(',').all(|entry| entry.split_once('=').is_some_and(|(key, _)| is_key(key.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> (OpenTelemetrySettings, String) {
        let mut errors = ConfigErrors::default();
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let settings = OpenTelemetrySettings::from_variables(variables, &mut errors);
        (settings, errors.to_string())
    }

    #[test]
    fn every_invalid_value_is_reported() {
        for (name, valid, invalid) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", "ftp://collector"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317", "http://"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "api-key=a%20b, x=y,", "api-key"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000", "10s"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "zstd"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none", "br"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "http/xml"),
            ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "TRUE", "yes"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta", "sum"),
            ("OTEL_TRACES_EXPORTER", "none", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "otlp, prometheus", "prometheus,none"),
            ("OTEL_EXPORTER_PROMETHEUS_HOST", "::1", "http://localhost"),
            ("OTEL_EXPORTER_PROMETHEUS_PORT", "0", "65536"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio", "xray"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25", "25%"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "2048", "0"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "60000", "1m"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "128", "-1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=a,b=", "=a"),
            ("OTEL_SDK_DISABLED", "false", "1"),
        ] {
            let (settings, errors) = settings(&[(name, valid)]);
            assert!(!errors.contains(name) && settings.unsupported.is_empty(), "{name}={valid}: {errors}");
            let (_, errors) = self::settings(&[(name, invalid)]);
            assert!(errors.contains(&format!("{name}: must be ")), "{name}={invalid}: {errors}");
            let (settings, errors) = self::settings(&[(name, "")]);
            assert!(!errors.contains(name) && settings.unsupported.is_empty(), "{name} is empty: {errors}");
        }
    }

    #[test]
    fn variables_without_an_effect_are_listed() {
        let (settings, errors) = settings(&[
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "30000"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_EXPORTER_OTLP_ENDPIONT", "http://collector:4317"),
            ("OTEL_SERVICE_NAME", "turnkey"),
            ("TURNKEY_LISTEN", "127.0.0.1:0"),
        ]);
        assert_eq!(
            settings.unsupported,
            [
                "OTEL_BSP_EXPORT_TIMEOUT",
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
                "OTEL_EXPORTER_OTLP_ENDPIONT",
                "OTEL_LOGS_EXPORTER",
                "OTEL_PROPAGATORS",
            ]
        );
        assert!(!errors.contains("OTEL_"), "{errors}");
        let (settings, _) = self::settings(&INHERENT);
        assert!(settings.unsupported.is_empty(), "{:?}", settings.unsupported);
    }
}
